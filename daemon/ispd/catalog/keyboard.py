"""QMK keyboard metadata: which part and which bootloader a keyboard has.

Keys and values are those of qmk_firmware's ``data/schemas/keyboard.jsonschema``; what the development boards stand for is in its
``data/mappings/defaults.hjson``; variables of ``rules.mk`` are in its ``docs/config_options.md``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from ispd.errors import ErrorCode, Facts, RefusedError

__all__ = ["Keyboard", "read_keyboard"]

_MAX_BYTES = 1 << 20  # the longest in qmk_firmware has under 100 KiB
_PROGRAMMED = (
    "atmega",
    "at90",
    "attiny",
    "stm32f103",
)  # AT32 is an ARM; other STM32 are reached through their own USB only
_HINT = "name the keyboard.json, info.json or rules.mk that has the controller, or use --part and --bootloader"
_NO_BOOTLOADER = ("custom", "unknown")  # QMK's words for "not one of those we know"


@dataclass(frozen=True, slots=True)
class Keyboard:
    """What a keyboard's metadata says about its controller. ``bootloader`` is QMK's name, None where it says none."""

    part: str
    bootloader: str | None
    notes: tuple[str, ...] = ()


class _Metadata(msgspec.Struct, kw_only=True):
    processor: str | None = None
    bootloader: str | None = None
    development_board: str | None = None


_BOARDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "promicro": ("atmega32u4", "caterina"),
        "elite_c": ("atmega32u4", "atmel-dfu"),
        "bluepill": ("STM32F103", "stm32duino"),
        "proton_c": ("STM32F303", "stm32-dfu"),
        "blackpill_f401": ("STM32F401", "stm32-dfu"),
        "blackpill_f411": ("STM32F411", "stm32-dfu"),
        "bonsai_c4": ("STM32F411", "stm32-dfu"),
        **dict.fromkeys(
            ("kb2040", "promicro_rp2040", "elite_pi", "liatris", "helios", "blok", "bit_c_pro", "michi", "imera"),
            ("RP2040", "rp2040"),
        ),
    }
)

# NAME = value, with :=, ?= and the rest of make's assignments, perhaps behind `export` or `override`
_ASSIGNMENT = re.compile(r"(?:(?:export|override)\s+)*([A-Z_]+)\s*(:{0,3}=|\?=|\+=|!=)\s*(.*)")
_CONDITION = re.compile(r"(ifeq|ifneq|ifdef|ifndef)\b|endif\b")
_WANTED = ("MCU", "BOOTLOADER", "CONVERT_TO")


def read_keyboard(name: str, content: bytes) -> Keyboard:
    """Read a ``keyboard.json``, ``info.json`` or ``rules.mk``.

    Raises ``RefusedError`` (recipe-invalid): not such a file, or it names no controller (QMK merges the files of several
    folder levels; this one may hold only the rest), or none that a programmer here reaches.
    """
    if len(content) > _MAX_BYTES:
        raise _invalid(f"{name} is too long for a keyboard's metadata")
    is_json = name.lower().endswith(".json") or content.lstrip().startswith(b"{")
    metadata = _read_json(name, content) if is_json else _read_rules(name, content)
    board = (metadata.development_board or "").lower()
    part, bootloader = _BOARDS.get(board, (None, None))
    part = metadata.processor or part
    bootloader = metadata.bootloader or bootloader
    if part is None:
        known = f"; {metadata.development_board!r} is not a board it is known for" if board else ""
        raise _invalid(f"{name} names no processor{known}")
    if not part.lower().startswith(_PROGRAMMED):
        raise _invalid(
            f"{name}: the controller {part} is neither an AVR nor an STM32F103, so no programmer here reaches it",
            hint="leave the keyboard out; where the controller's own bootloader takes the firmware: --bootloader and --chain-only; or name another --part",
        )
    notes: tuple[str, ...] = ()
    if bootloader is None or bootloader.lower() in _NO_BOOTLOADER:
        notes = (f"{name} names no bootloader of the catalog, so it sets no fuses",)
        bootloader = None
    return Keyboard(part.lower(), bootloader, notes)


def _read_json(name: str, content: bytes) -> _Metadata:
    try:
        return msgspec.json.decode(content, type=_Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"{name} is no QMK keyboard metadata: {error}") from error


def _read_rules(name: str, content: bytes) -> _Metadata:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"{name} is no rules.mk: {error}") from error
    values: dict[str, str] = {}
    for variable, operator, value, is_conditional in _assignments(text):
        if variable not in _WANTED or (operator == "?=" and variable in values):
            continue
        is_plain = operator in ("=", ":=", "::=", ":::=", "?=") and "$" not in value
        # inside a condition a value counts only where it says nothing new
        if not is_plain or (is_conditional and values.get(variable) != value):
            raise _invalid(f"{name}: {variable} is not one plain value")
        values[variable] = value
    board = values.get("CONVERT_TO", "").lower()
    # a converter replaces the controller that the keyboard was designed for
    converted = _BOARDS.get(board)
    if board and converted is None:
        raise _invalid(f"{name}: CONVERT_TO {board!r} is not a board it is known for")
    part, bootloader = converted or (values.get("MCU"), values.get("BOOTLOADER"))
    return _Metadata(processor=part or None, bootloader=bootloader or None)


def _assignments(text: str) -> Iterator[tuple[str, str, str, bool]]:
    """Yield variable, operator, value and whether it stands in a condition, for each assignment of a makefile."""
    depth = 0
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        statement = line.partition("#")[0].strip()
        condition = _CONDITION.match(statement)
        if condition is not None:
            depth = max(0, depth - 1) if condition.group(1) is None else depth + 1
            continue
        found = _ASSIGNMENT.fullmatch(statement)
        if found is not None:
            yield found.group(1), found.group(2), found.group(3).strip(), depth > 0


def _invalid(message: str, *, hint: str = _HINT) -> RefusedError:
    return RefusedError(
        ErrorCode.RECIPE_INVALID,
        message,
        hint=hint,
        facts=Facts(field="keyboard"),
    )
