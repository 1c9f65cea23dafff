"""The target behind a USBasp, from one entering of programming mode to the next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ispd.errors import LinkTimeoutError, LocalProtocolError, RemoteProtocolError
from ispd.model.image import BLANK, Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Monitor
from ispd.programmers.control import ControlChannel
from ispd.programmers.flash_page import require_whole_pages
from ispd.programmers.self_timed import SelfTimedWrites
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.control import ControlRequest
from ispd.wire.usbasp import (
    BLOCK_BYTES,
    SLOW_BLOCK_BYTES,
    ReadEeprom,
    ReadFlash,
    SetLongAddress,
    Transmit,
    WriteFlash,
)

__all__ = ["AspTarget"]

R = TypeVar("R")

_REQUEST_S: Final = 1.0
"""Room in each request for everything but SPI; the longest is a page that is written, 10 ms, and USB."""

_SPI_FACTOR: Final = 2

_SLOW_HZ: Final = 10_000
_LOOKS: Final = 3
"""How often a reading request is made before its failure counts; nothing that writes is ever repeated."""

_READ_BLOCKS: Final = 2
"""Blocks in one batch: enough to hide the hand-over between them."""

_BANK_BITS: Final = 17
"""One extended address reaches 64 Kwords."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Pages written in one go; ``pages`` counts them."""

    start: int
    data: bytes
    pages: int

    @property
    def ends_blank(self) -> bool:
        """True where the firmware cannot tell by the last byte when the page is written, and waits 4.8 ms instead."""
        return self.data[-1] == BLANK


class AspTarget:
    """The target's memories. ``part`` None allows looking, not writing.

    :param sck_hz: the SPI clock in use.
    """

    def __init__(self, channel: ControlChannel, part: AvrPart | None, sck_hz: int) -> None:
        self._channel = channel
        self._part = part
        self._writes = None if part is None else SelfTimedWrites(part, self.transfer)
        self._block_bytes = SLOW_BLOCK_BYTES if sck_hz < _SLOW_HZ else BLOCK_BYTES
        self._timeout_s = _REQUEST_S + _SPI_FACTOR * self._block_bytes * 32 / sck_hz
        self._is_bank_foreign = False

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions back to back and return the fourth reply byte of each."""
        if any(map(avr_isp.moves_bank, instructions)):
            self._is_bank_foreign = True
        requests = [Transmit(instruction) for instruction in instructions]
        is_look = not any(avr_isp.is_write(instruction) for instruction in instructions)
        replies = await (self._look(requests) if is_look else self._submit(requests))
        return bytes(reply[3] for reply in replies)

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM, less than asked only when stopped. The firmware counts the address on by itself."""
        if memory not in (MemoryKind.FLASH, MemoryKind.EEPROM):
            raise LocalProtocolError(f"{memory} is not read in blocks")
        request = ReadFlash if memory is MemoryKind.FLASH else ReadEeprom
        if memory is MemoryKind.FLASH and len(span):
            await self._take_bank_back(span.start)
        found = bytearray()
        for batch in span.blocks(self._block_bytes * _READ_BLOCKS):
            if monitor.stop_requested:
                break
            blocks = [request(ByteAddress(one.start), len(one)) for one in batch.blocks(self._block_bytes)]
            found += await self._read_batch(batch.start, blocks, has_address=bool(found))
            monitor.advance(len(batch))
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

    async def _write_flash(
        self, pages: Sequence[Segment], monitor: Monitor, part: AvrPart, writes: SelfTimedWrites
    ) -> int:
        """Stream pages; the address travels only where they are not consecutive.

        After each block the firmware has seen the last byte of a page change, or waited 4.8 ms where that byte is FF.
        The busy bit is asked for as well where it only waited, and at the start and the end: a part that is slower
        than its data sheet says is not cut short, and one that never finishes is noticed.
        """
        require_whole_pages(part, pages)
        page_bytes = part.flash.page_bytes
        if pages:
            await self._take_bank_back(pages[0].start)
        done = 0
        expected: int | None = None
        for run in _runs(pages, max(1, self._block_bytes // page_bytes)):
            if monitor.stop_requested:
                return done
            requests: list[ControlRequest[None]] = (
                [] if run.start == expected else [SetLongAddress(ByteAddress(run.start))]
            )
            await self._submit([*requests, *self._write_requests(run, page_bytes)])
            expected = run.start + len(run.data)
            if run.ends_blank or done == 0 or done + run.pages == len(pages):
                await writes.confirm(MemoryKind.FLASH, run.start)
            done += run.pages
            monitor.advance(len(run.data))
        return done

    def _write_requests(self, run: _Run, page_bytes: int) -> Iterator[WriteFlash]:
        """Yield a run's blocks. Each that begins a page says so, so that no page depends on how the last one ended."""
        step = len(run.data) if len(run.data) <= self._block_bytes else min(self._block_bytes, page_bytes // 2)
        for at in range(0, len(run.data), step):
            address = ByteAddress(run.start + at)
            yield WriteFlash(address, run.data[at : at + step], page_bytes, is_page_start=address % page_bytes == 0)

    async def _read_batch(self, start: int, blocks: Sequence[ReadFlash | ReadEeprom], *, has_address: bool) -> bytes:
        """Read consecutive blocks; after a failure the firmware's own address is not relied upon."""
        located: list[ControlRequest[bytes | None]] = [SetLongAddress(ByteAddress(start)), *blocks]
        replies = await self._look(located, first=located[1:] if has_address else located)
        return b"".join(reply for reply in replies if reply is not None)

    async def _take_bank_back(self, address: int) -> None:
        """Have the firmware send the extended address anew, if instructions changed it behind its back.

        It sends one only when it goes to another bank than last time; so it is made to look into another one first.
        """
        if self._is_bank_foreign and self._part is not None and self._part.needs_extended_address:
            other = ByteAddress(0 if address >> _BANK_BITS else 1 << _BANK_BITS)
            await self._read_batch(other, [ReadFlash(other, 1)], has_address=False)
        self._is_bank_foreign = False

    # -- requests ------------------------------------------------------------------------------------------------------

    async def _look(
        self, requests: Sequence[ControlRequest[R]], *, first: Sequence[ControlRequest[R]] | None = None
    ) -> list[R]:
        """Carry out requests that change nothing, again where the line disturbed them.

        ``first`` is what may be sent instead the first time.
        """
        attempt = requests if first is None else first
        for _ in range(_LOOKS - 1):
            try:
                return await self._submit(attempt)
            except (RemoteProtocolError, LinkTimeoutError):
                attempt = requests
        return await self._submit(requests)

    async def _submit(self, requests: Sequence[ControlRequest[R]]) -> list[R]:
        return await self._channel.submit(requests, timeout_s=self._timeout_s)


def _runs(pages: Sequence[Segment], most: int) -> Iterator[_Run]:
    """Yield consecutive pages together, up to ``most``; a page with a blank end is the last of its run."""
    run: _Run | None = None
    for page in pages:
        if run is not None and (run.pages == most or run.start + len(run.data) != page.start or run.ends_blank):
            yield run
            run = None
        run = _Run(page.start, page.data, 1) if run is None else _Run(run.start, run.data + page.data, run.pages + 1)
    if run is not None:
        yield run
