"""The production merge: the guide's join, without its silent overwriting."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.catalog.hexlines import END, data_lines, hexfile, record

from ispd.catalog.hextext import MAX_PIECES
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.imagefile import ImageFile, read_image
from ispd.catalog.merge import merge_files
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, RefusedError
from ispd.model.image import Image, Segment

U4 = load_parts().avr("atmega32u4")
EXAMPLES = Path(__file__).parents[3] / "config" / "examples" / "firmware"
JUMP = b"\x0c\x94\x34\x12"
FIRMWARE = JUMP + bytes(range(1, 251)) * 80
SKETCH = JUMP + b"\x11" * 4800
LOADER = JUMP + b"\x22" * 3000
START = record(3, 0, b"\x00\x00\x70\x00")


def file(name: str, *lines: str) -> ImageFile:
    return read_image(name, hexfile(*lines, END))


firmware = file("firmware.hex", *data_lines(0, FIRMWARE))
loader = file("loader.hex", *data_lines(0x7000, LOADER), START)
# as Caterina-Micro.hex is: 32-byte records in one run, blank filler between sketch and bootloader
combined = file("combined.hex", *data_lines(0, SKETCH.ljust(0x7000, b"\xff") + LOADER, 32))


def test_the_result_is_what_the_guides_join_by_hand_means():
    made = merge_files([read_image(n, (EXAMPLES / n).read_bytes()) for n in ("keyboard.hex", "boot.hex")], U4)
    by_hand = read_image("board.hex", (EXAMPLES / "board.hex").read_bytes())
    assert made.image == by_hand.image
    assert read_image("out.hex", write_hex(made.image)).image == by_hand.image
    assert [source.name for source in made.sources] == ["keyboard.hex", "boot.hex"]
    assert made.warnings == ()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("part", [U4, None])
def test_a_combined_loader_is_refused_with_the_way_out(order, part):
    """Filler bytes would overwrite the firmware in a reader where the later line wins."""
    with_start = combined if part else file("combined.hex", *data_lines(0, SKETCH), *data_lines(0x7000, LOADER), START)
    with pytest.raises(RefusedError) as caught:
        merge_files([firmware, with_start][::order], part)
    assert caught.value.code is ErrorCode.IMAGE_OVERLAP
    assert all(name in caught.value.message for name in ("firmware.hex", "combined.hex", "0x0000"))
    assert "combined.hex is a combined file, a bootloader at 0x7000" in caught.value.hint


def test_of_two_combined_files_none_is_stripped():
    """A finished production image and another one: whose firmware is meant?"""
    production = file("production.hex", *data_lines(0, FIRMWARE), *data_lines(0x7000, LOADER))
    for part, parts in ((U4, ()), (None, load_parts())):
        with pytest.raises(RefusedError) as caught:
            merge_files([production, combined], part, strip_sketch=True, parts=parts)
        assert caught.value.code is ErrorCode.IMAGE_OVERLAP
        assert "production.hex and combined.hex both hold a bootloader" in caught.value.message
    # two firmwares stay two firmwares, whatever is asked
    with pytest.raises(RefusedError, match="want different bytes"):
        merge_files([firmware, file("sketch.hex", *data_lines(0, SKETCH))], U4, strip_sketch=True)


def test_start_records_are_left_out_with_a_word():
    made = merge_files([firmware, loader], U4)
    assert made.notes == ("loader.hex: its start record (0x7000) is left out; the chip has no use for it",)
    assert made.warnings == ()
    assert b":04000003" not in write_hex(made.image)


@pytest.mark.parametrize("order", [1, -1])
def test_a_sketch_is_stripped_only_when_asked_for(order):
    made = merge_files([firmware, combined][::order], U4, strip_sketch=True)
    assert made.image == Image((Segment(0, FIRMWARE), Segment(0x7000, LOADER)))
    assert "only the bootloader from 0x7000 on" in made.warnings[0]
    # nothing to strip where nothing is in the way
    alone = merge_files([combined], U4, strip_sketch=True)
    assert (alone.image, alone.warnings) == (combined.image, ())


def test_overlap_of_different_bytes_is_refused_and_of_equal_bytes_noted():
    other = file("other.hex", *data_lines(0x6FF0, b"\x00" * 16 + LOADER[:-1] + b"\x23"))
    with pytest.raises(RefusedError) as caught:
        merge_files([loader, other], U4)
    # the bytes differ from the last one of the loader on, the range named is where both define bytes
    assert caught.value.facts.address == 0x7000
    assert "loader.hex (0x7000..0x7BBB) and other.hex (0x6FF0..0x7BBB)" in caught.value.message
    same = file("same.hex", *data_lines(0x6FF0, b"\x00" * 16 + LOADER + b"\x01"))
    made = merge_files([loader, same], U4)
    assert made.image == same.image
    assert made.warnings == ("loader.hex and same.hex both hold 0x7000..0x7BBB, with the same bytes",)


def test_three_files_are_compared_each_with_each():
    tail = file("tail.hex", *data_lines(0x7F00, b"\x01\x02"))
    made = merge_files([firmware, loader, tail], U4)
    assert made.image == Image((Segment(0, FIRMWARE), Segment(0x7000, LOADER), Segment(0x7F00, b"\x01\x02")))
    with pytest.raises(RefusedError) as caught:
        merge_files([firmware, tail, file("late.hex", record(0, 0x7F01, b"\x03"))], U4)
    assert all(name in caught.value.message for name in ("tail.hex", "late.hex", "0x7F01"))
    assert merge_files([], U4).image == Image(())


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=60)), min_size=2, max_size=4))
def test_a_merge_holds_exactly_the_bytes_of_its_files_or_is_refused(pieces):
    """Byte by byte against a dictionary."""
    wanted: dict[int, set[int]] = {}
    for start, data in pieces:
        for offset, byte in enumerate(data):
            wanted.setdefault(start + offset, set()).add(byte)
    files = [file(f"{n}.hex", *data_lines(start, data)) for n, (start, data) in enumerate(pieces)]
    if any(len(values) > 1 for values in wanted.values()):
        with pytest.raises(RefusedError):
            merge_files(files, None)
        return
    image = merge_files(files, None).image
    assert {s.start + at: {byte} for s in image.segments for at, byte in enumerate(s.data)} == wanted


def test_many_equal_pieces_make_one_remark():
    scattered = [file(name, *[record(0, at * 16, b"\x01" * 12) for at in range(MAX_PIECES)]) for name in ("a", "b")]
    made = merge_files(scattered, U4)
    assert made.image == scattered[0].image
    assert made.warnings == (
        "a and b both hold 0x0000..0x000B, 0x0010..0x001B, 1021 more, 0x3FF0..0x3FFB, with the same bytes",
    )
