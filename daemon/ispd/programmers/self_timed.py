"""Writes that the target times itself: begun by an instruction, over when RDY/BSY says so, or after the longest time.

For programmers that pass single instructions on. From the instruction that begins a write until the target is ready
again nothing is cancelled: a reset in the midst of a write spoils other cells too.
"""

import math
from collections.abc import Awaitable, Callable, Sequence

import anyio

from ispd.errors import ErrorCode, Facts, LocalProtocolError, TargetError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.programmers.contract import Monitor
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress

__all__ = ["BUSY_FACTOR", "SelfTimedWrites", "SendInstructions", "busy_error"]

SendInstructions = Callable[[Sequence[bytes]], Awaitable[bytes]]
"""Sends 4-byte instructions back to back and returns the fourth reply byte of each."""

BUSY_FACTOR = 4
"""A write that is not over after this many times its data sheet limit never will be."""

_FIRST_PART = 0.75
"""Nothing is asked before this part of the longest time has passed: parts need 3.7 to 4.5 of 4.5 ms (ATmega32U4)."""

_SHORTENED = 0.98
"""How much earlier to ask next time after the first answer was "ready" already."""

_TICK_S = 0.001
"""The event loop rounds waiting up to whole milliseconds (epoll)."""


def busy_error(memory: MemoryKind, address: int) -> TargetError:
    """Return the error for a write that does not end."""
    return TargetError(
        ErrorCode.TARGET_BUSY,
        f"the target does not finish writing {memory} at 0x{address:04X}",
        hint="check the target's supply and the wiring; the chip may be damaged",
        facts=Facts(memory=memory, address=address),
    )


class SelfTimedWrites:
    """Writes on one target in programming mode.

    :param send: how instructions reach the target.
    """

    def __init__(self, part: AvrPart, send: SendInstructions) -> None:
        self._part = part
        self._send = send
        self._quiet_s: dict[MemoryKind, float] = {}

    async def commit(self, instructions: Sequence[bytes], memory: MemoryKind, address: int) -> None:
        """Send instructions of which the last begins a write to ``memory``, and wait until it is over.

        Raises ``TargetError`` with ``target-busy`` where it does not end, for ``address`` then.
        """
        with anyio.CancelScope(shield=True):
            await self._send(instructions)
            await self.settle(memory, address)

    async def settle(self, memory: MemoryKind, address: int) -> None:
        """Wait until a write that was begun just now is over; see :meth:`commit`."""
        limit_s = self._limit_s(memory)
        if not self._part.has_ready_poll:
            await anyio.sleep(limit_s)
            return
        begun = anyio.current_time()
        quiet_s = self._quiet_s.get(memory, limit_s * _FIRST_PART)
        await anyio.sleep(math.floor(quiet_s / _TICK_S) * _TICK_S)
        wanted_s = await self._poll(memory, address, begun)
        self._quiet_s[memory] = quiet_s * _SHORTENED if wanted_s is None else min(wanted_s, limit_s)

    async def confirm(self, memory: MemoryKind, address: int) -> None:
        """Wait until a write is over that should be by now, where the part can tell; see :meth:`commit`."""
        if self._part.has_ready_poll:
            with anyio.CancelScope(shield=True):
                await self._poll(memory, address, anyio.current_time())

    async def _poll(self, memory: MemoryKind, address: int, begun: float) -> float | None:
        """Ask until the target is ready; return how long after ``begun`` to ask first next time, None if at once would do.

        That is a little later than it last said "busy": an answer costs more than a tick of waiting on a slow bus.
        """
        wanted_s: float | None = None
        while True:
            asked_s = anyio.current_time() - begun
            if not avr_isp.is_busy((await self._send([avr_isp.poll_ready()]))[0]):
                return wanted_s
            answered_s = anyio.current_time() - begun
            wanted_s = min(answered_s, asked_s + _TICK_S)
            if asked_s > self._limit_s(memory) * BUSY_FACTOR:
                raise busy_error(memory, address)

    def _limit_s(self, memory: MemoryKind) -> float:
        return self._part.times.eeprom_s if memory is MemoryKind.EEPROM else self._part.times.flash_s

    async def write_eeprom(self, segments: Sequence[Segment], monitor: Monitor) -> int:
        """Write EEPROM bytes, a page at a time where the part can, and return how many segments are finished.

        Raises what :meth:`commit` raises.
        """
        eeprom = self._part.eeprom
        for segment in segments:
            if segment.span not in eeprom.span:
                raise LocalProtocolError(f"{segment.span} is not in EEPROM")
        for done, segment in enumerate(segments):
            for block in segment.span.blocks(eeprom.page_bytes):
                if monitor.stop_requested:
                    return done
                data = segment.data[block.start - segment.start : block.stop - segment.start]
                for instructions in self._eeprom_writes(block.start, data):
                    await self.commit(instructions, MemoryKind.EEPROM, block.start)
                monitor.advance(len(block))
        return len(segments)

    def _eeprom_writes(self, start: int, data: bytes) -> list[list[bytes]]:
        """Return what writes up to a page: at once where it is whole and the part has pages, else byte by byte."""
        cells = [(ByteAddress(start + offset), value) for offset, value in enumerate(data)]
        if self._part.eeprom.is_paged and len(data) == self._part.eeprom.page_bytes:
            loads = [avr_isp.load_eeprom_page(address, value) for address, value in cells]
            return [[*loads, avr_isp.write_eeprom_page(ByteAddress(start))]]
        return [[avr_isp.write_eeprom(address, value)] for address, value in cells]
