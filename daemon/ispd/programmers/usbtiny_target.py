"""The target behind a USBtiny, from one entering of programming mode to the next."""

from collections.abc import Sequence
from typing import Final, TypeVar

import anyio

from ispd.errors import LinkTimeoutError, LocalProtocolError, RemoteProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Monitor
from ispd.programmers.control import ControlChannel
from ispd.programmers.flash_page import bank_change, read_byte, require_whole_pages
from ispd.programmers.self_timed import SelfTimedWrites
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress, WordAddress
from ispd.wire.control import ControlRequest
from ispd.wire.usbtiny import (
    BULK_REACH_BYTES,
    LoadFlash,
    PowerDown,
    PoweredDownError,
    PowerUp,
    ReadEeprom,
    ReadFlash,
    Spi,
)

__all__ = ["REQUEST_S", "TinyTarget"]

R = TypeVar("R")

REQUEST_S: Final = 0.5
"""Longest time for a request without SPI: avrdude's USB_TIMEOUT."""

_STEAL: Final = 2.3
"""How much longer the firmware's SPI loop takes at worst, because each token the host sends interrupts it."""

_ENTRIES_S: Final = (0.025, 0.05, 0.05, 0.05)
"""Reset low before each try to enter: data sheets ask for 20 ms; from the second try on what avrdude waits. Four tries."""

_RELEASED_S: Final = 0.005
"""With all pins let go, before reset is pulled: Little Wire has no other way to let reset go high, and a capacitor of 100 nF at
the usual 10 kOhm charges in 1 ms."""

_LOOKS: Final = 3
"""How often a reading request is made before its failure counts; nothing that writes is ever repeated."""

_CHUNK_BYTES: Final = 128
_CHUNK_PERIOD: Final = 16
_MIN_CHUNK_BYTES: Final = 8
"""A request moves 128 bytes at most, halved each time the SCK parameter doubles beyond 16 (avrdude's CHUNK_SIZE), so that
none takes longer than 0.2 s and a stop or a cancellation acts soon."""

_READ_CHUNKS: Final = 2
"""Reading requests in one batch: enough to hide the hand-over between them."""

_BANK_BYTES: Final = 0x20000
"""What one extended address reaches: 64 Kwords."""


class TinyTarget:
    """The target's memories. ``part`` None allows looking, not writing.

    :param period: the SCK parameter.
    """

    def __init__(self, channel: ControlChannel, part: AvrPart | None, period: int) -> None:
        self._channel = channel
        self._part = part
        self._period = period
        self._extended: int | None = None
        self._writes = None if part is None else SelfTimedWrites(part, self.transfer)
        self._chunk_bytes = _chunk_bytes(period)
        self.is_lost = False
        """True once the programmer was found to have let go of the target."""

    async def enter(self) -> None:
        """Pull reset low through a pulse, and send the enabling instruction until its echo comes, four times at most."""
        self._extended = None
        for settle_s in _ENTRIES_S:
            await self._channel.submit([PowerDown()], timeout_s=REQUEST_S)
            await anyio.sleep(_RELEASED_S)
            pulse = [PowerUp(self._period, is_reset=False), PowerUp(self._period, is_reset=True)]
            await self._channel.submit(pulse, timeout_s=REQUEST_S)
            await anyio.sleep(settle_s)
            (reply,) = await self._submit([Spi(avr_isp.program_enable())])
            if reply[2] == avr_isp.program_enable()[1]:
                break
        self.is_lost = False

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions back to back and return the fourth reply byte of each."""
        if any(map(avr_isp.moves_bank, instructions)):
            self._extended = None
        requests = [Spi(instruction) for instruction in instructions]
        if any(avr_isp.is_write(instruction) for instruction in instructions):
            replies = await self._submit(requests)
        else:
            is_poll = avr_isp.poll_ready() in instructions
            replies = await self._look(requests, may_enter=not is_poll)
        return bytes(reply[3] for reply in replies)

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM, less than asked only when stopped."""
        found = bytearray()
        for block in span.blocks(self._chunk_bytes * _READ_CHUNKS):
            if monitor.stop_requested:
                break
            match memory:
                case MemoryKind.EEPROM:
                    requests = [ReadEeprom(ByteAddress(one.start), len(one)) for one in self._chunks(block)]
                    found += b"".join(await self._look(requests))
                case MemoryKind.FLASH:
                    found += await self._read_flash(block)
                case _:
                    raise LocalProtocolError(f"{memory} is not read in blocks")
            monitor.advance(len(block))
        return bytes(found)

    async def write(self, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole flash pages or EEPROM bytes, and return how many of ``pages`` are finished."""
        if self._part is None or self._writes is None:
            raise LocalProtocolError("writing needs to know the part")
        match memory:
            case MemoryKind.EEPROM:
                return await self._writes.write_eeprom(pages, monitor)
            case MemoryKind.FLASH:
                return await self._write_flash(pages, monitor, self._part, self._writes)
            case _:
                raise LocalProtocolError(f"{memory} is not written in blocks")

    # -- flash ---------------------------------------------------------------------------------------------------------

    async def _read_flash(self, block: Span) -> bytes:
        """Read a block: in bulk where the firmware's addresses reach, else by one instruction a byte."""
        extend = self._extend(avr_isp.word_address(ByteAddress(block.start - block.start % 2)))
        if extend:
            await self.transfer(extend)
            self._extended = extend[0][2]
        start = block.start % _BANK_BYTES
        if start < BULK_REACH_BYTES:
            within = Span(start, start + len(block))
            requests = [ReadFlash(ByteAddress(one.start), len(one)) for one in self._chunks(within)]
            return b"".join(await self._look(requests))
        return await self.transfer([read_byte(at) for at in range(block.start, block.stop)])

    async def _write_flash(
        self, pages: Sequence[Segment], monitor: Monitor, part: AvrPart, writes: SelfTimedWrites
    ) -> int:
        """Load each page in bulk, and have it written by the instruction that names it, wherever it is."""
        require_whole_pages(part, pages)
        for done, page in enumerate(pages):
            if monitor.stop_requested:
                return done
            loads = [
                LoadFlash(ByteAddress(one.start), page.data[one.start - page.start : one.stop - page.start])
                for one in self._chunks(page.span)
            ]
            await self._submit(loads)
            word = avr_isp.word_address(ByteAddress(page.start))
            extend = self._extend(word)
            await writes.commit([*extend, avr_isp.write_flash_page(word)], MemoryKind.FLASH, page.start)
            if extend:
                self._extended = extend[0][2]
            monitor.advance(len(page.data))
        return len(pages)

    def _chunks(self, span: Span) -> list[Span]:
        return list(span.blocks(self._chunk_bytes))

    def _extend(self, word: WordAddress) -> list[bytes]:
        """Return what moves to the bank of a word; it counts as done only once it was sent."""
        return bank_change(self._part, word, self._extended)

    # -- requests ------------------------------------------------------------------------------------------------------

    async def _look(self, requests: Sequence[ControlRequest[R]], *, may_enter: bool = True) -> list[R]:
        """Carry out requests that change nothing, again where the line disturbed them.

        A target that the programmer let go of meanwhile is taken back into programming mode, once; not where the end of
        a write is waited for, which was cut short then.
        """
        for _ in range(_LOOKS - 1):
            try:
                return await self._submit(requests)
            except PoweredDownError:
                if not may_enter:
                    raise
                extended, self._extended = self._extended, None
                await self.enter()
                if extended is not None:
                    await self.transfer([avr_isp.load_extended_address(extended)])
                    self._extended = extended
                break
            except (RemoteProtocolError, LinkTimeoutError):
                continue
        return await self._submit(requests)

    async def _submit(self, requests: Sequence[ControlRequest[R]]) -> list[R]:
        spi_s = self._chunk_bytes * 32 * (self._period + 2) * 1e-6
        try:
            return await self._channel.submit(requests, timeout_s=REQUEST_S + _STEAL * spi_s)
        except PoweredDownError:
            self.is_lost = True
            raise


def _chunk_bytes(period: int) -> int:
    size = _CHUNK_BYTES
    while size > _MIN_CHUNK_BYTES and period > _CHUNK_PERIOD:
        size, period = size // 2, period // 2
    return size
