"""The part of a plan that concerns flash and EEPROM: what is erased, written and read back. Pure."""

from collections.abc import Iterable, Sequence

from ispd.catalog.fuses import is_programmed
from ispd.flashing.steps import CheckWritable, EraseChip, Step, VerifyCells, WriteCells
from ispd.flashing.target_state import TargetState
from ispd.model.image import BLANK, Image, Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.recipe import Recipe, VerifyScope
from ispd.model.span import Span

__all__ = ["cell_steps", "check_writable_step", "erase_step", "is_blank", "joined", "verify_step", "with_blanks"]

_WORD_BYTES = 2


def erase_step(part: AvrPart) -> EraseChip:
    """Return the chip erase; samples are the first and the last word and each place where a boot section may start."""
    starts = {0, part.flash.size_bytes - _WORD_BYTES}
    if part.boot is not None:
        starts |= {part.flash.size_bytes - (part.boot.min_bytes << shift) for shift in range(4)}
    samples = tuple(Span(start, start + _WORD_BYTES) for start in sorted(starts))
    return EraseChip(name="erase", samples=samples)


def check_writable_step(image: Image, part: AvrPart) -> CheckWritable:
    """Return the look at cells that are to be written without an erase."""
    spans = joined(segment.span.aligned(part.flash.page_bytes) for segment in image.segments)
    size_bytes = sum(map(len, spans))
    return CheckWritable(name="check flash", bytes=size_bytes, spans=spans, expected=image.segments)


def cell_steps(recipe: Recipe, part: AvrPart, before: TargetState, *, will_erase: bool) -> list[Step]:
    """Return what writes flash and EEPROM, then what reads both back."""
    writes: list[Step] = []
    verifies: list[Step] = []
    if len(recipe.flash):
        pages = tuple(recipe.flash.pages(part.flash.page_bytes))
        written = tuple(page for page in pages if not (will_erase and is_blank(page)))
        writes += _write(MemoryKind.FLASH, written)
        # without an erase the rest of a page keeps what it held
        expected = pages if will_erase else recipe.flash.segments
        spans = joined(page.span for page in pages)
        if recipe.verify is VerifyScope.FULL:
            spans, expected = (part.flash.span,), with_blanks(part.flash.span, pages)
        verifies.append(verify_step(MemoryKind.FLASH, spans, expected, after_erase=will_erase))
    if recipe.eeprom is not None and len(recipe.eeprom):
        is_blank_now = will_erase and not is_programmed(part, "eesave", before.fuses)
        pieces = tuple(_eeprom_pieces(recipe.eeprom, part.eeprom.page_bytes))
        written = tuple(piece for piece in pieces if not (is_blank_now and is_blank(piece)))
        writes += _write(MemoryKind.EEPROM, written)
        spans = joined(segment.span.aligned(_WORD_BYTES) for segment in recipe.eeprom.segments)
        verifies.append(verify_step(MemoryKind.EEPROM, spans, recipe.eeprom.segments, after_erase=is_blank_now))
    return [*writes, *verifies]


def is_blank(segment: Segment) -> bool:
    """Tell whether a segment is as an erase leaves it."""
    return segment.data.count(BLANK) == len(segment.data)


def with_blanks(whole: Span, pages: Sequence[Segment]) -> tuple[Segment, ...]:
    """Return ``pages``, in address order, and blank segments for all that lies between them."""
    found: list[Segment] = []
    at = whole.start
    for page in (*pages, Segment(whole.stop, b"")):
        if page.start > at:
            found.append(Segment(at, bytes([BLANK]) * (page.start - at)))
        if page.data:
            found.append(page)
        at = page.start + len(page.data)
    return tuple(found)


def _eeprom_pieces(image: Image, page_bytes: int) -> Iterable[Segment]:
    """Cut at pages but never pad: an EEPROM byte is erased when written, and its neighbours are not ours."""
    for segment in image.segments:
        for block in segment.span.blocks(page_bytes):
            yield Segment(block.start, image.bytes_in(block))


def joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join spans, sorted by address, that touch or overlap."""
    found: list[Span] = []
    for span in spans:
        if found and span.start <= found[-1].stop:
            found[-1] = Span(found[-1].start, max(span.stop, found[-1].stop))
        else:
            found.append(span)
    return tuple(found)


def _write(memory: MemoryKind, pages: tuple[Segment, ...]) -> list[Step]:
    if not pages:
        return []
    size_bytes = sum(len(page.data) for page in pages)
    return [WriteCells(name=f"write {memory}", bytes=size_bytes, memory=memory, pages=pages)]


def verify_step(
    memory: MemoryKind, spans: tuple[Span, ...], expected: tuple[Segment, ...], *, after_erase: bool
) -> VerifyCells:
    """Return the step that reads ``spans`` back."""
    size_bytes = sum(map(len, spans))
    return VerifyCells(
        name=f"verify {memory}",
        bytes=size_bytes,
        memory=memory,
        spans=spans,
        expected=expected,
        after_erase=after_erase,
    )
