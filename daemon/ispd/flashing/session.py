"""A session on one target through one programmer: the only place above the wire that knows AVR instructions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio

from ispd.errors import ErrorCode, IspdError, LinkClosedError, LinkTimeoutError, TargetError
from ispd.flashing.instructed import READ_BLOCK_BYTES, reading, writing
from ispd.flashing.signature import complaint, plausible
from ispd.flashing.target_state import TargetState
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind, Signature
from ispd.model.span import Span
from ispd.programmers.contract import IspProgrammer, Monitor
from ispd.transport.clock import Clock
from ispd.wire import avr_isp

__all__ = ["TargetSession", "is_read_locked", "is_write_locked"]

_LEAVE_DEADLINE_S = 5.0
"""Long enough for a driver to find its framing again (3 s) and then to release reset."""

_IN_FLIGHT_S = 0.1
"""Time for what was sent already to reach the target when a write is cut short: a page as single instructions takes
80 ms at 125 kHz, a receive ring of 63 bytes 66 ms at 9600 baud."""

_POLL_INTERVAL_S = 0.0005
"""Pages take 3.7 to 4.5 ms; asking more often than this saves nothing."""

_GIVE_UP_FACTOR = 4
_GIVE_UP_ERASE_FACTOR = 10
"""A busy bit that is still set after so many blind waits never clears; erase varies most between parts."""

_LB_MASK = 0x03
_LB_OPEN = 0x03
_LB_NO_READING = 0x00
"""Memory lock modes in bits 1..0 of the lock byte (data sheets, "Lock Bit Protection Modes")."""

_SHORT_PROBE = 0xA5
"""Any byte that no idle line repeats; sent where the instruction set ignores it."""


def is_write_locked(lock: int) -> bool:
    """Tell whether a lock byte keeps flash, EEPROM and fuses from being written until a chip erase."""
    return lock & _LB_MASK != _LB_OPEN


def is_read_locked(lock: int) -> bool:
    """Tell whether a lock byte keeps flash and EEPROM from being read, too."""
    return lock & _LB_MASK == _LB_NO_READING


class TargetSession:
    """The target behind a programmer.

    Every method raises what :class:`~ispd.programmers.contract.IspProgrammer` raises; ``TargetError`` where named.
    """

    def __init__(self, programmer: IspProgrammer, clock: Clock) -> None:
        self._programmer = programmer
        self._clock = clock
        self._unsettled_s = 0.0
        self._quiet_at = clock.monotonic()
        self.is_entered = False

    async def enter(self, part: AvrPart | None, sck_hz: int | None) -> int:
        """Take the target into programming mode, or through a reset into it again; return the SCK in use."""
        self.is_entered = True  # before the call: a failed entry may have pulled reset low
        return await self._programmer.enter(part, sck_hz)

    async def leave(self) -> None:
        """Release reset, not before the last write is certainly over: a target that was lost in it reads as ready."""
        await self._clock.sleep(max(0.0, self._quiet_at - self._clock.monotonic()))
        await self._programmer.leave()
        self.is_entered = False

    async def release(self) -> IspdError | None:
        """Release reset whatever happened before, cancellation included; return why that failed.

        A write that was cut short gets the time to end: a reset in its midst spoils other cells too. Releasing is tried
        twice, since a programmer whose framing was lost finds it again with the next call.
        """
        failure: IspdError | None = None
        with anyio.move_on_after(_LEAVE_DEADLINE_S, shield=True):
            if self._unsettled_s > 0:
                await self._clock.sleep(_IN_FLIGHT_S + self._unsettled_s)
            for _ in range(2):
                if not self.is_entered:
                    return None
                try:
                    await self.leave()
                except LinkClosedError as error:  # unplugged: nothing holds reset any more
                    self.is_entered = False
                    return error
                except IspdError as error:
                    failure = error
        if not self.is_entered:
            return None
        return failure or LinkTimeoutError(self._programmer.identity.port, _LEAVE_DEADLINE_S)

    # reading

    async def read_signature(self) -> bytes:
        """Return the three signature bytes as they came, sensible or not."""
        return await self._programmer.transfer([avr_isp.read_signature(index) for index in range(3)])

    async def complaint(self, raw: bytes) -> TargetError | None:
        """Return what is wrong with a signature that was read, None where it is plausible."""
        if plausible(raw) is not None:
            return None
        ask = avr_isp.read_signature(0)[:3] + bytes((_SHORT_PROBE,))
        reply = await self._programmer.transfer([ask])
        clocks = self._programmer.capabilities.sck_hz
        fixed_hz = clocks[0] if len(clocks) == 1 else None
        return complaint(raw, is_shorted=reply == bytes((_SHORT_PROBE,)), fixed_hz=fixed_hz)

    async def confirm_signature(self) -> Signature:
        """Read the signature twice and return it.

        Raises ``TargetError``: signature-unstable when the two differ, or what :meth:`complaint` found.
        """
        first, second = await self.read_signature(), await self.read_signature()
        if first != second:
            raise TargetError(
                ErrorCode.SIGNATURE_UNSTABLE,
                f"the signature reads {first.hex(' ').upper()}, then {second.hex(' ').upper()}",
                hint="lower SCK, shorten the wires, press the contacts on",
            )
        wrong = await self.complaint(first)
        if wrong is not None:
            raise wrong
        return Signature(first)

    async def read_state(self, part: AvrPart) -> TargetState:
        """Read all fuse bytes and the lock byte."""
        memories = [fuse.memory for fuse in part.fuses]
        replies = await self._programmer.transfer([*map(avr_isp.read_fuse, memories), avr_isp.read_lock()])
        return TargetState(fuses=dict(zip(memories, replies, strict=False)), lock=replies[-1])

    async def read_lock(self) -> int:
        """Read the lock byte, raw."""
        return (await self._programmer.transfer([avr_isp.read_lock()]))[0]

    async def read_calibration(self) -> int:
        """Read the first oscillator calibration byte."""
        return (await self._programmer.transfer([avr_isp.read_calibration()]))[0]

    async def read(self, part: AvrPart, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM; shorter than ``span`` only when ``monitor`` stopped it."""
        if memory in self._programmer.capabilities.bulk:
            return await self._programmer.read(memory, span, monitor)
        found = bytearray()
        for block in span.blocks(READ_BLOCK_BYTES):
            if monitor.stop_requested:
                break
            instructions, skipped = reading(part, memory, block)
            found += (await self._programmer.transfer(instructions))[skipped:]
            monitor.advance(len(block))
        return bytes(found)

    async def read_words(self, part: AvrPart, words: Sequence[Span]) -> bytes:
        """Read a few flash bytes here and there, by single instructions in one batch."""
        batches = [reading(part, MemoryKind.FLASH, word) for word in words]
        replies = await self._programmer.transfer([one for instructions, _ in batches for one in instructions])
        found, at = b"", 0
        for instructions, skipped in batches:
            found += replies[at + skipped : at + len(instructions)]
            at += len(instructions)
        return found

    # writing

    async def erase_chip(self, part: AvrPart) -> None:
        """Erase flash, EEPROM (unless EESAVE is programmed) and lock bits, and wait for the end.

        Raises ``TargetError`` (target-busy).
        """
        with self._writing(part.times.erase_s):
            await self._programmer.transfer([avr_isp.chip_erase()])
            await self.wait_ready(part, part.times.erase_s, factor=_GIVE_UP_ERASE_FACTOR)

    async def write_fuse(self, part: AvrPart, memory: MemoryKind, value: int) -> None:
        """Write a fuse byte, unimplemented bits as ones, and wait. Raises ``TargetError`` (target-busy)."""
        unused = ~part.mask(memory) & 0xFF
        with self._writing(part.times.fuse_s):
            await self._programmer.transfer([avr_isp.write_fuse(memory, value | unused)])
            await self.wait_ready(part, part.times.fuse_s)

    async def write_lock(self, part: AvrPart, value: int) -> None:
        """Program lock bits, unimplemented bits as ones, and wait. Raises ``TargetError`` (target-busy)."""
        unused = ~part.lock_mask & 0xFF
        with self._writing(part.times.fuse_s):
            await self._programmer.transfer([avr_isp.write_lock(value | unused)])
            await self.wait_ready(part, part.times.fuse_s)

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write flash pages or EEPROM bytes; return how many of ``pages`` are finished, all unless stopped."""
        blind_s = part.times.eeprom_s if memory is MemoryKind.EEPROM else part.times.flash_s
        with self._writing(blind_s):
            if memory in self._programmer.capabilities.bulk:
                return await self._programmer.write(part, memory, pages, monitor)
            for done, page in enumerate(pages):
                if monitor.stop_requested:
                    return done
                for batch in writing(part, memory, page):
                    await self._programmer.transfer(batch)
                    await self.wait_ready(part, blind_s)
                monitor.advance(len(page.data))
            return len(pages)

    @contextmanager
    def _writing(self, longest_s: float) -> Iterator[None]:
        """Remember how long the target may stay busy should the block be left by an error or by cancellation."""
        self._unsettled_s = longest_s
        yield
        self._unsettled_s = 0.0
        self._quiet_at = self._clock.monotonic() + longest_s

    async def wait_ready(self, part: AvrPart, blind_s: float, *, factor: int = _GIVE_UP_FACTOR) -> None:
        """Wait for the end of a write: by the busy bit where the part has one, else ``blind_s``.

        Raises ``TargetError`` (target-busy) when the busy bit is still set after ``factor`` times ``blind_s``.
        """
        if not part.has_ready_poll:
            await self._clock.sleep(blind_s)
            return
        deadline = self._clock.monotonic() + factor * blind_s
        while True:
            asked = self._clock.monotonic()
            if not avr_isp.is_busy((await self._programmer.transfer([avr_isp.poll_ready()]))[0]):
                return
            if asked >= deadline:
                raise TargetError(
                    ErrorCode.TARGET_BUSY,
                    f"the target is still busy after {factor * blind_s * 1000:.0f} ms",
                    hint="check the supply voltage and MISO, then flash again; replace the chip if it stays so",
                )
            await self._clock.sleep(_POLL_INTERVAL_S)
