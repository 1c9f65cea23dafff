"""What the part files of all families have in common. Each family has its own shape and its own checks.

A part that is wrong in the catalog is a board that is wrong on the bench, so every check says what it found under its name.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec

from ispd.errors import ConfigError
from ispd.model.part import FuseBits, FuseByte, MemoryKind

__all__ = ["FuseFile", "bit_problems", "bits_of", "byte_problems", "bytes_of", "refuse_wrong"]

_BYTE = 0xFF

T = TypeVar("T")


class FuseFile(msgspec.Struct, forbid_unknown_fields=True):
    """One fuse or option byte: factory value, bits that exist, and the names of those that have one."""

    factory: int
    mask: int
    bits: dict[str, int] = {}


def refuse_wrong(stem: str, data: T, checks: Mapping[str, Callable[[str, T], Iterator[str]]]) -> None:
    """Raise ``ConfigError`` with everything that ``checks`` have against a part file, each under the name of its check."""
    problems = [f"{name}: {problem}" for name, check in checks.items() for problem in check(stem, data)]
    if problems:
        raise ConfigError(f"catalog file parts/{stem}.toml: {'; '.join(problems)}")


def bit_problems(fuses: Mapping[MemoryKind, FuseFile], known: frozenset[str]) -> Iterator[str]:
    """Yield what is wrong with the bit groups of bytes; where a byte has any, they add up to its mask.

    :param known: names that the rest of the catalog knows. Another one would be a bit that nobody guards.
    """
    names = [name for fuse in fuses.values() for name in fuse.bits]
    if len(names) != len(set(names)):
        yield "a fuse bit name stands twice"
    for unknown in sorted(set(names) - known):
        yield f"there are no fuse bits called {unknown!r}"
    for kind, fuse in fuses.items():
        taken = 0
        for name, mask in fuse.bits.items():
            if not 0 < mask <= _BYTE or not _is_run(mask):
                yield f"{name} of {kind} is not one run of bits"
            if taken & mask:
                yield f"{name} of {kind} overlaps another group"
            taken |= mask
        if fuse.bits and taken != fuse.mask:
            yield f"the bits of {kind} do not add up to its mask"


def byte_problems(fuses: Mapping[MemoryKind, FuseFile]) -> Iterator[str]:
    """Yield what is no byte."""
    for kind, fuse in fuses.items():
        if not (0 <= fuse.factory <= _BYTE and 0 <= fuse.mask <= _BYTE):
            yield f"{kind} is not a byte"


def _is_run(mask: int) -> bool:
    low = mask & -mask
    return (mask + low) & mask == 0


def bits_of(fuses: Mapping[MemoryKind, FuseFile]) -> Mapping[str, FuseBits]:
    """Return every named bit group."""
    found = {name: FuseBits(name, kind, mask) for kind, fuse in fuses.items() for name, mask in fuse.bits.items()}
    return MappingProxyType(found)


def bytes_of(fuses: Mapping[MemoryKind, FuseFile], order: tuple[MemoryKind, ...]) -> tuple[FuseByte, ...]:
    """Return the bytes that there are, in the order of ``order``."""
    return tuple(FuseByte(kind, fuses[kind].factory, fuses[kind].mask) for kind in order if kind in fuses)
