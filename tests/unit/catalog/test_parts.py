"""The part files: complete, consistent, and refused when they are not."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from ispd.catalog.parts import load_parts
from ispd.errors import ConfigError, ErrorCode, RefusedError
from ispd.model.part import AvrPart, MemoryKind, Signature

PARTS = load_parts()


def test_every_file_is_a_part_found_by_all_its_names():
    stems = {entry.name.removesuffix(".toml") for entry in (files("ispd.catalog") / "parts").iterdir()}
    assert [part.id for part in PARTS] == sorted(stems)
    assert len(PARTS.of(AvrPart)) == 37
    for part in PARTS:
        assert {PARTS.get(name.upper()).id for name in (part.name, *part.names)} == {part.id}


def test_unknown_part_names_what_is_written_alike():
    with pytest.raises(RefusedError) as caught:
        PARTS.avr("atmega32u5")
    assert caught.value.code is ErrorCode.UNKNOWN_PART
    assert "atmega32u4" in caught.value.hint


@pytest.mark.parametrize(
    ("signature", "ids"),
    [
        ("1E9587", ("atmega32u4",)),
        ("1E9782", ("at90usb1286", "at90usb1287")),
        ("1E9307", ("atmega8", "atmega8a")),
        ("1E940B", ("atmega168p", "atmega168pa")),
        ("1E960A", ("atmega644p", "atmega644pa")),
        ("FFFFFF", ()),
    ],
)
def test_signature_decides_up_to_twins(signature, ids):
    found = PARTS.by_signature(Signature(bytes.fromhex(signature)), AvrPart)
    assert tuple(part.id for part in found) == ids
    assert all(set(part.twins) == set(ids) - {part.id} for part in found)


@pytest.mark.parametrize(
    ("part", "bits", "memory", "mask"),
    [
        # bits 7 and 6 of the high byte swap their meaning between these two families
        ("atmega32u2", "rstdisbl", "hfuse", 0x40),
        ("atmega32u2", "dwen", "hfuse", 0x80),
        ("atmega328p", "rstdisbl", "hfuse", 0x80),
        ("atmega328p", "dwen", "hfuse", 0x40),
        ("atmega32u4", "jtagen", "hfuse", 0x40),
        ("atmega8", "wdton", "hfuse", 0x40),
        ("atmega8a", "ckopt", "hfuse", 0x10),
        ("atmega32a", "jtagen", "hfuse", 0x40),
        ("atmega168", "bootrst", "efuse", 0x01),
        ("atmega168", "bodlevel", "hfuse", 0x07),
        ("attiny85", "rstdisbl", "hfuse", 0x80),
        ("atmega328pb", "cfd", "efuse", 0x08),
        ("at90usb1286", "hwbe", "efuse", 0x08),
    ],
)
def test_fuse_bits_stand_where_the_data_sheet_has_them(part, bits, memory, mask):
    group = PARTS.avr(part).bits[bits]
    assert (group.memory, group.mask) == (memory, mask)


def test_figures_of_the_atmega32u4():
    part = PARTS.avr("atmega32u4")
    assert part.boot is not None
    assert [part.boot.size_bytes(v) for v in (0x99, 0x9B, 0x9D, 0x9F)] == [4096, 2048, 1024, 512]
    assert [part.mask(kind) for kind in (MemoryKind.EFUSE, MemoryKind.LOCK, MemoryKind.FLASH)] == [0x0F, 0x3F, 0xFF]
    assert (part.times.flash_s, part.times.eeprom_s) == (0.0045, 0.009)
    assert part.factory_variants == ((0x52, 0x99, 0xFB),)
    assert [p.id for p in PARTS.of(AvrPart) if p.needs_extended_address] == ["atmega2560"]
    assert {p.id for p in PARTS.of(AvrPart) if not p.has_ready_poll} == {
        p.id for p in PARTS.of(AvrPart) if not p.eeprom.is_paged
    }


SHIPPED = (files("ispd.catalog") / "parts" / "atmega32u4.toml").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('name = "ATmega32U4"', 'name = "ATmega32U5"'), "names: name 'ATmega32U5'"),
        (('avrdude_id = "m32u4"', 'avrdude_id = "M32U4"'), "names: avrdude_id"),
        (('avrdude_id = "m32u4"', 'avrdude_id = "m328p"'), "m328p names more than one part"),
        (("signature = 0x1E9587", "signature = 0x1E958700"), "signature: the signature is not three bytes"),
        (("signature = 0x1E9587", "signature = 0x009587"), "signature: the signature does not begin with 1E"),
        (("signature = 0x1E9587", 'signature = "1E9587"'), "signature"),
        # another part's signature: the bench could not tell the two apart
        (("signature = 0x1E9587", "signature = 0x1E9588"), None),
        (("signature = 0x1E9587", "signature = 0x1E950F"), "atmega328p and atmega32u4 have the signature 1E 95 0F"),
        (("flash_pages = 256", "flash_pages = 255"), "memories: flash_page_bytes times flash_pages"),
        (("eeprom_bytes = 1024", "eeprom_bytes = 0"), "memories: a memory has no bytes"),
        (("eeprom_bytes = 1024", "eeprom_bytes = 1022"), "memories: a memory or page size is not a power of two"),
        (("eeprom_page_bytes = 4", "eeprom_page_bytes = 2048"), "memories: EEPROM is not whole pages"),
        (("needs_extended_address = false", "needs_extended_address = true"), "memories: needs_extended_address"),
        (("erase_us = 9000", "erase_us = 0"), "waits: erase_us"),
        (("flash_write_us = 4500", "flash_write_us = -1"), "waits: flash_write_us"),
        # milliseconds where microseconds belong
        (("eeprom_write_us = 9000", "eeprom_write_us = 9"), "waits: eeprom_write_us is not between 1 ms and 1 s"),
        (("fuse_write_us = 9000", "fuse_write_us = 9_000_000"), "waits: fuse_write_us"),
        (("[fuses.lfuse]", "[fuses.lock]"), "fuse bytes: fuses are not lfuse, hfuse, efuse"),
        (("factory = 0x5E", "factory = 0x15E"), "fuse bytes: lfuse is not a byte"),
        (("efuse = 0xFB }]", "lock = 0xFB }]"), "fuse bytes: a factory variant"),
        (("hwbe = 0x08", "cksel = 0x08"), "fuse bits: a fuse bit name stands twice"),
        (
            ("spien = 0x20", "spjen = 0x20"),
            "fuse bits: there are no fuse bits called 'spjen'; fuse bits: spien is missing",
        ),
        (("hwbe = 0x08", "hwbe = 0x10"), "fuse bits: the bits of efuse do not add up"),
        (("hwbe = 0x08", "hwbe = 0x00"), "fuse bits: hwbe of efuse is not one run of bits"),
        (("cksel = 0x0F, sut = 0x30", "cksel = 0x2D, sut = 0x12"), "fuse bits: cksel of lfuse is not one run of bits"),
        # adds up to the mask, and lies within it, and is wrong all the same
        (("bodlevel = 0x07, hwbe = 0x08", "bodlevel = 0x0E, hwbe = 0x01"), None),
        (("ckout = 0x40, ckdiv8 = 0x80", "ckout = 0x60, ckdiv8 = 0x60"), "fuse bits: ckout of lfuse overlaps another"),
        (("factory = 0x99", "factory = 0xB9"), "factory bytes: the factory hfuse switches SPIEN off"),
        (("hfuse = 0x99, efuse", "hfuse = 0xFF, efuse"), "factory bytes: the factory hfuse switches SPIEN off"),
        (("jtagen = 0x40", "rstdisbl = 0x40"), "factory bytes: the factory hfuse shuts out ISP"),
        (("ocden = 0x80", "dwen = 0x80"), None),
        (
            ("factory = 0x99\nmask = 0xFF\nbits = { ", "factory = 0x19\nmask = 0xFF\nbits = { dwen = 0x80, "),
            "shuts out ISP",
        ),
        (("lock_mask = 0x3F", "lock_mask = 0x7F"), "lock bits: lock_mask"),
        (("lock_mask = 0x3F", "lock_mask = 0x03"), "lock bits: boot lock bits without a boot section"),
        (('clock = "usb"', 'clock = "usn"'), "tables: there is no table 'usn'"),
        (('brown_out = "usb_big"', 'brown_out = "classic"'), "tables: table 'classic' does not have one entry"),
        (("boot_min_bytes = 512", "boot_min_bytes = 8192"), "boot section: the boot section does not fit into flash"),
        (("boot_min_bytes = 512", "boot_min_bytes = 64"), "boot section: the boot section is not whole pages"),
        (("boot_min_bytes = 512\n", ""), "boot section: boot_min_bytes is missing"),
        (("bootrst = 0x01", "hwbe = 0x01"), "boot section: a boot section needs"),
        (('["PB1", "PB2", "PB3"]', '["PB1", "PB2", "PB2"]'), "wires: isp_pins"),
        (('["PB1", "PB2", "PB3"]', '["B1", "B2", "B3"]'), "wires: isp_pins"),
        (("stk500_code = 0x00", "stk500_code = 0x100"), "wires: stk500_code"),
        (("stk500_code", "stk600_code"), "stk600_code"),
        (('clock = "usb"', 'brown = 1\nclock = "usb"'), "brown"),
        (("name =", "name"), "atmega32u4.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_a_named_check(tmp_path: Path, change, told):
    assert change[0] in SHIPPED
    (tmp_path / "atmega32u4.toml").write_text(SHIPPED.replace(change[0], change[1], 1))
    if told is None:  # different, not wrong
        load_parts(tmp_path)
        return
    with pytest.raises(ConfigError) as caught:
        load_parts(tmp_path)
    assert told in caught.value.message


def test_an_overlay_adds_and_replaces(tmp_path: Path):
    (tmp_path / "atmega32u4.toml").write_text(SHIPPED.replace("erase_us = 9000", "erase_us = 12000"))
    with pytest.raises(ConfigError, match=r"parts\.d"):
        load_parts(tmp_path / "parts.d")
    text = SHIPPED.replace("ATmega32U4", "ATmega32U9").replace('"m32u4"', '"m32u9"')
    (tmp_path / "atmega32u9.toml").write_text(text)
    parts = load_parts(tmp_path)
    assert len(parts) == len(PARTS) + 1
    assert parts.avr("atmega32u4").times.erase_s == 0.012
    assert parts.avr("m32u9").twins == ("atmega32u4",)
    assert load_parts().avr("atmega32u4").times.erase_s == 0.009
    assert tomllib.loads(SHIPPED)["erase_us"] == 9000
