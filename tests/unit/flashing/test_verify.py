"""Differences and the cause they suggest."""

import pytest
from tests.unit.flashing.bench_unit import PARTS, pattern

from ispd.errors import ErrorCode
from ispd.flashing.verify import Mismatch, bits_error, bits_note, cells_error, compare, compare_bits
from ispd.model.image import Segment
from ispd.model.part import MemoryKind

PART = PARTS.avr("at90usb1286")
WANTED = pattern(1024)


def test_compare_looks_only_at_what_is_expected() -> None:
    """Bytes beside the expected segments may hold anything; differences come in address order."""
    expected = [Segment(2, b"\x01\x02"), Segment(6, b"\x03"), Segment(9, b"\x07\x08")]
    actual = Segment(0, b"\xaa\xaa\x01\xff\xaa\xaa\x00\xaa\xaa\x07")
    assert compare(expected, actual) == (Mismatch(3, 0x02, 0xFF), Mismatch(6, 0x03, 0x00))


def test_bits_are_compared_under_their_masks() -> None:
    """F3 and 03 are one extended fuse byte, 3F and FF one lock byte."""
    actual = {MemoryKind.LFUSE: 0x5E, MemoryKind.EFUSE: 0x03, MemoryKind.LOCK: 0x3F}
    assert compare_bits(PART, {MemoryKind.EFUSE: 0xF3, MemoryKind.LOCK: 0xFF}, actual) == {}
    assert compare_bits(PART, {MemoryKind.EFUSE: 0xFB}, actual) == {MemoryKind.EFUSE: Mismatch(0, 0x0B, 0x03)}


def old(value: int) -> int:
    return value & 0x55


@pytest.mark.parametrize(
    ("start", "actual", "code", "hint"),
    [
        pytest.param(0, bytes([WANTED[0] ^ 1]) + WANTED[1:], ErrorCode.VERIFY_MISMATCH, "replace it", id="one-cell"),
        pytest.param(
            0, WANTED[:256] + b"\xff" * 256 + WANTED[512:], ErrorCode.VERIFY_MISMATCH, "whole pages", id="lost-page"
        ),
        pytest.param(0, bytes(map(old, WANTED)), ErrorCode.ERASE_FAILED, "old contents", id="old-data"),
        pytest.param(0, bytes(i >> 1 & 0xFF for i in range(1024)), ErrorCode.TARGET_LOCKED, "read-locked", id="echo"),
        pytest.param(
            0,
            bytes(v ^ 4 if i % 50 == 0 else v for i, v in enumerate(WANTED)),
            ErrorCode.VERIFY_MISMATCH,
            "scattered",
            id="line",
        ),
        pytest.param(
            0xFE00,
            WANTED[:512] + bytes(v ^ 0x80 for v in WANTED[512:]),
            ErrorCode.VERIFY_MISMATCH,
            "0x10000",
            id="high-half",
        ),
    ],
)
def test_pattern_suggests_the_cause(start: int, actual: bytes, code: ErrorCode, hint: str) -> None:
    """Each pattern of differences has its own cure, and names the first address."""
    compared = [Segment(start, WANTED)]
    wrong = compare(compared, Segment(start, actual))
    error = cells_error(PART, MemoryKind.FLASH, wrong, compared=compared, after_erase=True, is_stable=True)
    assert error.code is code
    assert hint in error.hint
    first = wrong[0]
    assert (error.facts.address, error.facts.expected, error.facts.actual) == (
        first.address,
        first.expected,
        first.actual,
    )
    assert f"0x{first.address:04X}" in error.message


def test_eesave_is_suspected_for_old_eeprom() -> None:
    """Old EEPROM contents after an erase point at EESAVE; an unstable single byte points at the line."""
    wrong = [Mismatch(i, 0xFF, 0x0F) for i in range(9)]
    compared = [Segment(0, b"\xff" * 9)]
    error = cells_error(PART, MemoryKind.EEPROM, wrong, compared=compared, after_erase=True, is_stable=True)
    assert (error.code, "EESAVE" in error.hint) == (ErrorCode.ERASE_FAILED, True)
    shaky = cells_error(PART, MemoryKind.EEPROM, wrong[:1], compared=compared, after_erase=True, is_stable=False)
    assert "slower SCK" in shaky.hint


def test_spien_is_no_riddle() -> None:
    """SPIEN cannot be changed: the hint says so instead of blaming a lock."""
    error = bits_error(PART, MemoryKind.HFUSE, 0xB9, 0x99)
    assert "SPIEN" in error.hint


def test_bits_that_do_not_exist_are_shown_and_not_blamed() -> None:
    """An extended fuse asked as C3 reads F3: no error, but both values are told; a real difference tells both, too."""
    efuse = MemoryKind.EFUSE
    assert compare_bits(PART, {efuse: 0xC3}, {efuse: 0xF3}) == {}
    assert bits_note(PART, {efuse: 0xC3, MemoryKind.LOCK: 0x3F}, {efuse: 0xF3, MemoryKind.LOCK: 0x3F}) == (
        "efuse: 0xC3 asked, 0xF3 read, equal in the bits 0x0F that exist"
    )
    error = bits_error(PART, efuse, 0xC3, 0xFB)
    assert error.message == ("efuse reads 0x0B instead of 0x03, in the bits 0x0F that exist (0xC3 asked, 0xFB read)")
    assert (error.facts.expected, error.facts.actual) == (0x03, 0x0B)
