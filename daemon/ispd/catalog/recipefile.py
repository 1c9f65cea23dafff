"""Recipe files: a job written down, with the digests of its images. The keys are explained in config/examples."""

import hashlib
import re
import tomllib
from collections.abc import Mapping

import msgspec

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.part import MemoryKind
from ispd.model.recipe import ClonePolicy, PlanKind, VerifyScope

__all__ = ["read_recipe", "recipe_files"]

_MAX_BYTES = 1 << 16
"""A recipe is a page of text; the images come beside it."""

_MAX_LINE_BYTES = 2000
"""A file's name takes up to half of it. Reading a key of n dots costs n * n: a whole page of them would take 14 seconds."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    file: str
    sha256: str | None = None
    base: int | None = None


class _Fuses(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    lfuse: int | None = None
    hfuse: int | None = None
    efuse: int | None = None


class _OptionBytes(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    user: int | None = None
    data0: int | None = None
    data1: int | None = None
    wrp0: int | None = None
    wrp1: int | None = None
    wrp2: int | None = None
    wrp3: int | None = None

    def named(self) -> dict[MemoryKind, int]:
        """Return those that the recipe names."""
        return {MemoryKind(name): value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class _Recipe(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    part: str | None = None
    bootloader: str | None = None
    plan: PlanKind | None = None
    image: list[_File] = []
    eeprom: _File | None = None
    fuses: _Fuses = msgspec.field(default_factory=_Fuses)
    option_bytes: _OptionBytes = msgspec.field(default_factory=_OptionBytes)
    lock: int | None = None
    erase: bool = True
    keep_rest: bool = False
    unlock: bool = False
    clones: ClonePolicy | None = None
    verify: VerifyScope | None = None
    strip_sketch: bool = False
    accept_fuses: bool = False
    sck_hz: int | None = None
    supply_mv: int | None = None


def recipe_files(name: str, content: bytes) -> tuple[str, ...]:
    """Return the names of the files a recipe needs, as written in it, each once.

    Raises ``RefusedError`` (recipe-invalid) naming the key that is wrong.
    """
    recipe = _decode(name, content)
    files = [*recipe.image, *([recipe.eeprom] if recipe.eeprom is not None else [])]
    return tuple(dict.fromkeys(file.file for file in files))


def read_recipe(name: str, content: bytes, files: Mapping[str, bytes]) -> RecipeOptions:
    """Read a recipe file.

    :param files: content of each file of :func:`recipe_files`, by the name written in the recipe; the caller found them,
        relative to the recipe's own folder.
    Raises ``RefusedError``: recipe-invalid naming the key that is wrong or the file that is missing, checksum-mismatch.
    """
    recipe = _decode(name, content)
    return RecipeOptions(
        files=tuple(_take(name, file, files) for file in recipe.image),
        eeprom=None if recipe.eeprom is None else _take(name, recipe.eeprom, files),
        plan=recipe.plan,
        part=recipe.part,
        bootloader=recipe.bootloader,
        lfuse=recipe.fuses.lfuse,
        hfuse=recipe.fuses.hfuse,
        efuse=recipe.fuses.efuse,
        lock=recipe.lock,
        option_bytes=recipe.option_bytes.named(),
        erase=recipe.erase,
        keeps_rest=recipe.keep_rest,
        unlock=recipe.unlock,
        clones=recipe.clones,
        verify=recipe.verify,
        strip_sketch=recipe.strip_sketch,
        accept_fuses=recipe.accept_fuses,
        sck_hz=recipe.sck_hz,
        supply_mv=recipe.supply_mv,
    )


def _decode(name: str, content: bytes) -> _Recipe:
    hint = "the keys of a recipe are explained in config/examples/board.toml"
    if len(content) > _MAX_BYTES:
        raise RefusedError(ErrorCode.RECIPE_INVALID, f"recipe {name} has more than {_MAX_BYTES} bytes", hint=hint)
    if any(len(line) > _MAX_LINE_BYTES for line in content.splitlines()):
        message = f"recipe {name} has a line of more than {_MAX_LINE_BYTES} bytes"
        raise RefusedError(ErrorCode.RECIPE_INVALID, message, hint=hint)
    try:
        return msgspec.convert(tomllib.loads(content.decode("utf-8")), _Recipe)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise RefusedError(ErrorCode.RECIPE_INVALID, f"recipe {name}: {error}", hint=hint) from error


def _take(name: str, wanted: _File, files: Mapping[str, bytes]) -> NamedBytes:
    if wanted.file not in files:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            f"recipe {name} needs {wanted.file}, which did not come with it",
            hint="put the file where the recipe says, relative to the recipe",
            facts=Facts(field="file"),
        )
    content = files[wanted.file]
    if wanted.sha256 is not None:
        _check_digest(name, wanted.file, wanted.sha256, content)
    return NamedBytes(wanted.file, content, wanted.base)


def _check_digest(name: str, file: str, wanted: str, content: bytes) -> None:
    if not _SHA256.fullmatch(wanted):
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            f"recipe {name}: sha256 of {file} is not 64 lower-case hex digits",
            facts=Facts(field="sha256"),
        )
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise RefusedError(
            ErrorCode.CHECKSUM_MISMATCH,
            f"{file} is not the file recipe {name} was written for: its SHA-256 is {found}, not {wanted}",
            hint="get the right file, or put the new digest into the recipe",
            facts=Facts(field="sha256"),
        )
