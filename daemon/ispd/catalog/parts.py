"""The parts: one file each in ``parts/``, checked at load.

Figures come from the parts' data sheets (memory programming and fuse chapters) and avrdude's configuration.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from ispd.catalog.datafile import decode_toml, named_files, shipped_file
from ispd.catalog.partfile import FUSES, PartFile, Tables, problems_of
from ispd.errors import ConfigError, ErrorCode, RefusedError
from ispd.model.part import AvrPart, BootSection, FuseBits, FuseByte, PagedMemory, Part, Signature, WriteTimes

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
        found[stem] = _part(stem, decode_toml(f"parts/{stem}.toml", content, PartFile), tables)
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


def _part(stem: str, data: PartFile, tables: Tables) -> AvrPart:
    problems = problems_of(stem, data, tables)
    if problems:
        raise ConfigError(f"catalog file parts/{stem}.toml: {'; '.join(problems)}")
    bits = {name: FuseBits(name, kind, mask) for kind, fuse in data.fuses.items() for name, mask in fuse.bits.items()}
    order = [kind for kind in FUSES if kind in data.fuses]
    return AvrPart(
        id=stem,
        name=data.name,
        avrdude_id=data.avrdude_id,
        signature=Signature(data.signature.to_bytes(3, "big")),
        flash=PagedMemory(data.flash_bytes, data.flash_page_bytes),
        eeprom=PagedMemory(data.eeprom_bytes, data.eeprom_page_bytes, data.eeprom_is_paged),
        needs_extended_address=data.needs_extended_address,
        has_ready_poll=data.has_ready_poll,
        times=WriteTimes(
            flash_s=data.flash_write_us / 1e6,
            eeprom_s=data.eeprom_write_us / 1e6,
            erase_s=data.erase_us / 1e6,
            fuse_s=data.fuse_write_us / 1e6,
        ),
        fuses=tuple(FuseByte(kind, data.fuses[kind].factory, data.fuses[kind].mask) for kind in order),
        lock_mask=data.lock_mask,
        bits=MappingProxyType(bits),
        clock=tuple(tables.clock[data.clock]),
        bod_mv=tuple(tables.brown_out[data.brown_out]),
        boot=None if data.boot_min_bytes is None else BootSection(bits["bootsz"], data.boot_min_bytes),
        isp_pins=data.isp_pins,
        stk500_code=data.stk500_code,
        note=data.note,
        factory_variants=tuple(tuple(variant[kind] for kind in order) for variant in data.factory_variants),
    )


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
