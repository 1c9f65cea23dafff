"""What an image file is: its kind, the bootloader in it, the parts that take it, and what looks wrong with it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.elfs import elf
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.imagefile import read_image
from ispd.catalog.inspection import inspect_image
from ispd.catalog.merge import merge_files
from ispd.catalog.parts import load_parts
from ispd.errors import RefusedError
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.report import ImageKind, ImageReport

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
EXAMPLES = Path(__file__).parents[3] / "config" / "examples" / "firmware"
JUMP = b"\x0c\x94\x34\x12"


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


def test_a_bootloader_fits_where_its_boot_section_ends_with_flash():
    loader = inspect("boot.hex", hexfile(*data_lines(0x7000, JUMP + bytes(range(1, 100))), END))
    assert (loader.kind, loader.bootloader_start) == (ImageKind.BOOTLOADER, 0x7000)
    assert {"atmega32u4", "atmega328p", "atmega32a"} <= set(loader.parts_that_fit)
    # the bytes would fit there too, in the middle of the application
    assert not {"at90usb1286", "atmega644p", "atmega2560"} & set(loader.parts_that_fit)
    firmware = inspect("a.hex", hexfile(*data_lines(0, JUMP + bytes(range(1, 100))), END))
    assert (firmware.kind, firmware.bootloader_start) == (ImageKind.APPLICATION, None)
    assert len(firmware.parts_that_fit) == len(PARTS.of(AvrPart))


@pytest.mark.parametrize("combined", [False, True])
def test_the_vendors_own_file_is_named(combined):
    lines = [*(data_lines(0, JUMP + b"\x11" * 40) if combined else []), *data_lines(0x7000, JUMP + b"\x22" * 40)]
    content = hexfile(*lines, END)
    known = replace(BOOTLOADERS.get("caterina-micro"), image_sha256=hashlib.sha256(content).hexdigest())
    report = inspect("Caterina-Micro.hex", content, Bootloaders({known.id: known}))
    assert report.kind is (ImageKind.PRODUCTION if combined else ImageKind.BOOTLOADER)
    assert report.bootloaders == ("caterina-micro",)
    assert ("with a sketch below it" in report.looks_like) is combined
    assert any("--strip-sketch" in finding for finding in report.findings) is combined
    assert "atmega32u4" in report.parts_that_fit


def test_an_elf_file_tells_what_else_it_wants():
    content = elf(
        (0, JUMP), (0x810000, b"\x01\x02"), (0x820000, b"\x5e\xd9\xf3"), (0x830000, b"\xef"), device="atmega168p"
    )
    bits = "--lfuse 0x5E --hfuse 0xD9 --efuse 0xF3 --lock 0xEF"
    report = inspect("kb.elf", content)
    assert report.parts_that_fit == ("atmega168p", "atmega168pa")
    assert report.findings == (
        "it was linked for atmega168p",
        "it holds 2 bytes for the EEPROM: --eeprom kb.elf writes them",
        f"it names fuse or lock bytes, which are only written when asked for: {bits}",
    )
    kept = inspect_image(read_image("kb.elf", content, memory=MemoryKind.EEPROM), PARTS, BOOTLOADERS)
    assert (kept.kind, kept.size_bytes, kept.findings) == (ImageKind.EEPROM, 2, ())
    # a family instead of a part says nothing
    assert len(inspect("kb.elf", elf((0, JUMP), device="avr5")).parts_that_fit) == len(PARTS.of(AvrPart))


hexes = st.lists(
    st.builds(data_lines, st.integers(0, 0xFFF0), st.binary(min_size=1, max_size=16))
    | st.just([record(4, 0, b"\x00\x01")]),
    max_size=6,
).map(lambda blocks: hexfile(*[line for block in blocks for line in block], END))
raw = st.binary(max_size=64) | st.sampled_from([0x1FF0, 0x6FF0, 0x7FF0]).map(lambda at: b"\xff" * at + JUMP * 8)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["a.hex", "a.bin", "a.eep", "a.elf"]), hexes | raw | st.just(elf((0x7000, JUMP))))
def test_whatever_comes_is_described_or_refused(name: str, content: bytes):
    """And so is a merge with something else, with and without stripping."""
    try:
        file = read_image(name, content)
    except RefusedError:
        return
    report = inspect_image(file, PARTS, BOOTLOADERS)
    assert report.size_bytes == len(file.image)
    assert all(PARTS.get(part).memory(file.memory).size_bytes >= len(file.image) for part in report.parts_that_fit)
    other = read_image("b.hex", hexfile(*data_lines(0x6FFE, JUMP), END))
    for strip in (False, True):
        try:
            made = merge_files([file, other], None, strip_sketch=strip, parts=PARTS)
        except RefusedError:
            continue
        assert made.image.bytes_in(other.image.span) == other.image.bytes_in(other.image.span)
