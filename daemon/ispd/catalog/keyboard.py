"""QMK keyboard metadata: which part and which bootloader a keyboard has.

Keys and values are those of qmk_firmware's ``data/schemas/keyboard.jsonschema``; what the AVR development boards stand for
is in its ``data/mappings/defaults.hjson``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from ispd.errors import ErrorCode, Facts, RefusedError

__all__ = ["Keyboard", "read_keyboard"]

_MAX_BYTES = 1 << 20  # the longest in qmk_firmware has under 100 KiB


@dataclass(frozen=True, slots=True)
class Keyboard:
    """What a keyboard's metadata says about its controller. ``bootloader`` is QMK's name, None where it says none."""

    part: str
    bootloader: str | None


class _Metadata(msgspec.Struct, kw_only=True):
    processor: str | None = None
    bootloader: str | None = None
    development_board: str | None = None


_BOARDS: Mapping[str, Keyboard] = MappingProxyType(
    {
        "promicro": Keyboard("atmega32u4", "caterina"),
        "elite_c": Keyboard("atmega32u4", "atmel-dfu"),
    }
)


def read_keyboard(name: str, content: bytes) -> Keyboard:
    """Read a ``keyboard.json`` or ``info.json``.

    Raises ``RefusedError`` (recipe-invalid): not such a file, or it names no controller (QMK merges the files of several
    folder levels; this one may hold only the rest).
    """
    if len(content) > _MAX_BYTES:
        raise _invalid(f"{name} is too long for a keyboard's metadata")
    try:
        metadata = msgspec.json.decode(content, type=_Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(f"{name} is no QMK keyboard metadata: {error}") from error
    board = _BOARDS.get((metadata.development_board or "").lower())
    part = metadata.processor or (board.part if board is not None else None)
    if part is None:
        raise _invalid(f"{name} names no processor")
    return Keyboard(part.lower(), metadata.bootloader or (board.bootloader if board is not None else None))


def _invalid(message: str) -> RefusedError:
    return RefusedError(
        ErrorCode.RECIPE_INVALID,
        message,
        hint="name the keyboard.json or info.json that has the key processor, or use --part and --bootloader",
        facts=Facts(field="keyboard"),
    )
