"""Reading back what a unit holds, and telling a read error from a wrong cell."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from ispd.errors import LocalProtocolError
from ispd.flashing.steps import CheckWritable, VerifyCells
from ispd.flashing.target_state import TargetState
from ispd.flashing.verify import Mismatch, bits_error, cells_error, compare, compare_bits, not_blank_error
from ispd.model.image import Segment
from ispd.model.part import MemoryKind, Part
from ispd.model.span import Span
from ispd.programmers.contract import Monitor

__all__ = ["ProgressSink", "Readback", "Tally", "Unwatched"]

_REREADS = 2
"""Repetitions of a read that differed; all must be right for it to count as a read error."""

_REREAD_PAGES = 4
"""With more wrong pages than this it is no passing disturbance, and nothing is read again."""

_IDLE_ROUNDS = 100
"""So many stopped reads in a row without a byte are no pause but a driver that does nothing."""


ReadCells = Callable[[MemoryKind, Span, Monitor], Awaitable[bytes]]


class ProgressSink(Protocol):
    """Takes progress and asks for stops."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Take note of bytes done so far."""

    @property
    def stop_requested(self) -> bool:
        """True when transfers are to stop at the next page."""


class Tally:
    """Monitor of all transfers of one unit: counts bytes over the steps."""

    def __init__(self, sink: ProgressSink, total_bytes: int) -> None:
        self._sink = sink
        self._total_bytes = total_bytes
        self._settled_bytes = 0
        self._moving_bytes = 0

    def advance(self, done_bytes: int) -> None:
        """Count bytes of the transfer under way."""
        self._moving_bytes += done_bytes
        self._sink.progress(min(self._settled_bytes + self._moving_bytes, self._total_bytes), self._total_bytes)

    def settle(self, done_bytes: int) -> None:
        """Replace what the transfer under way counted by what it finished."""
        self._settled_bytes += done_bytes
        self._moving_bytes = 0
        self._sink.progress(min(self._settled_bytes, self._total_bytes), self._total_bytes)

    @property
    def stop_requested(self) -> bool:
        """True when no further page is to be started."""
        return self._sink.stop_requested


class Unwatched:
    """Monitor of something short: neither counted nor stopped."""

    stop_requested = False

    def advance(self, done_bytes: int) -> None:
        """Count nothing."""


class Readback:
    """Reads a unit back and compares.

    :param read: reads cells, fewer than asked only where its monitor stopped it.
    :param read_state: reads fuse and lock bytes.
    :param checkpoint: awaited whenever a read was stopped; raises to end the attempt.
    :param warnings: read errors that passed are added here.
    """

    def __init__(
        self,
        read: ReadCells,
        read_state: Callable[[], Awaitable[TargetState]],
        part: Part,
        checkpoint: Callable[[], Awaitable[None]],
        tally: Tally,
        warnings: list[str],
    ) -> None:
        self._read = read
        self._read_state = read_state
        self._part = part
        self._checkpoint = checkpoint
        self._tally = tally
        self._warnings = warnings

    async def cells(self, memory: MemoryKind, span: Span) -> Segment:
        """Read a whole span, going on after each pause."""
        found = bytearray()
        idle_rounds = 0
        while len(found) < len(span):
            rest = Span(span.start + len(found), span.stop)
            piece = await self._read(memory, rest, self._tally)
            self._tally.settle(len(piece))
            found += piece
            idle_rounds = 0 if piece else idle_rounds + 1
            if idle_rounds >= _IDLE_ROUNDS or len(found) > len(span):
                raise LocalProtocolError(f"reading {memory} returns {len(piece)} bytes where {len(rest)} are left")
            if len(found) < len(span):
                await self._checkpoint()
        return Segment(span.start, bytes(found))

    async def check_writable(self, step: CheckWritable) -> tuple[Segment, ...]:
        """Return what the cells hold. Raises ``TargetError`` (not-blank) where one would have to change from 0 to 1."""
        held = []
        for span in step.spans:
            found = await self.cells(MemoryKind.FLASH, span)
            stuck = [wrong for wrong in compare(step.expected, found) if wrong.expected & ~wrong.actual]
            if stuck:
                raise not_blank_error(self._part, stuck)
            held.append(found)
        return tuple(held)

    async def verify_cells(self, step: VerifyCells) -> None:
        """Compare cells with the step. Raises ``TargetError`` (verify-mismatch, erase-failed, target-locked)."""
        for span in step.spans:
            found = await self.cells(step.memory, span)
            wrong = compare(step.expected, found)
            if not wrong:
                continue
            wrong, is_stable = await self._read_again(step, wrong)
            if wrong:
                raise cells_error(
                    self._part,
                    step.memory,
                    wrong,
                    compared=step.expected,
                    after_erase=step.after_erase,
                    is_stable=is_stable,
                )

    async def _read_again(
        self, step: VerifyCells, wrong: Sequence[Mismatch]
    ) -> tuple[tuple[Mismatch, ...], bool | None]:
        """Return the bytes that are still wrong, and whether they read the same each time."""
        page_bytes = self._part.memory(step.memory).page_bytes
        pages = list(dict.fromkeys(Span(one.address, one.address + 1).aligned(page_bytes) for one in wrong))
        if len(pages) > _REREAD_PAGES:
            return tuple(wrong), None
        still: list[Mismatch] = []
        is_stable = True
        for page in pages:
            first = tuple(one for one in wrong if one.address in page)
            again = [compare(step.expected, await self._once(step.memory, page)) for _ in range(_REREADS)]
            failed = [result for result in again if result]
            if not failed:
                self._warnings.append(
                    f"{step.memory} at 0x{first[0].address:04X} was read wrong once, then right twice"
                )
                continue
            is_stable = is_stable and all(result == first for result in again)
            still += failed[0]
        return tuple(still), is_stable

    async def _once(self, memory: MemoryKind, span: Span) -> Segment:
        return Segment(span.start, await self._read(memory, span, Unwatched()))

    async def verify_bits(self, expected: Mapping[MemoryKind, int]) -> TargetState:
        """Compare fuse and lock bytes under their masks and return them as read.

        Raises ``TargetError`` (fuse-mismatch, lock-mismatch).
        """
        state = await self._read_state()
        wrong = self._wrong_bits(expected, state)
        if not wrong:
            return state
        again = [await self._read_state() for _ in range(_REREADS)]
        for one in again:
            for memory in self._wrong_bits(expected, one):
                raise bits_error(self._part, memory, expected[memory], one.bits[memory])
        self._warnings.append(f"{', '.join(wrong)} was read wrong once, then right twice")
        return again[-1]

    def _wrong_bits(self, expected: Mapping[MemoryKind, int], state: TargetState) -> dict[MemoryKind, Mismatch]:
        return compare_bits(self._part, expected, state.bits)
