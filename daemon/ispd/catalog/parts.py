"""The parts: one file each in ``parts/``, checked at load.

Figures come from the parts' data sheets (memory programming and fuse chapters) and avrdude's configuration.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType

import msgspec

from ispd.catalog.datafile import decode_toml, named_files, shipped_file
from ispd.errors import ConfigError, ErrorCode, RefusedError
from ispd.model.part import (
    BootSection,
    ClockSource,
    FuseBits,
    FuseByte,
    MemoryKind,
    PagedMemory,
    Part,
    Signature,
    WriteTimes,
)

__all__ = ["Parts", "load_parts"]

_FUSES = (MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE)
_ALL_BITS = 0xFF


class _FuseFile(msgspec.Struct, forbid_unknown_fields=True):
    factory: int
    mask: int
    bits: dict[str, int]


class _PartFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str
    avrdude_id: str
    signature: int
    flash_bytes: int
    flash_page_bytes: int
    flash_pages: int
    eeprom_bytes: int
    eeprom_page_bytes: int
    eeprom_is_paged: bool
    needs_extended_address: bool
    has_ready_poll: bool
    flash_write_us: int
    eeprom_write_us: int
    erase_us: int
    fuse_write_us: int
    lock_mask: int
    clock: str
    brown_out: str
    isp_pins: tuple[str, str, str]
    stk500_code: int
    fuses: dict[MemoryKind, _FuseFile]
    boot_min_bytes: int | None = None
    factory_variants: list[dict[MemoryKind, int]] = []
    note: str = ""


class _Tables(msgspec.Struct, forbid_unknown_fields=True):
    clock: dict[str, list[ClockSource]]
    brown_out: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Parts:
    """All known parts, sorted by id. Immutable."""

    _by_id: Mapping[str, Part]

    def __iter__(self) -> Iterator[Part]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, name: str) -> Part:
        """Return a part by id, data sheet name or avrdude id, in any letter case.

        Raises ``RefusedError`` (unknown-part) naming parts that are written alike.
        """
        wanted = name.strip().lower()
        found = self._by_id.get(wanted) or next((part for part in self if part.avrdude_id == wanted), None)
        if found is not None:
            return found
        near = get_close_matches(
            wanted, [name for part in self for name in (part.id, part.avrdude_id)], n=4, cutoff=0.5
        )
        known = dict.fromkeys(self.get(match).id for match in near)
        raise RefusedError(
            ErrorCode.UNKNOWN_PART,
            f"there is no part called {name!r} in the catalog",
            hint=f"did you mean {', '.join(known)}?" if known else "`ispctl parts` lists what there is",
        )

    def by_signature(self, signature: Signature) -> tuple[Part, ...]:
        """Return every part with this signature: none, one, or twins, sorted by id."""
        return tuple(part for part in self if part.signature == signature)


def load_parts(overlay: Path | None = None) -> Parts:
    """Return the shipped parts, with those of the ``overlay`` folder added or put in their place.

    Raises ``ConfigError`` naming the file and the failed check.
    """
    return _shipped_parts() if overlay is None else _load(overlay)


@cache
def _shipped_parts() -> Parts:
    return _load(None)


def _load(overlay: Path | None) -> Parts:
    tables = decode_toml("tables.toml", shipped_file("tables.toml"), _Tables)
    found: dict[str, Part] = {}
    for stem, content in named_files("parts", overlay):
        found[stem] = _part(stem, decode_toml(f"parts/{stem}.toml", content, _PartFile), tables)
    _check_unique(found)
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


def _part(stem: str, data: _PartFile, tables: _Tables) -> Part:
    problems = [problem for check in _CHECKS for problem in check(stem, data, tables)]
    if problems:
        raise ConfigError(f"catalog file parts/{stem}.toml: {'; '.join(problems)}")
    bits = {name: FuseBits(name, kind, mask) for kind, fuse in data.fuses.items() for name, mask in fuse.bits.items()}
    order = [kind for kind in _FUSES if kind in data.fuses]
    return Part(
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


def _check_names(stem: str, data: _PartFile, _tables: _Tables) -> Iterator[str]:
    if data.name.lower() != stem:
        yield f"name {data.name!r} does not belong to the file name"
    if data.avrdude_id != data.avrdude_id.lower() or not data.avrdude_id:
        yield "avrdude_id is not lower case"
    if not 0 < data.signature < 1 << 24:
        yield "signature is not three bytes"


def _check_memories(_stem: str, data: _PartFile, _tables: _Tables) -> Iterator[str]:
    if min(data.flash_bytes, data.flash_page_bytes, data.eeprom_bytes, data.eeprom_page_bytes) < 1:
        yield "a memory has no bytes"
    elif data.eeprom_bytes % data.eeprom_page_bytes:
        yield "EEPROM is not whole pages"
    if data.flash_page_bytes * data.flash_pages != data.flash_bytes:
        yield "flash_page_bytes times flash_pages is not flash_bytes"
    # the instruction set reaches 64 Kwords; beyond, `Load extended address` is needed
    if data.needs_extended_address != (data.flash_bytes > 128 * 1024):
        yield "needs_extended_address disagrees with flash_bytes"
    if min(data.flash_write_us, data.eeprom_write_us, data.erase_us, data.fuse_write_us) < 1:
        yield "a write time is not positive"
    if not 0 <= data.stk500_code <= _ALL_BITS:
        yield "stk500_code is not a byte"


def _check_fuses(_stem: str, data: _PartFile, _tables: _Tables) -> Iterator[str]:
    if MemoryKind.LFUSE not in data.fuses or not set(data.fuses) <= set(_FUSES):
        yield "fuses are not lfuse, hfuse, efuse"
    names = [name for fuse in data.fuses.values() for name in fuse.bits]
    if len(names) != len(set(names)):
        yield "a fuse bit name stands twice"
    for kind, fuse in data.fuses.items():
        if not (0 <= fuse.factory <= _ALL_BITS and 0 <= fuse.mask <= _ALL_BITS):
            yield f"{kind} is not a byte"
        if sum(fuse.bits.values()) != fuse.mask or any(mask & ~fuse.mask or mask < 1 for mask in fuse.bits.values()):
            yield f"the bits of {kind} do not add up to its mask"
    for variant in data.factory_variants:
        if set(variant) != set(data.fuses) or any(not 0 <= value <= _ALL_BITS for value in variant.values()):
            yield "a factory variant does not name each fuse byte once"
    if data.lock_mask not in (0x03, 0x3F):
        yield "lock_mask is neither 0x03 nor 0x3F"


def _check_tables(_stem: str, data: _PartFile, tables: _Tables) -> Iterator[str]:
    masks = {name: mask for fuse in data.fuses.values() for name, mask in fuse.bits.items()}
    for bits, key, table in (
        ("cksel", data.clock, tables.clock.get(data.clock)),
        ("bodlevel", data.brown_out, tables.brown_out.get(data.brown_out)),
    ):
        if table is None:
            yield f"there is no table {key!r}"
        elif len(table) != 1 << masks.get(bits, 0).bit_count():
            yield f"table {key!r} does not have one entry for each value of {bits}"
    if "spien" not in masks:
        yield "spien is missing"


def _check_boot(_stem: str, data: _PartFile, _tables: _Tables) -> Iterator[str]:
    masks = {name: mask for fuse in data.fuses.values() for name, mask in fuse.bits.items()}
    if data.boot_min_bytes is None:
        if {"bootsz", "bootrst"} & set(masks):
            yield "boot_min_bytes is missing"
        return
    if not {"bootsz", "bootrst"} <= set(masks) or masks["bootsz"].bit_count() != 2:
        yield "a boot section needs two bootsz bits and bootrst"
    if data.boot_min_bytes < 1 or data.boot_min_bytes << 3 > data.flash_bytes:
        yield "the boot section does not fit into flash"


_CHECKS = (_check_names, _check_memories, _check_fuses, _check_tables, _check_boot)


def _check_unique(found: Mapping[str, Part]) -> None:
    ids = [part.avrdude_id for part in found.values()]
    doubled = {name for name in ids if ids.count(name) > 1 or name in found}
    if doubled:
        raise ConfigError(f"catalog folder parts: {', '.join(sorted(doubled))} names more than one part")
