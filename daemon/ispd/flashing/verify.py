"""Comparing what was read back with what should be there, and naming the likely cause of a difference. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ispd.errors import ErrorCode, Facts, TargetError
from ispd.model.image import BLANK, Segment
from ispd.model.part import AvrPart, Interface, MemoryKind, Part

__all__ = ["Mismatch", "bits_error", "bits_note", "cells_error", "compare", "compare_bits", "not_blank_error"]

_BOUNDARIES = (0x20000, 0x10000)
"""Where programmers stop counting: 128 KiB without the extended address, 64 KiB with 16-bit byte addresses."""
_MANY = 8
"""From this many wrong bytes on a common pattern is no accident."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One byte that is not as it should be. For fuses and lock both values are under their mask."""

    address: int
    expected: int
    actual: int


def compare(expected: Sequence[Segment], actual: Segment) -> tuple[Mismatch, ...]:
    """Return the bytes of ``expected`` within ``actual`` that differ, in address order."""
    found: list[Mismatch] = []
    for segment in expected:
        common = segment.span.overlap(actual.span)
        want = segment.data[common.start - segment.start : common.stop - segment.start] if len(common) else b""
        have = actual.data[common.start - actual.start : common.stop - actual.start] if len(common) else b""
        if want != have:
            pairs = zip(range(common.start, common.stop), want, have, strict=True)
            found += [Mismatch(*pair) for pair in pairs if pair[1] != pair[2]]
    return tuple(found)


def compare_bits(
    part: Part, expected: Mapping[MemoryKind, int], actual: Mapping[MemoryKind, int]
) -> dict[MemoryKind, Mismatch]:
    """Return the fuse and lock bytes that differ in bits that exist."""
    masked = {
        memory: (value & part.mask(memory), actual[memory] & part.mask(memory)) for memory, value in expected.items()
    }
    return {memory: Mismatch(0, want, have) for memory, (want, have) in masked.items() if want != have}


def not_blank_error(part: Part, mismatches: Sequence[Mismatch]) -> TargetError:
    """Return the refusal to write cells that only an erase could change."""
    first = mismatches[0]
    return TargetError(
        ErrorCode.NOT_BLANK,
        f"flash at 0x{first.address:04X} holds 0x{first.actual:02X} and cannot become 0x{first.expected:02X} "
        f"without an erase{_more(mismatches)}",
        hint="enqueue with erase; nothing was written",
        facts=_facts(part, MemoryKind.FLASH, first),
    )


def cells_error(
    part: Part,
    memory: MemoryKind,
    mismatches: Sequence[Mismatch],
    *,
    compared: Sequence[Segment],
    after_erase: bool,
    is_stable: bool | None,
) -> TargetError:
    """Return the error for cells that read back wrong.

    :param compared: what was compared, to tell whole pages from single cells.
    :param is_stable: whether reading again gave the same wrong bytes; None where it was not tried.
    """
    first = mismatches[0]
    code, hint = _diagnose(part, memory, mismatches, compared=compared, after_erase=after_erase, is_stable=is_stable)
    return TargetError(
        code,
        f"{memory} at 0x{first.address:04X} reads 0x{first.actual:02X} instead of 0x{first.expected:02X}{_more(mismatches)}",
        hint=hint,
        facts=_facts(part, memory, first),
    )


def bits_error(part: Part, memory: MemoryKind, asked: int, read: int) -> TargetError:
    """Return the error for a fuse or lock byte that reads back wrong. ``asked`` and ``read`` are the bytes as they are."""
    mask = part.mask(memory)
    expected, actual = asked & mask, read & mask
    if memory is MemoryKind.LOCK:
        code, hint = ErrorCode.LOCK_MISMATCH, "flash again; if it stays so, check the supply voltage"
    else:
        code, hint = (
            ErrorCode.FUSE_MISMATCH,
            "a fuse that does not change is locked: flash again with an image, erased first",
        )
        spien = part.bits.get("spien")
        if spien is not None and spien.memory is memory and (expected ^ actual) == spien.mask:
            hint = "SPIEN cannot be changed through ISP: correct the fuse byte of the recipe"
    message = f"{memory} reads 0x{actual:02X} instead of 0x{expected:02X}"
    if (expected, actual) != (asked, read):
        message += f", in the bits 0x{mask:02X} that exist (0x{asked:02X} asked, 0x{read:02X} read)"
    return TargetError(
        code, message, hint=hint, facts=Facts(part=part.id, memory=memory.value, expected=expected, actual=actual)
    )


def bits_note(part: Part, asked: Mapping[MemoryKind, int], read: Mapping[MemoryKind, int]) -> str:
    """Return in words which bytes read otherwise than they were asked, in bits that do not exist; empty for none."""
    return "; ".join(
        f"{memory}: 0x{value:02X} asked, 0x{read[memory]:02X} read, equal in the bits 0x{part.mask(memory):02X} that exist"
        for memory, value in asked.items()
        if value != read[memory]
    )


def _more(mismatches: Sequence[Mismatch]) -> str:
    rest = len(mismatches) - 1
    return f", and {rest} more byte{'s' if rest > 1 else ''} differ" if rest else ""


def _facts(part: Part, memory: MemoryKind, first: Mismatch) -> Facts:
    return Facts(part=part.id, memory=memory.value, address=first.address, expected=first.expected, actual=first.actual)


def _diagnose(
    part: Part,
    memory: MemoryKind,
    mismatches: Sequence[Mismatch],
    *,
    compared: Sequence[Segment],
    after_erase: bool,
    is_stable: bool | None,
) -> tuple[ErrorCode, str]:
    is_flash = memory is MemoryKind.FLASH
    many = len(mismatches) >= _MANY
    clock = "SCK" if part.interface is Interface.ISP else "SWD clock"
    if (
        is_flash
        and many
        and isinstance(part, AvrPart)
        and all(wrong.actual == wrong.address >> 1 & 0xFF for wrong in mismatches)
    ):
        return ErrorCode.TARGET_LOCKED, "the chip only echoes its addresses: it is read-locked; a chip erase unlocks it"
    if is_flash and (hint := _hint_of_pattern(part, mismatches, compared)):
        return ErrorCode.VERIFY_MISMATCH, hint
    if after_erase and many and all(wrong.actual & wrong.expected == wrong.actual for wrong in mismatches):
        cure = "clear EESAVE" if memory is MemoryKind.EEPROM else "check the supply voltage"
        return ErrorCode.ERASE_FAILED, f"old contents shine through, the erase did not work: {cure}, then flash again"
    if is_stable and not many:
        return (
            ErrorCode.VERIFY_MISMATCH,
            "the same wrong value was read again: flash once more; if this address fails again the chip is bad, replace it",
        )
    return (
        ErrorCode.VERIFY_MISMATCH,
        f"scattered bytes differ: use a slower {clock}, shorter wires and a steadier supply",
    )


def _hint_of_pattern(part: Part, mismatches: Sequence[Mismatch], compared: Sequence[Segment]) -> str:
    """Return the cure where it shows in which flash addresses differ, empty where it does not."""
    if (boundary := _boundary(part, mismatches, compared)) is not None:
        return (
            f"only addresses from 0x{boundary:X} differ: the programmer reaches others instead; update its firmware "
            "(extended address), or use another one for this part"
        )
    if (page_bytes := _shorter_page(part, mismatches, compared)) is not None:
        return (
            f"the chip's pages are {page_bytes} bytes, not {part.flash.page_bytes}: is it really {part.name}? "
            "check the page size in its part file"
        )
    if _are_whole_blank_pages(part, mismatches, compared):
        return "whole pages were not written: flash again; check the supply and the wiring"
    return ""


def _boundary(part: Part, mismatches: Sequence[Mismatch], compared: Sequence[Segment]) -> int | None:
    """Return the address from which on every page differs though all below it are right, None where there is none.

    One wrong page alone proves nothing.
    """
    page_bytes = part.flash.page_bytes
    wrong = {mismatch.address // page_bytes for mismatch in mismatches}
    read = {
        address // page_bytes
        for segment in compared
        for address in range(segment.start, segment.start + len(segment.data), page_bytes)
    }
    for boundary in _BOUNDARIES:
        first = boundary // page_bytes
        beyond = {page for page in read if first <= page <= max(wrong)}
        if len(wrong) > 1 and wrong == beyond and min(read) < first:
            return boundary
    return None


def _shorter_page(part: Part, mismatches: Sequence[Mismatch], compared: Sequence[Segment]) -> int | None:
    """Return the page size of a chip whose pages are shorter than thought, None where that is not what is to be seen.

    What is loaded beyond the chip's page lands in its beginning again: of each page thought of only one piece arrives,
    overwritten by the last.
    """
    thought = part.flash.page_bytes
    actual = {mismatch.address: mismatch.actual for mismatch in mismatches}
    for page_bytes in (thought // 2, thought // 4):
        is_fitting = all(
            actual.get(segment.start + at, value) == _of_shorter_page(segment.data, at, thought, page_bytes)
            for segment in compared
            if segment.start % thought == 0
            for at, value in enumerate(segment.data[: len(segment.data) // thought * thought])
        )
        if is_fitting and len(mismatches) >= _MANY:
            return page_bytes
    return None


def _of_shorter_page(data: bytes, at: int, thought: int, page_bytes: int) -> int:
    """Return what is at offset ``at`` after pages of ``thought`` bytes went into pages of ``page_bytes``, committed once."""
    page, offset = at // thought * thought, at % thought
    if offset >= page_bytes:
        return BLANK
    return data[page + thought - page_bytes + offset]


def _are_whole_blank_pages(part: Part, mismatches: Sequence[Mismatch], compared: Sequence[Segment]) -> bool:
    """Tell whether, in each page that differs, every byte that should not be blank is."""
    if any(wrong.actual != BLANK for wrong in mismatches):
        return False
    page_bytes = part.flash.page_bytes
    wrong_in: dict[int, int] = {}
    for wrong in mismatches:
        page = wrong.address // page_bytes
        wrong_in[page] = wrong_in.get(page, 0) + 1
    set_in: dict[int, int] = {}
    for segment in compared:
        for address, value in enumerate(segment.data, segment.start):
            page = address // page_bytes
            if page in wrong_in and value != BLANK:
                set_in[page] = set_in.get(page, 0) + 1
    return wrong_in == set_in
