"""Flash and EEPROM by single instructions, for programmers without an accelerated way. Pure."""

from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress

__all__ = ["READ_BLOCK_BYTES", "reading", "writing"]

READ_BLOCK_BYTES = 256
"""Bytes asked for in one batch; within one 64 Kword segment as blocks are aligned."""


def reading(part: AvrPart, memory: MemoryKind, span: Span) -> tuple[list[bytes], int]:
    """Return the instructions that read ``span`` and how many of their leading replies carry no data."""
    if memory is MemoryKind.EEPROM:
        return [avr_isp.read_eeprom(ByteAddress(address)) for address in range(span.start, span.stop)], 0
    prefix = _extended(part, span.start)
    reads = [
        avr_isp.read_flash(avr_isp.word_address(ByteAddress(address - address % 2)), high=bool(address % 2))
        for address in range(span.start, span.stop)
    ]
    return prefix + reads, len(prefix)


def writing(part: AvrPart, memory: MemoryKind, page: Segment) -> list[list[bytes]]:
    """Return the batches that write ``page``; after each the target is busy for its write time."""
    if memory is MemoryKind.EEPROM:
        return [[avr_isp.write_eeprom(ByteAddress(page.start + i), value)] for i, value in enumerate(page.data)]
    start = avr_isp.word_address(ByteAddress(page.start))
    loads = [
        avr_isp.load_flash_page(avr_isp.WordAddress(start + i // 2), value, high=bool(i % 2))
        for i, value in enumerate(page.data)
    ]
    return [[*_extended(part, page.start), *loads, avr_isp.write_flash_page(start)]]


def _extended(part: AvrPart, address: int) -> list[bytes]:
    if not part.needs_extended_address:
        return []
    word = avr_isp.word_address(ByteAddress(address - address % 2))
    return [avr_isp.load_extended_address(avr_isp.extended_address(word))]
