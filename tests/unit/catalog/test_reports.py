"""Reports: what a person reads about fuses, parts, bootloaders and files."""

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.unit.catalog.hexlines import END, data_lines, hexfile

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.fuses import known_presets
from ispd.catalog.imagefile import read_image
from ispd.catalog.inspection import inspect_image
from ispd.catalog.parts import load_parts
from ispd.catalog.reports import describe_bootloader, describe_part, explain_fuses
from ispd.errors import RefusedError
from ispd.model.part import MemoryKind
from ispd.model.report import FuseReport, ImageReport

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
L, H, E = MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE
EXAMPLES = Path(__file__).parents[3] / "config" / "examples" / "firmware"
JUMP = b"\x0c\x94\x34\x12"


def explain(part: str, fuses: dict[MemoryKind, int]) -> FuseReport:
    chosen = PARTS.get(part)
    return explain_fuses(chosen, fuses, known_presets(chosen, BOOTLOADERS))


@pytest.mark.parametrize(
    ("part", "fuses", "clock_hz", "clock", "brown_out", "boot", "preset"),
    [
        (
            "m32u4",
            {},
            None,
            "crystal or resonator, divided by 8",
            "2.6 V",
            "0x7000..0x7FFF (4096 bytes); the part starts at 0x0000",
            "factory",
        ),
        (
            "m32u4",
            {L: 0x52, E: 0xFB},
            1_000_000,
            "8 MHz, divided by 8 to 1 MHz",
            "2.6 V",
            "0x7000",
            "factory, RC order code",
        ),
        ("m32u4", {L: 0xFF, H: 0xD0, E: 0xC8}, None, "crystal", "4.3 V", "starts at 0x7000", "caterina-astar"),
        ("m32u4", {L: 0xE3}, None, "reserved", "2.6 V", "0x7000", None),
        ("usb1286", {}, None, "crystal", "2.6 V", "0x1E000..0x1FFFF (8192 bytes)", "factory"),
        ("m328p", {L: 0xD7, H: 0xD0, E: 0x04}, None, "full swing", "4.3 V", "0x7000..0x7FFF", "usbasploader-m328p"),
        ("m328p", {H: 0xDA, E: 0xF8}, 1_000_000, "1 MHz", "reserved", "0x7800..0x7FFF (2048 bytes)", None),
        ("m32a", {L: 0x0F, H: 0xD0}, None, "crystal", "4.0 V", "starts at 0x7000", "bootloadhid-m32a"),
        ("m32a", {}, 1_000_000, "1 MHz", "off", "(4096 bytes)", "factory"),
        ("m168", {E: 0xF8}, 1_000_000, "1 MHz", "off", "0x3800..0x3FFF (2048 bytes); the part starts at 0x3800", None),
        ("t85", {L: 0xE1}, 16_000_000, "PLL", "off", "none", None),
        ("t85", {L: 0x63}, 200_000, "divided by 8 to 0.2 MHz", "off", "none", None),
    ],
)
def test_fuses_in_words(part, fuses, clock_hz, clock, brown_out, boot, preset):
    report = explain(part, fuses)
    assert report.clock_hz == clock_hz
    assert clock in report.clock
    assert brown_out in report.brown_out
    assert boot in report.boot_section
    assert report.preset == preset
    chosen = PARTS.get(part)
    assert report.fuses == {f.memory.value: fuses.get(f.memory, f.default) for f in chosen.fuses}
    # every bit that exists is explained, once
    for fuse in chosen.fuses:
        assert sum(chosen.bits[bit.name].mask for bit in report.bits if bit.memory == fuse.memory) == fuse.mask
    assert all(bit.meaning for bit in report.bits)


def test_a_bit_is_told_by_its_state():
    on, off = (
        {bit.name: (bit.programmed, bit.meaning) for bit in explain("m32u4", {H: value}).bits} for value in (0x98, 0xD9)
    )
    assert on["jtagen"][0] is on["bootrst"][0] is True
    assert off["jtagen"] == (False, "JTAG off")
    assert off["bootrst"] == (False, "starts at address 0")
    assert on["bootrst"][1] == "starts in the boot section"
    assert [f.bits for f in explain("m328p", {H: 0x59}).findings] == ["rstdisbl"]
    with pytest.raises(RefusedError):
        explain("m32a", {E: 0xFF})


def test_every_report_is_plain_data():
    """They go out over the API as they are."""
    reports: list[object] = [describe_part(part) for part in PARTS]
    reports += [describe_bootloader(b) for b in BOOTLOADERS]
    reports += [explain(part.id, {}) for part in PARTS]
    for report in reports:
        assert msgspec.convert(msgspec.json.decode(msgspec.json.encode(report)), type(report)) == report
    u4 = describe_part(PARTS.get("m32u4"))
    assert (u4.signature, u4.boot_sizes) == ("1E 95 87", (512, 1024, 2048, 4096))
    assert u4.isp_pins == {"sck": "PB1", "copi": "PB2", "cipo": "PB3"}
    assert (u4.fuses, u4.fuse_masks["efuse"]) == ({"lfuse": 0x5E, "hfuse": 0x99, "efuse": 0xF3}, 0x0F)
    assert describe_part(PARTS.get("t85")).boot_sizes == ()
    dfu = describe_bootloader(BOOTLOADERS.get("atmel-dfu-usb128"))
    assert (dfu.section_start, dfu.section_bytes, dfu.fuse_alternatives) == (0x1E000, 8192, {"hfuse": (0x99,)})


def inspect(name: str, content: bytes, bootloaders: Bootloaders | None = BOOTLOADERS) -> ImageReport:
    return inspect_image(read_image(name, content), PARTS, bootloaders)


def test_a_file_is_described_and_recognised():
    board = inspect("board.hex", (EXAMPLES / "board.hex").read_bytes())
    assert board.looks_like == "firmware and bootloader at 0x7000"
    assert (board.segments[0].start, board.segments[0].size_bytes) == (0, 20220)
    assert sum(s.size_bytes for s in board.segments) == board.size_bytes
    assert "atmega32u4" in board.parts_that_fit
    assert "atmega16u4" not in board.parts_that_fit
    assert any("start record names 0x7000" in finding for finding in board.findings)
    assert inspect("keyboard.hex", (EXAMPLES / "keyboard.hex").read_bytes()).looks_like == "firmware"
    assert inspect("boot.hex", (EXAMPLES / "boot.hex").read_bytes()).looks_like == "bootloader at 0x7000"
    assert inspect("board.eep", (EXAMPLES / "board.eep").read_bytes()).looks_like == "EEPROM data"
    assert "not a jump" in inspect("a.hex", hexfile(*data_lines(0, b"\x01\x02"), END)).findings[0]


def test_usb_ids_and_digests_name_the_bootloader():
    descriptor = b"\x12\x01\x10\x01\x02\x00\x00\x08\x41\x23\x37\x00\x01\x00\x02\x01\x00\x01"
    content = hexfile(*data_lines(0x7000, JUMP + descriptor), END)
    assert inspect("a.hex", content).looks_like == "caterina bootloader at 0x7000 with USB id 2341:0037"
    assert inspect("a.hex", content, None).looks_like == "bootloader at 0x7000 with USB id 2341:0037"
    firmware = hexfile(*data_lines(0, JUMP + descriptor), END)
    assert inspect("a.hex", firmware).looks_like == "firmware with USB id 2341:0037"
    known = replace(BOOTLOADERS.get("caterina-micro"), image_sha256=hashlib.sha256(content).hexdigest())
    assert "the vendor's file of caterina-micro" in inspect("a.hex", content, Bootloaders({known.id: known})).looks_like
