"""Reading back what a unit holds, and telling a read error from a wrong cell."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from ispd.errors import ErrorCode, Facts, LocalProtocolError, TargetError
from ispd.flashing.session import TargetSession, TargetState
from ispd.flashing.steps import EraseChip, VerifyCells
from ispd.flashing.verify import Mismatch, bits_error, cells_error, compare, compare_bits
from ispd.model.image import BLANK, Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span

__all__ = ["ProgressSink", "Readback", "Tally"]

_REREADS = 2
"""Repetitions of a read that differed; all must be right for it to count as a read error."""

_REREAD_PAGES = 4
"""With more wrong pages than this it is no passing disturbance, and nothing is read again."""

_IDLE_ROUNDS = 100
"""So many stopped reads in a row without a byte are no pause but a driver that does nothing."""


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


class _Unwatched:
    """Monitor of a short repetition: neither counted nor stopped."""

    stop_requested = False

    def advance(self, done_bytes: int) -> None:
        """Count nothing."""


class Readback:
    """Reads a unit back and compares.

    :param checkpoint: awaited whenever a read was stopped; raises to end the attempt.
    :param warnings: read errors that passed are added here.
    """

    def __init__(
        self,
        session: TargetSession,
        part: AvrPart,
        checkpoint: Callable[[], Awaitable[None]],
        tally: Tally,
        warnings: list[str],
    ) -> None:
        self._session = session
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
            piece = await self._session.read(self._part, memory, rest, self._tally)
            self._tally.settle(len(piece))
            found += piece
            idle_rounds = 0 if piece else idle_rounds + 1
            if idle_rounds >= _IDLE_ROUNDS or len(found) > len(span):
                raise LocalProtocolError(f"reading {memory} returns {len(piece)} bytes where {len(rest)} are left")
            if len(found) < len(span):
                await self._checkpoint()
        return Segment(span.start, bytes(found))

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
        return Segment(span.start, await self._session.read(self._part, memory, span, _Unwatched()))

    async def verify_bits(self, expected: Mapping[MemoryKind, int]) -> TargetState:
        """Compare fuse and lock bytes under their masks and return them as read.

        Raises ``TargetError`` (fuse-mismatch, lock-mismatch).
        """
        state = await self._session.read_state(self._part)
        wrong = self._wrong_bits(expected, state)
        if not wrong:
            return state
        again = [await self._session.read_state(self._part) for _ in range(_REREADS)]
        for one in again:
            for memory in self._wrong_bits(expected, one):
                raise bits_error(self._part, memory, expected[memory], one.bits[memory])
        self._warnings.append(f"{', '.join(wrong)} was read wrong once, then right twice")
        return again[-1]

    def _wrong_bits(self, expected: Mapping[MemoryKind, int], state: TargetState) -> dict[MemoryKind, Mismatch]:
        return compare_bits(self._part, expected, state.bits)

    async def check_erased(self, step: EraseChip) -> None:
        """Make sure an erase happened: lock bits open, sampled cells blank. Raises ``TargetError`` (erase-failed)."""
        wrong = await self._unerased(step) and await self._unerased(step)
        if wrong:
            first = wrong[0]
            raise TargetError(
                ErrorCode.ERASE_FAILED,
                f"flash at 0x{first.address:04X} reads 0x{first.actual:02X} after the erase",
                hint="check the supply voltage, then flash again; replace the chip if the same address fails again",
                facts=Facts(
                    part=self._part.id,
                    memory=MemoryKind.FLASH.value,
                    address=first.address,
                    expected=first.expected,
                    actual=first.actual,
                ),
            )
        mask = self._part.lock_mask
        lock = await self._session.read_lock()
        if lock & mask != mask and (lock := await self._session.read_lock()) & mask != mask:
            raise TargetError(
                ErrorCode.ERASE_FAILED,
                f"the lock bits read 0x{lock:02X} after the erase",
                hint="check the supply voltage, then flash again",
                facts=Facts(part=self._part.id, memory=MemoryKind.LOCK.value, expected=mask, actual=lock & mask),
            )

    async def _unerased(self, step: EraseChip) -> list[Mismatch]:
        addresses = [address for span in step.samples for address in range(span.start, span.stop)]
        found = await self._session.read_words(self._part, step.samples)
        return [Mismatch(at, BLANK, value) for at, value in zip(addresses, found, strict=True) if value != BLANK]
