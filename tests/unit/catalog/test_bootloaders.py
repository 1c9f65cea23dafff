"""The bootloader files against the guide's own tables."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.fuse_guard import judge_fuses
from ispd.catalog.fuses import known_presets
from ispd.catalog.parts import load_parts
from ispd.errors import ConfigError, ErrorCode, RefusedError
from ispd.model.part import AvrPart, MemoryKind

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
GUIDE = tomllib.loads((Path(__file__).parents[2] / "golden" / "qmk_isp_guide_fuses.toml").read_text())["row"]


def fuse_sets(row: dict[str, Any]) -> Iterator[dict[MemoryKind, int]]:
    """Every set of bytes that a row of the guide allows."""
    for high in row["hfuse"]:
        fuses = {MemoryKind.LFUSE: row["lfuse"], MemoryKind.HFUSE: high}
        yield fuses | ({MemoryKind.EFUSE: row["efuse"]} if "efuse" in row else {})


@pytest.mark.parametrize("row", GUIDE, ids=lambda row: f"{row['table']}: {row['mcu']}")
def test_the_guides_row_is_in_the_catalog_and_never_questioned(row):
    bootloader = BOOTLOADERS.get(row["bootloader"])
    assert set(bootloader.parts) == set(row["parts"])
    assert row["usb"] in bootloader.usb
    assert bootloader.image_is_combined == row.get("combined", False)
    sets = list(fuse_sets(row))
    accepted = {bootloader.fuses[MemoryKind.HFUSE], *bootloader.fuse_alternatives.get(MemoryKind.HFUSE, ())}
    assert accepted == set(row["hfuse"])
    assert any(dict(bootloader.fuses) == fuses for fuses in sets)
    for part in map(PARTS.avr, row["parts"]):
        for fuses in sets:
            assert judge_fuses(part, fuses, None, known_presets(part, BOOTLOADERS)) == ()


def test_no_preset_of_any_part_locks_it_out():
    """Presets are exempt from questions, so none may hold what the guard refuses."""
    for part in PARTS.of(AvrPart):
        for preset in known_presets(part, BOOTLOADERS):
            for memory, values in preset.values.items():
                findings = [f for value in values for f in judge_fuses(part, {memory: value}, None, ())]
                assert not [f for f in findings if f.level == "refuse"], (part.id, preset.name)


def test_qmk_names_need_the_part_and_sometimes_more():
    assert BOOTLOADERS.get("atmel-dfu", PARTS.avr("m32u4")).id == "atmel-dfu-32u4"
    assert BOOTLOADERS.get("ATMEL-DFU", PARTS.avr("usb1287")).id == "atmel-dfu-usb128"
    # same-signature twins share their bootloaders
    assert BOOTLOADERS.get("bootloadhid", PARTS.avr("m32")).id == "bootloadhid-m32a"
    assert BOOTLOADERS.get("bootloadhid").id == "bootloadhid-m32a"
    # spellings of older keyboards
    assert BOOTLOADERS.get("bootloadHID").id == "bootloadhid-m32a"
    assert BOOTLOADERS.get("USBasp", PARTS.avr("m328p")).id == "usbasploader-m328p"
    for name, part in (("caterina", "m32u4"), ("atmel-dfu", None), ("caterina", "m328p"), ("caterin", None)):
        with pytest.raises(RefusedError) as caught:
            BOOTLOADERS.get(name, None if part is None else PARTS.avr(part))
        assert caught.value.code is ErrorCode.UNKNOWN_BOOTLOADER
    with pytest.raises(RefusedError) as caught:
        BOOTLOADERS.get("caterina", PARTS.avr("m32u4"))
    assert all(b.id in caught.value.hint for b in BOOTLOADERS if b.qmk == "caterina")


@pytest.mark.parametrize(
    ("name", "part", "hint"),
    [
        ("atmel-dfu", None, "name the part, or one of atmel-dfu-16u2"),
        ("caterina", None, "name one of caterina-astar"),
        ("caterina", "m32u4", "name one of caterina-astar"),
    ],
)
def test_the_part_is_asked_for_where_it_decides(name, part, hint):
    with pytest.raises(RefusedError) as caught:
        BOOTLOADERS.get(name, None if part is None else PARTS.avr(part))
    assert caught.value.hint.startswith(hint)


def test_presets_of_a_part():
    ids = {b.id for b in BOOTLOADERS.presets(PARTS.avr("atmega328p"))}
    assert ids == {"usbasploader-m328p"}
    assert {"atmel-dfu-32u4", "caterina-micro", "halfkay-32u4"} <= {
        b.id for b in BOOTLOADERS.presets(PARTS.avr("m32u4"))
    }


TEXT = """
family = "caterina"
qmk = "caterina"
title = "Caterina: test"
parts = ["atmega32u4"]
usb = ["1234:ABCD"]
section_start = 0x7000
section_bytes = 4096
application_max_bytes = 28672
[fuses]
lfuse = 0xFF
hfuse = 0xD8
efuse = 0xFB
"""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("hfuse = 0xD8", "hfuse = 0xDA"), "section: the fuses of ATmega32U4 make a section of 2048 bytes"),
        (("section_start = 0x7000", "section_start = 0x7800"), "section: the section does not end with the flash"),
        (("application_max_bytes = 28672", "application_max_bytes = 28000"), "section: application_max_bytes"),
        (("section_bytes = 4096\n", ""), "section: section_start and section_bytes go together"),
        (('"atmega32u4"', '"atmega32u5"'), "parts: 'atmega32u5' is not a part id"),
        (('"atmega32u4"', '"m32u4"'), "parts: 'm32u4' is not a part id"),
        (("efuse = 0xFB\n", ""), "parts: fuses does not name each fuse byte"),
        (('["atmega32u4"]', "[]"), "parts: fuses or lock without a part"),
        (("0xFB", "0x1FB"), "bytes: a fuse or lock value"),
        (("efuse = 0xFB", "efuse = 0xFB\n[fuse_alternatives]\nlock = [0]"), "bytes: fuse_alternatives"),
        # what a preset writes is never questioned, so it is looked at here
        (("hfuse = 0xD8", "hfuse = 0xF8"), "presets: hfuse 0xF8 shuts out ISP by SPIEN on ATmega32U4"),
        (
            ("efuse = 0xFB", "efuse = 0x3B"),
            "presets: efuse 0x3B sets only some of the bits that ATmega32U4 does not have",
        ),
        (("efuse = 0xFB", "efuse = 0xFB\n[fuse_alternatives]\nhfuse = [0xF8]"), "presets: hfuse 0xF8"),
        (("1234:ABCD", "1234:abcd"), "usb: '1234:abcd' is not a USB id"),
        (("section_start", 'image_sha256 = "AB"\nsection_start'), "image: image_sha256"),
        (("qmk =", "qmc ="), "qmc"),
    ],
)
def test_a_wrong_file_is_refused_by_a_named_check(tmp_path: Path, change, told):
    assert change[0] in TEXT
    path = tmp_path / "caterina-test.toml"
    path.write_text(TEXT)
    assert load_bootloaders(PARTS, tmp_path).get("caterina-test").lock is None
    path.write_text(TEXT.replace(change[0], change[1], 1))
    with pytest.raises(ConfigError) as caught:
        load_bootloaders(PARTS, tmp_path)
    assert told in caught.value.message
    assert "caterina-test.toml" in caught.value.message
