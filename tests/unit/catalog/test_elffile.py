"""ELF files: each memory gets its own, RAM images go where their flash copy lies, and what is broken is refused."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.elfs import elf

from ispd.catalog.elffile import read_elf
from ispd.catalog.imagefile import ImageFormat, read_image
from ispd.errors import ErrorCode, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind, Signature

TEXT = b"\x0c\x94\x34\x12" + bytes(range(60))
WHOLE = elf(
    (0, TEXT),
    (len(TEXT), b"\x34\x12"),  # .data: the copy in flash
    (0x810000, b"\x01\x02\x03"),
    (0x820000, b"\x5e\xd9\xf3"),
    (0x830000, b"\xef"),
    (0x840000, b"\x87\x95\x1e"),
    (0x850000, b"\x00"),
    device="atmega32u4",
)


def test_every_memory_gets_its_own():
    found = read_elf("board.elf", WHOLE)
    assert found.flash == Image((Segment(0, TEXT + b"\x34\x12"),))
    assert found.eeprom == Image((Segment(0, b"\x01\x02\x03"),))
    assert found.fuses == {MemoryKind.LFUSE: 0x5E, MemoryKind.HFUSE: 0xD9, MemoryKind.EFUSE: 0xF3}
    assert (found.lock, found.signature, found.built_for) == (0xEF, Signature(b"\x1e\x95\x87"), "atmega32u4")
    plain = read_elf("a.elf", elf((0x7000, TEXT)))
    assert plain.flash == Image((Segment(0x7000, TEXT),))
    assert (plain.eeprom, plain.fuses, plain.lock, plain.signature, plain.built_for) == (None, {}, None, None, "")


def test_an_image_is_for_the_memory_that_was_asked():
    for name, memory, start in (("a.elf", None, 0), ("a.elf", MemoryKind.EEPROM, 0), ("A.ELF", MemoryKind.FLASH, 0)):
        file = read_image(name, WHOLE, memory=memory)
        assert (file.format, file.image.span.start) == (ImageFormat.ELF, start)
        assert file.memory is (memory or MemoryKind.FLASH)
        assert len(file.image) == (3 if memory is MemoryKind.EEPROM else len(TEXT) + 2)
    for content, memory in (
        (elf((0, TEXT)), MemoryKind.EEPROM),
        (elf((0x810000, b"\x01")), MemoryKind.FLASH),
        (elf(), None),
    ):
        with pytest.raises(RefusedError, match="not one byte for the") as caught:
            read_image("a.elf", content, memory=memory)
        assert caught.value.code is ErrorCode.IMAGE_INVALID
    with pytest.raises(RefusedError) as caught:
        read_image("a.elf", WHOLE, base=0)
    assert caught.value.code is ErrorCode.INVALID_PARAMETER


INVALID = ErrorCode.IMAGE_INVALID


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (WHOLE[:40], INVALID, "ends within its header"),
        (WHOLE[:200], INVALID, "its tables end at"),
        (elf((0, TEXT), machine=62), INVALID, "neither for an AVR nor for an ARM"),
        (WHOLE[:4] + b"\x02" + WHOLE[5:], INVALID, "neither for an AVR nor for an ARM"),
        (WHOLE[:5] + b"\x02" + WHOLE[6:], INVALID, "neither for an AVR nor for an ARM"),
        (elf((0, TEXT), kind=1), INVALID, "not linked"),
        (elf((0, TEXT), (2, b"\x00")), ErrorCode.IMAGE_OVERLAP, "overlap at 0x0002"),
        (elf((0x800100, b"\x00")), INVALID, "0x800100..0x800100, which is RAM"),
        (elf((0x80FFFF, b"\x00\x00")), INVALID, "no memory of an AVR"),
        (elf((0x00FF0000, b"\x00")), INVALID, "no memory of an AVR"),
        (elf((0x820000, bytes(4))), INVALID, ".fuse section"),
        (elf((0x820001, bytes(1))), INVALID, ".fuse section"),
        (elf((0x820000, bytes(1)), (0x820002, bytes(1))), INVALID, ".fuse section"),
        (elf((0x830000, bytes(2))), INVALID, ".lock section"),
        (elf((0x840000, bytes(2))), INVALID, ".signature section"),
        # segments that share the file's bytes: 40 bytes could ask for 4 GiB
        (WHOLE[: 52 + 16] + b"\xff\xff\xff\x7f" + WHOLE[52 + 20 :], INVALID, "longer than the file"),
        (elf((0, TEXT), *[(0x1000 * at, b"") for at in range(1, 64)]), INVALID, "no usable program headers"),
        (WHOLE[:42] + b"\x21" + WHOLE[43:], INVALID, "no usable program headers"),
        (WHOLE[:50] + b"\x03" + WHOLE[51:], INVALID, "no usable section headers"),
    ],
)
def test_what_is_broken_is_refused_with_its_reason(content: bytes, code: ErrorCode, told: str):
    with pytest.raises(RefusedError) as caught:
        read_image("board.elf", content)
    assert caught.value.code is code
    assert told in caught.value.message
    assert "board.elf" in caught.value.message
    assert caught.value.hint


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_whatever_comes_is_an_image_or_refused(data: st.DataObject):
    """Changed, cut, and grown files: nothing but a refusal comes out of the library either."""
    content = bytearray(WHOLE)
    tables = st.integers(0, 52 + 32 * 8 - 1) | st.integers(len(WHOLE) - 160, len(WHOLE) - 1)
    for at, byte in data.draw(
        st.lists(st.tuples(tables, st.sampled_from([0, 1, 3, 7, 8, 11, 0x7F, 0xFF])), max_size=6)
    ):
        content[at] = byte
    cut = data.draw(st.none() | st.integers(0, len(WHOLE)))
    try:
        found = read_elf("a.elf", bytes(content[:cut]))
    except RefusedError as error:
        outcome: object = error.code
    else:
        outcome = len(found.flash) <= len(content)
    assert outcome in (True, ErrorCode.IMAGE_INVALID, ErrorCode.IMAGE_OVERLAP)


@pytest.mark.oracle
@pytest.mark.skipif(shutil.which("avr-gcc") is None, reason="avr-gcc is not installed")
def test_a_file_of_avr_gcc_means_what_objcopy_makes_of_it(tmp_path: Path):
    source = """
        #include <avr/io.h>
        #include <avr/eeprom.h>
        #include <avr/signature.h>
        FUSES = { .low = 0x5E, .high = 0xD9, .extended = 0xF3 };
        LOCKBITS = 0xEF;
        unsigned char EEMEM kept[5] = { 1, 2, 3, 4, 5 };
        volatile int initialised = 0x1234;
        volatile int cleared;
        int main(void) { PORTB = initialised + cleared; for (;;); }
    """
    (tmp_path / "t.c").write_text(source)
    subprocess.run(["avr-gcc", "-mmcu=atmega32u4", "-Os", "-g", "-o", "t.elf", "t.c"], cwd=tmp_path, check=True)
    out = ["-R", ".eeprom", "-R", ".fuse", "-R", ".lock", "-R", ".signature"]
    subprocess.run(["avr-objcopy", "-O", "ihex", *out, "t.elf", "t.hex"], cwd=tmp_path, check=True)
    only = ["-j", ".eeprom", "--change-section-lma", ".eeprom=0"]
    subprocess.run(["avr-objcopy", "-O", "ihex", *only, "t.elf", "t.eep"], cwd=tmp_path, check=True)
    found = read_elf("t.elf", (tmp_path / "t.elf").read_bytes())
    assert found.flash == read_image("t.hex", (tmp_path / "t.hex").read_bytes()).image
    assert found.eeprom == read_image("t.eep", (tmp_path / "t.eep").read_bytes()).image
    assert list(found.fuses.values()) == [0x5E, 0xD9, 0xF3]
    assert (found.lock, found.signature, found.built_for) == (0xEF, Signature(b"\x1e\x95\x87"), "atmega32u4")
