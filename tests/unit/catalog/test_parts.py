"""The part files: complete, consistent, and refused when they are not."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from ispd.catalog.parts import load_parts
from ispd.errors import ConfigError, ErrorCode, RefusedError
from ispd.model.part import MemoryKind, Signature

PARTS = load_parts()


def test_every_file_is_a_part_found_by_all_its_names():
    stems = {entry.name.removesuffix(".toml") for entry in (files("ispd.catalog") / "parts").iterdir()}
    assert [part.id for part in PARTS] == sorted(stems)
    assert len(PARTS) == 37
    for part in PARTS:
        assert PARTS.get(part.id) is PARTS.get(part.name) is PARTS.get(part.avrdude_id.upper()) is part


def test_unknown_part_names_what_is_written_alike():
    with pytest.raises(RefusedError) as caught:
        PARTS.get("atmega32u5")
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
    found = PARTS.by_signature(Signature(bytes.fromhex(signature)))
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
    group = PARTS.get(part).bits[bits]
    assert (group.memory, group.mask) == (memory, mask)


def test_figures_of_the_atmega32u4():
    part = PARTS.get("atmega32u4")
    assert part.boot is not None
    assert [part.boot.size_bytes(v) for v in (0x99, 0x9B, 0x9D, 0x9F)] == [4096, 2048, 1024, 512]
    assert [part.mask(kind) for kind in (MemoryKind.EFUSE, MemoryKind.LOCK, MemoryKind.FLASH)] == [0x0F, 0x3F, 0xFF]
    assert (part.times.flash_s, part.times.eeprom_s) == (0.0045, 0.009)
    assert part.factory_variants == ((0x52, 0x99, 0xFB),)
    assert [p.id for p in PARTS if p.needs_extended_address] == ["atmega2560"]
    assert {p.id for p in PARTS if not p.has_ready_poll} == {p.id for p in PARTS if not p.eeprom.is_paged}


SHIPPED = (files("ispd.catalog") / "parts" / "atmega32u4.toml").read_text()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("flash_pages = 256", "flash_pages = 255"), "flash_pages"),
        (("stk500_code", "stk600_code"), "stk600_code"),
        (('clock = "usb"', 'clock = "usn"'), "usn"),
        (('clock = "usb"', 'brown = 1\nclock = "usb"'), "brown"),
        (("hwbe = 0x08", "hwbe = 0x10"), "efuse"),
        (("boot_min_bytes = 512", "boot_min_bytes = 8192"), "boot section"),
        (("boot_min_bytes = 512\n", ""), "boot_min_bytes"),
        (("signature = 0x1E9587", 'signature = "1E9587"'), "signature"),
        (('avrdude_id = "m32u4"', 'avrdude_id = "m328p"'), "m328p"),
        (('name = "ATmega32U4"', 'name = "ATmega32U5"'), "name"),
        (("factory = 0x5E", "factory = 0x15E"), "lfuse"),
        (('avrdude_id = "m32u4"', 'avrdude_id = "M32U4"'), "avrdude_id"),
        (("signature = 0x1E9587", "signature = 0x1E958700"), "signature"),
        (("eeprom_bytes = 1024", "eeprom_bytes = 0"), "no bytes"),
        (("eeprom_bytes = 1024", "eeprom_bytes = 1022"), "whole pages"),
        (("needs_extended_address = false", "needs_extended_address = true"), "needs_extended_address"),
        (("erase_us = 9000", "erase_us = 0"), "write time"),
        (("stk500_code = 0x00", "stk500_code = 0x100"), "stk500_code"),
        (("[fuses.lfuse]", "[fuses.lock]"), "lfuse, hfuse, efuse"),
        (("hwbe = 0x08", "cksel = 0x08"), "stands twice"),
        (("efuse = 0xFB }]", "lock = 0xFB }]"), "factory variant"),
        (("lock_mask = 0x3F", "lock_mask = 0x7F"), "lock_mask"),
        (('brown_out = "usb_big"', 'brown_out = "classic"'), "bodlevel"),
        (("spien = 0x20", "spjen = 0x20"), "spien"),
        (("bootrst = 0x01", "bootrzt = 0x01"), "bootrst"),
        (("name =", "name"), "atmega32u4.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_a_named_check(tmp_path: Path, change, told):
    assert change[0] in SHIPPED
    (tmp_path / "atmega32u4.toml").write_text(SHIPPED.replace(change[0], change[1], 1))
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
    assert parts.get("atmega32u4").times.erase_s == 0.012
    assert parts.get("m32u9").twins == ("atmega32u4",)
    assert load_parts().get("atmega32u4").times.erase_s == 0.009
    assert tomllib.loads(SHIPPED)["erase_us"] == 9000
