"""The part file of an AVR: its shape, the named checks it passes, and the part that is made of it."""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from ispd.catalog.partfile import FuseFile, bit_problems, bits_of, byte_problems, bytes_of, refuse_wrong
from ispd.model.part import AvrPart, BootSection, ClockSource, MemoryKind, PagedMemory, Signature, WriteTimes

__all__ = ["FUSES", "KNOWN_BITS", "AvrFile", "Tables", "avr_part"]

FUSES = (MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE)
"""Fuse bytes in the order of every list of them."""

KNOWN_BITS = frozenset(
    {
        *("cksel", "sut", "ckout", "ckdiv8", "ckopt"),
        *("bodlevel", "boden", "bootrst", "bootsz"),
        *("eesave", "wdton", "spien", "jtagen", "ocden", "rstdisbl", "dwen"),
        *("hwbe", "cfd", "selfprgen"),
    }
)
"""Bit group names that the rest of the catalog knows. Another name would be a bit the fuse guard is blind to."""

_BYTE = 0xFF
_ATMEL = 0x1E  # first signature byte of every AVR (JEDEC manufacturer code)
_PIN = re.compile(r"P[A-L][0-7]")
_WORD_REACH_BYTES = 128 * 1024  # 64 Kwords: what the instruction set reaches without `Load extended address`
_WAIT_US = range(1_000, 1_000_001)  # every tWD_* of a data sheet is milliseconds; outside, somebody mixed up the unit
_LOCK_MASKS = (0x03, 0x3F)  # LB only, or LB, BLB0 and BLB1


class AvrFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A part file of an AVR as it is written."""

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
    fuses: dict[MemoryKind, FuseFile]
    boot_min_bytes: int | None = None
    factory_variants: list[dict[MemoryKind, int]] = []
    note: str = ""

    def masks(self) -> dict[str, int]:
        """Return every named bit group with its mask."""
        return {name: mask for fuse in self.fuses.values() for name, mask in fuse.bits.items()}


class Tables(msgspec.Struct, forbid_unknown_fields=True):
    """Columns that part files share, by name."""

    clock: dict[str, list[ClockSource]]
    brown_out: dict[str, list[int]]


def avr_part(stem: str, data: AvrFile, tables: Tables) -> AvrPart:
    """Return the part that a file describes. Raises ``ConfigError`` naming the file and the failed checks."""
    refuse_wrong(stem, data, {**_CHECKS, "tables": lambda _stem, file: _check_tables(file, tables)})
    bits = bits_of(data.fuses)
    order = tuple(kind for kind in FUSES if kind in data.fuses)
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
        fuses=bytes_of(data.fuses, order),
        lock_mask=data.lock_mask,
        bits=bits,
        clock=tuple(tables.clock[data.clock]),
        bod_mv=tuple(tables.brown_out[data.brown_out]),
        boot=None if data.boot_min_bytes is None else BootSection(bits["bootsz"], data.boot_min_bytes),
        isp_pins=data.isp_pins,
        stk500_code=data.stk500_code,
        note=data.note,
        factory_variants=tuple(tuple(variant[kind] for kind in order) for variant in data.factory_variants),
    )


def _check_names(stem: str, data: AvrFile) -> Iterator[str]:
    if data.name.lower() != stem:
        yield f"name {data.name!r} does not belong to the file name"
    if data.avrdude_id != data.avrdude_id.lower() or not data.avrdude_id:
        yield "avrdude_id is not lower case"


def _check_signature(_stem: str, data: AvrFile) -> Iterator[str]:
    if not 0 <= data.signature < 1 << 24:
        yield "the signature is not three bytes"
    elif data.signature >> 16 != _ATMEL:
        yield f"the signature does not begin with {_ATMEL:02X}"


def _check_memories(_stem: str, data: AvrFile) -> Iterator[str]:
    sizes = (data.flash_bytes, data.flash_page_bytes, data.eeprom_bytes, data.eeprom_page_bytes)
    if min(sizes) < 1:
        yield "a memory has no bytes"
    elif any(size & (size - 1) for size in sizes):
        yield "a memory or page size is not a power of two"
    elif data.eeprom_bytes % data.eeprom_page_bytes:
        yield "EEPROM is not whole pages"
    if data.flash_page_bytes * data.flash_pages != data.flash_bytes:
        yield "flash_page_bytes times flash_pages is not flash_bytes"
    if data.needs_extended_address != (data.flash_bytes > _WORD_REACH_BYTES):
        yield "needs_extended_address disagrees with flash_bytes"


def _check_waits(_stem: str, data: AvrFile) -> Iterator[str]:
    waits = {
        "flash_write_us": data.flash_write_us,
        "eeprom_write_us": data.eeprom_write_us,
        "erase_us": data.erase_us,
        "fuse_write_us": data.fuse_write_us,
    }
    for name, wait_us in waits.items():
        if wait_us not in _WAIT_US:
            yield f"{name} is not between 1 ms and 1 s"


def _check_fuse_bytes(_stem: str, data: AvrFile) -> Iterator[str]:
    if MemoryKind.LFUSE not in data.fuses or not set(data.fuses) <= set(FUSES):
        yield "fuses are not lfuse, hfuse, efuse"
    yield from byte_problems(data.fuses)
    for variant in data.factory_variants:
        if set(variant) != set(data.fuses) or any(not 0 <= value <= _BYTE for value in variant.values()):
            yield "a factory variant does not name each fuse byte once"


def _check_fuse_bits(_stem: str, data: AvrFile) -> Iterator[str]:
    yield from bit_problems(data.fuses, KNOWN_BITS)
    if "spien" not in data.masks():
        yield "spien is missing"
    if any(not fuse.bits for fuse in data.fuses.values()):
        yield "a fuse byte has no named bits"


def _check_factory(_stem: str, data: AvrFile) -> Iterator[str]:
    """Factory bytes are a preset nobody is asked about, so they must leave ISP alive."""
    sets = [{kind: fuse.factory for kind, fuse in data.fuses.items()}, *data.factory_variants]
    for kind, fuse in data.fuses.items():
        for values in sets:
            value = values.get(kind, _BYTE)
            if any(name in fuse.bits and value & fuse.bits[name] == 0 for name in ("rstdisbl", "dwen")):
                yield f"the factory {kind} shuts out ISP"
            if "spien" in fuse.bits and value & fuse.bits["spien"]:
                yield f"the factory {kind} switches SPIEN off"


def _check_lock(_stem: str, data: AvrFile) -> Iterator[str]:
    if data.lock_mask not in _LOCK_MASKS:
        yield "lock_mask is neither 0x03 nor 0x3F"
    elif (data.lock_mask == _LOCK_MASKS[1]) != (data.boot_min_bytes is not None):
        yield "boot lock bits without a boot section, or a boot section without them"


def _check_tables(data: AvrFile, tables: Tables) -> Iterator[str]:
    masks = data.masks()
    for bits, key, table in (
        ("cksel", data.clock, tables.clock.get(data.clock)),
        ("bodlevel", data.brown_out, tables.brown_out.get(data.brown_out)),
    ):
        if table is None:
            yield f"there is no table {key!r}"
        elif len(table) != 1 << masks.get(bits, 0).bit_count():
            yield f"table {key!r} does not have one entry for each value of {bits}"


def _check_boot(_stem: str, data: AvrFile) -> Iterator[str]:
    masks = data.masks()
    if data.boot_min_bytes is None:
        if {"bootsz", "bootrst"} & set(masks):
            yield "boot_min_bytes is missing"
        return
    if not {"bootsz", "bootrst"} <= set(masks) or masks["bootsz"].bit_count() != 2:
        yield "a boot section needs two bootsz bits and bootrst"
    if data.boot_min_bytes < 1 or data.boot_min_bytes << 3 > data.flash_bytes:
        yield "the boot section does not fit into flash"
    elif data.flash_page_bytes > 0 and data.boot_min_bytes % data.flash_page_bytes:
        yield "the boot section is not whole pages"


def _check_wires(_stem: str, data: AvrFile) -> Iterator[str]:
    if not all(_PIN.fullmatch(pin) for pin in data.isp_pins) or len(set(data.isp_pins)) != len(data.isp_pins):
        yield "isp_pins are not three different pins like PB1"
    if not 0 <= data.stk500_code <= _BYTE:
        yield "stk500_code is not a byte"


_CHECKS: Mapping[str, Callable[[str, AvrFile], Iterator[str]]] = MappingProxyType(
    {
        "names": _check_names,
        "signature": _check_signature,
        "memories": _check_memories,
        "waits": _check_waits,
        "fuse bytes": _check_fuse_bytes,
        "fuse bits": _check_fuse_bits,
        "factory bytes": _check_factory,
        "lock bits": _check_lock,
        "boot section": _check_boot,
        "wires": _check_wires,
    }
)
