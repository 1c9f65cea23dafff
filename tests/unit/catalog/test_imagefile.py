"""The image gate: what is let through, what is refused and with which words, and nothing else on any input."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.elfs import elf
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record

from ispd.catalog.hextext import overrun
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.imagefile import MAX_FILE_BYTES, ImageFormat, read_image
from ispd.catalog.inspection import inspect_image
from ispd.catalog.lint import check_fit
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span

LINE = record(0, 0x100, bytes(range(16)))
BASE1 = record(4, 0, b"\x00\x01")
INVALID, OVERLAP = ErrorCode.IMAGE_INVALID, ErrorCode.IMAGE_OVERLAP

REFUSED = {
    "no end record": (hexfile(LINE), INVALID, "end record"),
    "cut in the last line": (hexfile(LINE, END)[:-3], INVALID, "line 2"),
    "data after the end": (hexfile(LINE, END, record(0, 0, b"\x01")), INVALID, "line 3"),
    "two end records": (hexfile(LINE, END, END), INVALID, "line 3"),
    "two files joined the naive way": (hexfile(LINE, END) + hexfile(record(0, 0, b"\x01"), END), INVALID, "line 3"),
    "empty file": (b"", INVALID, "end record"),
    "only an end record": (hexfile(END), INVALID, "not one data byte"),
    "only empty data records": (hexfile(record(0, 0), END), INVALID, "not one data byte"),
    "bad checksum": (hexfile(LINE, LINE[:-2] + "00", END), INVALID, "line 2: the checksum is 00"),
    "length too long": (hexfile(":02010000AA53", END), INVALID, "line 1: 2 data bytes"),
    "length too short": (hexfile(":00010000AA55", END), INVALID, "line 1: 0 data bytes"),
    "no colon": (hexfile(LINE, LINE[1:], END), INVALID, "line 2: a record begins with a colon"),
    "leading space": (hexfile(" " + LINE, END), INVALID, "line 1: a record begins with a colon"),
    "trailing space": (hexfile(LINE + " ", END), INVALID, "line 1: there is something else"),
    "half a digit pair": (hexfile(LINE[:-1], END), INVALID, "line 1"),
    "not hex": (hexfile(LINE.replace("0F", "0G"), END), INVALID, "line 1"),
    "spaces between digits": (hexfile(":00 00 00 01 FF"), INVALID, "line 1"),
    "only a colon": (hexfile(LINE, ":", END), INVALID, "line 2"),
    "byte order mark": (b"\xef\xbb\xbf" + hexfile(LINE, END), INVALID, "byte order mark"),
    "comment": (hexfile("; made by hand", LINE, END), INVALID, "line 1"),
    "bare CR line ends": (hexfile(LINE, END, newline="\r"), INVALID, "line 1"),
    "unknown type": (hexfile(record(6, 0, b"\x00"), LINE, END), INVALID, "line 1: there is no record type 06"),
    "short base record": (hexfile(record(4, 0, b"\x01"), LINE, END), INVALID, "line 1: a record of type 04"),
    "short start record": (hexfile(record(3, 0, b"\x01"), LINE, END), INVALID, "line 1: a record of type 03"),
    "end record with data": (hexfile(LINE, record(1, 0, b"\x01")), INVALID, "line 2"),
    "over 64 KiB": (hexfile(record(0, 0xFFF8, bytes(16)), END), INVALID, "line 1: the record runs over"),
    "overlap": (hexfile(LINE, record(0, 0x200, b"\x01"), record(0, 0x108, b"\xff"), END), OVERLAP, "lines 1 and 3"),
    "same bytes twice": (hexfile(LINE, LINE, END), OVERLAP, "lines 1 and 2"),
    "overlap through another base": (
        hexfile(record(0, 0x10, b"\x01"), record(2, 0, b"\x00\x01"), record(0, 0, b"\x01"), END),
        OVERLAP,
        "lines 1 and 3",
    ),
    "scattered": (hexfile(*[record(0, 2 * at, b"\x01") for at in range(1025)], END), INVALID, "1025 separate pieces"),
    "ELF cut short": (b"\x7fELF\x01\x01\x01", INVALID, "ends within its header"),
    "UF2": (b"UF2\n\x57\x51\x5d\x9e", INVALID, "UF2"),
    "raw bytes called hex": (bytes(range(256)), INVALID, "line 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_reason(case):
    content, code, told = REFUSED[case]
    with pytest.raises(RefusedError) as caught:
        read_image("board.hex", content)
    assert caught.value.code is code
    assert told in caught.value.message
    assert "board.hex" in caught.value.message
    assert caught.value.hint


def test_too_large_is_refused_before_parsing():
    largest = hexfile(LINE, END)
    largest += b"\n" * (MAX_FILE_BYTES - len(largest))
    assert len(read_image("a.hex", largest).image) == 16
    with pytest.raises(RefusedError) as caught:
        read_image("a.hex", largest + b"\n")
    assert caught.value.code is ErrorCode.IMAGE_TOO_LARGE


def test_accepted_oddities_are_noted():
    plain = read_image("a.hex", hexfile(LINE, END))
    assert plain.notes == ()
    content = hexfile(LINE.lower(), "", END, newline="\r\n").removesuffix(b"\r\n")
    odd = read_image("b.hex", content)
    assert odd.image == plain.image == Image((Segment(0x100, bytes(range(16))),))
    assert odd.notes == ("lines end in CR LF", "there are blank lines")
    assert (odd.sha256, odd.source.name) == (hashlib.sha256(content).hexdigest(), "b.hex")


def test_bases_and_start_records():
    lines = [
        record(2, 0, b"\x10\x00"),
        record(0, 0x20, b"\x01"),
        BASE1,
        record(0, 0x21, b"\x02"),
        record(0, 0x30, b"\x03"),
    ]
    file = read_image("a.hex", hexfile(record(3, 0, b"\x0f\x00\x70\x00"), *lines, END))
    assert file.image == Image((Segment(0x10020, b"\x01\x02"), Segment(0x10030, b"\x03")))
    assert file.start_record == 0xF000 + 0x7000
    linear = read_image("a.hex", hexfile(LINE, record(5, 0, b"\x00\x01\x70\x00"), END))
    assert linear.start_record == 0x17000
    # a file joined by hand has the start records of both parts, anywhere
    joined = read_image("a.hex", hexfile(record(3, 0, bytes(4)), LINE, record(3, 0, b"\x00\x00\x70\x00"), END))
    assert joined.start_record is None
    assert "start records" in joined.notes[0]


def test_raw_binaries_need_a_place():
    # what a linker wrote is never code from its first byte on, whatever it is called
    assert read_image("a.bin", elf((0x7000, b"\x01\x02"))).image == Image((Segment(0x7000, b"\x01\x02"),))
    with pytest.raises(RefusedError, match="UF2"):
        read_image("a.bin", b"UF2\n")
    assert read_image("a.bin", b":\x00\xff").image == Image((Segment(0, b":\x00\xff"),))
    file = read_image("A.BIN", b"\x01", base=0x7000)
    assert (file.format, file.image) == (ImageFormat.RAW, Image((Segment(0x7000, b"\x01"),)))
    for name, content, base, code in (
        ("a.bin", b"", None, INVALID),
        ("a.bin", b"\x00", -1, ErrorCode.INVALID_PARAMETER),
        ("a.bin", b"\x00", 1 << 32, ErrorCode.INVALID_PARAMETER),
        ("a.hex", hexfile(LINE, END), 0, ErrorCode.INVALID_PARAMETER),
    ):
        with pytest.raises(RefusedError) as caught:
            read_image(name, content, base=base)
        assert caught.value.code is code


def test_a_bootloader_longer_than_its_section_is_told_with_its_address():
    """Debian's build of Optiboot (arduino-core-avr): 532 bytes for a section of 512, and the version word on top of them."""
    code = bytes(range(256)) * 2 + bytes(20)
    version, start = record(0, 0x7FFE, b"\x04\x04"), record(3, 0, b"\x00\x00\x7e\x00")
    with pytest.raises(RefusedError) as caught:
        read_image("optiboot_atmega328.hex", hexfile(*data_lines(0x7E00, code), version, start, END, newline="\r\n"))
    assert caught.value.code is OVERLAP
    assert caught.value.facts.address == 0x7FFE
    told = "what begins at 0x7E00 has 532 bytes and goes on to 0x8013: too long for a flash that ends at 0x7FFF"
    assert told in caught.value.message
    # the same code without the version word is a readable file, and is told when it is looked at or meets its part
    plain = read_image("optiboot.hex", hexfile(*data_lines(0x7E00, code), END))
    parts = load_parts()
    assert told in inspect_image(plain, parts).findings
    with pytest.raises(RefusedError) as caught:
        check_fit(parts.avr("m328p"), MemoryKind.FLASH, plain.image)
    assert (caught.value.code, caught.value.facts.address) == (ErrorCode.IMAGE_DOES_NOT_FIT, 0x8000)
    for start_at, size_bytes in ((0, 0x8014), (0x7000, 4096), (0x5000, 0x8000), (0x1E000, 8192)):
        assert overrun([Span(start_at, start_at + size_bytes)]) == ""


images = st.lists(st.tuples(st.integers(0, 0x30000), st.binary(min_size=1, max_size=300)), min_size=1, max_size=8).map(
    lambda pieces: Image.of(_apart(pieces))
)


def _apart(pieces: list[tuple[int, bytes]]) -> Iterator[Segment]:
    free_from = 0
    for start, data in sorted(pieces):
        if start >= free_from:
            yield Segment(start, data)
            free_from = start + len(data)


@settings(deadline=None)
@given(images)
def test_what_is_written_is_read_back(image):
    text = write_hex(image)
    assert read_image("a.hex", text).image == image
    lines = text.decode("ascii").split("\n")
    assert lines[-2:] == [END, ""]
    assert lines.count(END) == 1
    # every bank is opened by its base record, so that the text can stand behind another
    banks = {address >> 16 for s in image.segments for address in (s.start, s.span.stop - 1)}
    assert [line for line in lines if line[7:9] == "04"] == [
        record(4, 0, b.to_bytes(2, "big")) for b in range(4) if b in banks
    ]


@settings(deadline=None)
@given(images, st.sampled_from([4, 16, 64, 128, 256]))
def test_page_split_then_merge_is_identity(image, page_bytes):
    pages = list(image.pages(page_bytes))
    assert all(page.start % page_bytes == 0 and len(page.data) == page_bytes for page in pages)
    whole = Image.of(pages)
    assert Image(tuple(Segment(s.start, whole.bytes_in(s.span)) for s in image.segments)) == image


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["a.hex", "a.bin", "a.eep", "a.elf", "a"]))
def test_random_bytes_give_an_image_or_a_refusal(content, name):
    try:
        file = read_image(name, content)
    except RefusedError:
        return
    assert len(file.image)


GOOD = hexfile(
    *data_lines(0, bytes(range(64))), BASE1, *data_lines(0x20, bytes(range(40))), record(3, 0, bytes(4)), END
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_mutated_file_never_gives_other_bytes_by_accident(data):
    """One changed character is refused, or changes nothing but letter case, line ends or the bytes it names."""
    at = data.draw(st.integers(0, len(GOOD) - 1))
    how = data.draw(st.sampled_from(["drop", "set", "insert", "cut"]))
    byte = bytes([data.draw(st.sampled_from([*b":0123456789ABCDEFabcdef \r\n\x00\xff"]))])
    rest = {"drop": GOOD[at + 1 :], "set": byte + GOOD[at + 1 :], "insert": byte + GOOD[at:], "cut": b""}[how]
    try:
        image = read_image("a.hex", GOOD[:at] + rest).image
    except RefusedError:
        return
    # every record has a checksum, so a single changed digit cannot pass
    assert image == read_image("a.hex", GOOD).image


def test_the_example_files_are_what_their_names_say():
    folder = Path(__file__).parents[3] / "config" / "examples" / "firmware"
    files = {path.name: read_image(path.name, path.read_bytes()) for path in folder.glob("*.hex")}
    assert set(files) == {"keyboard.hex", "boot.hex", "board.hex"}
    keyboard, boot = files["keyboard.hex"].image, files["boot.hex"].image
    assert 20_000 <= len(keyboard) <= 24_576
    assert sum(byte != 0xFF for s in keyboard.segments for byte in s.data) > 20_000
    assert (keyboard.span.start, boot.span.start) == (0, 0x7000)
    assert files["board.hex"].image == keyboard.merged(boot)
