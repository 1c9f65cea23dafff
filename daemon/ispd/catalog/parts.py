"""The parts: one file each in ``parts/``, checked at load.

An AVR's figures come from the parts' data sheets (memory programming and fuse chapters) and avrdude's configuration; those of an
STM32F1 from its reference and flash programming manuals.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from ispd.catalog.avr_partfile import AvrFile, Tables, avr_part
from ispd.catalog.datafile import decode_toml, named_files, shipped_file
from ispd.catalog.stm32_partfile import Stm32File, stm32_part
from ispd.errors import ConfigError, ErrorCode, RefusedError
from ispd.model.part import AvrPart, Part, Signature

__all__ = ["Parts", "load_parts"]

P = TypeVar("P", bound=Part)


@dataclass(frozen=True, slots=True)
class Parts:
    """All known parts, sorted by id. Immutable."""

    _by_id: Mapping[str, Part]

    def __iter__(self) -> Iterator[Part]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, name: str) -> Part:
        """Return a part by any of its names, in any letter case.

        Raises ``RefusedError`` (unknown-part) naming parts that are written alike.
        """
        wanted = name.strip().lower()
        found = self._by_id.get(wanted) or next((part for part in self if wanted in part.names), None)
        if found is not None:
            return found
        near = get_close_matches(wanted, [name for part in self for name in part.names], n=4, cutoff=0.5)
        known = dict.fromkeys(self.get(match).id for match in near)
        raise RefusedError(
            ErrorCode.UNKNOWN_PART,
            f"there is no part called {name!r} in the catalog",
            hint=f"did you mean {', '.join(known)}?" if known else "`ispctl parts` lists what there is",
        )

    def avr(self, name: str) -> AvrPart:
        """Return an AVR by name. Raises ``RefusedError`` (unknown-part), also for a part that is none."""
        part = self.get(name)
        if isinstance(part, AvrPart):
            return part
        raise RefusedError(
            ErrorCode.UNKNOWN_PART, f"{part.name} is not an AVR", hint="`ispctl parts` lists what there is"
        )

    def of(self, kind: type[P]) -> tuple[P, ...]:
        """Return every part of one kind, sorted by id."""
        return tuple(part for part in self if isinstance(part, kind))

    def by_signature(self, signature: Signature, kind: type[P]) -> tuple[P, ...]:
        """Return every part of a kind with this signature: none, one, or twins, sorted by id."""
        return tuple(part for part in self.of(kind) if part.signature == signature)


def load_parts(overlay: Path | None = None) -> Parts:
    """Return the shipped parts, with those of the ``overlay`` folder added or put in their place.

    Raises ``ConfigError`` naming the file and the failed check.
    """
    return _shipped_parts() if overlay is None else _load(overlay)


@cache
def _shipped_parts() -> Parts:
    return _load(None)


def _load(overlay: Path | None) -> Parts:
    tables = decode_toml("tables.toml", shipped_file("tables.toml"), Tables)
    found: dict[str, Part] = {}
    for stem, content in named_files("parts", overlay):
        found[stem] = _part(stem, content, tables)
    _check_unique(found)
    _check_twins(found)
    twins: dict[Signature, list[str]] = {}
    for key in sorted(found):
        twins.setdefault(found[key].signature, []).append(key)
    return Parts(
        MappingProxyType(
            {
                key: replace(found[key], twins=tuple(t for t in twins[found[key].signature] if t != key))
                for key in sorted(found)
            }
        )
    )


def _part(stem: str, content: bytes, tables: Tables) -> Part:
    name = f"parts/{stem}.toml"
    # an AVR's file says nothing of its interface
    if "interface" in decode_toml(name, content, dict):
        return stm32_part(stem, decode_toml(name, content, Stm32File))
    return avr_part(stem, decode_toml(name, content, AvrFile), tables)


def _check_unique(found: Mapping[str, Part]) -> None:
    names = [name for part in found.values() for name in part.names]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ConfigError(f"catalog folder parts: {', '.join(sorted(doubled))} names more than one part")


def _check_twins(found: Mapping[str, Part]) -> None:
    """Parts of one signature cannot be told apart on the bench, so what is written to one must suit the other."""
    seen: dict[Signature, Part] = {}
    for _, part in sorted(found.items()):
        twin = seen.setdefault(part.signature, part)
        if _layout(part) != _layout(twin):
            raise ConfigError(
                f"catalog folder parts: {twin.id} and {part.id} have the signature {part.signature} but not the same"
                " memories and fuse bits"
            )


def _layout(part: Part) -> tuple[object, ...]:
    masks = tuple((fuse.memory, fuse.mask) for fuse in part.fuses)
    boot = part.boot if isinstance(part, AvrPart) else None
    return part.memories, masks, dict(part.bits), part.lock_mask, boot
