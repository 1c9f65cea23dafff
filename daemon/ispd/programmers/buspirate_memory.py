"""Flash, EEPROM and single instructions of the target behind a Bus Pirate. Lives from one entering to the next.

The last of several instructions is sent as three bytes to write and one to read, wherever its fourth byte does not
matter: so ``05`` always has a byte to read, and the target's four-byte frames stay in step.
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import anyio

from ispd.errors import LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.programmers.buspirate_pace import Blocks
from ispd.programmers.buspirate_spi import Pirate
from ispd.programmers.contract import Monitor
from ispd.programmers.flash_page import bank_change, load_page, read_byte, require_whole_pages
from ispd.programmers.self_timed import SelfTimedWrites
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress, WordAddress
from ispd.wire.buspirate import READ_LIMIT, Bulk, Marked, ReadFlash, WriteThenRead
from ispd.wire.engine import Request

__all__ = ["TargetMemory"]

R = TypeVar("R")

_BATCH_S: Final = 2.0
"""Room in a deadline for converters, hubs and a busy host."""

_TURN_S: Final = 0.02
"""A turn-around: 1 to 2 ms, 16 ms where the converter was not asked for short latency."""

_SLACK: Final = 2
"""A batch may take this many times what its bytes take."""

_HELD_BYTES: Final = 4
"""Bytes of a block that are held back until the target is ready: the firmware then lacks the last data."""

_BANK_WORDS: Final = 0x10000
_BANK_BYTES: Final = 2 * _BANK_WORDS
_INSTRUCTED_BYTES: Final = 256
"""Bytes read by single instructions at a time; a stop is heard between them."""

_WORTH_A_BLOCK: Final = 64
"""Fewer bytes than this are not worth a reading command of their own."""

_FREE_FOURTH_BYTE: Final = frozenset({0x20, 0x28, 0x30, 0x38, 0x4C, 0x50, 0x58, 0xA0, 0xC2, 0xF0})
"""Instructions whose fourth byte is an answer or means nothing (data sheets, "Serial Programming Instruction Set")."""


class TargetMemory:
    """The target's memories while it is in programming mode. ``part`` None allows looking, not writing."""

    def __init__(self, pirate: Pirate, part: AvrPart | None, sck_hz: int) -> None:
        self._pirate = pirate
        self._part = part
        self._sck_hz = sck_hz
        self._epoch = pirate.epoch
        self._extended: int | None = None
        self.ready_at = 0.0
        """Loop time at which the last page is written for certain; a reset before then would spoil other cells too."""
        self._writes = None if part is None else SelfTimedWrites(part, self._deliver)

    @property
    def is_stale(self) -> bool:
        """True once the step was lost: the target is out of programming mode."""
        return self._epoch != self._pirate.epoch or not self._pirate.in_step

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions and return the fourth reply byte of each."""
        if any(len(instruction) != 4 for instruction in instructions):
            raise LocalProtocolError("an instruction has four bytes")
        if any(map(avr_isp.moves_bank, instructions)):
            self._extended = None
        return await self._exchange(instructions)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM, less than asked only when stopped."""
        match memory:
            case MemoryKind.FLASH:
                return await self._read_flash(span, monitor)
            case MemoryKind.EEPROM:
                return await self._read_cells(span, monitor)
            case _:
                raise LocalProtocolError(f"{memory} is not read in blocks")

    async def _read_flash(self, span: Span, monitor: Monitor) -> bytes:
        """Read flash bank by bank: one command each where it reaches, single instructions elsewhere."""
        heard = bytearray()
        words = span.aligned(2)
        for bank in words.blocks(_BANK_BYTES):
            if monitor.stop_requested:
                break
            extend = self._extend(WordAddress(bank.start // 2))
            if extend:
                await self._exchange(extend)
            base = bank.start // _BANK_BYTES * _BANK_BYTES
            counted = bank.overlap(span)
            heard += await self._read_bank(
                Span(bank.start - base, bank.stop - base),
                Span(counted.start - base, counted.stop - base),
                monitor,
            )
            if len(heard) < bank.stop - words.start:
                break
        skipped = span.start - words.start
        return bytes(heard[skipped : skipped + len(span)])

    async def _read_bank(self, bank: Span, counted: Span, monitor: Monitor) -> bytes:
        """Read within the 128 KiB that an address in a command can name; ``monitor`` hears of the ``counted`` bytes."""
        heard = bytearray()

        def take(data: bytes) -> None:
            start = bank.start + len(heard)
            heard.extend(data)
            monitor.advance(len(Span(start, start + len(data)).overlap(counted)))

        blocks = list(self._blocks(bank))
        if blocks:
            size = sum(len(block) for block in blocks)
            await self._pirate.command(
                [self._marked(ReadFlash(block.start // 2, len(block))) for block in blocks],
                deadline_s=_BATCH_S + _SLACK * size * max(self._byte_s, 4 * self._pirate.pace.spi_byte_s(self._sck_hz)),
                stop=lambda: monitor.stop_requested,
                on_reply=take,
            )
        while bank.start + len(heard) < bank.stop and not monitor.stop_requested:
            start = bank.start + len(heard)
            stop = min(bank.stop, start + _INSTRUCTED_BYTES)
            take(await self._exchange([read_byte(address) for address in range(start, stop)]))
        return bytes(heard)

    def _blocks(self, bank: Span) -> Iterator[Span]:
        """Yield the blocks that the reading command takes, from the start of ``bank`` on, as far as it reaches."""
        most = self._pirate.pace.read_block_bytes(self._sck_hz)
        start = bank.start
        while self._pirate.reads_flash and start < bank.stop:
            size = min(most, bank.stop - start, (READ_LIMIT - start // 2) // 2 * 2)
            if size < min(_WORTH_A_BLOCK, bank.stop - start):
                return
            yield Span(start, start + size)
            start += size

    async def _read_cells(self, span: Span, monitor: Monitor) -> bytes:
        """Read EEPROM by single instructions."""
        heard = bytearray()
        for block in span.blocks(_INSTRUCTED_BYTES):
            if monitor.stop_requested:
                break
            cells = range(block.start, block.stop)
            heard += await self._exchange([avr_isp.read_eeprom(ByteAddress(address)) for address in cells])
            monitor.advance(len(block))
        return bytes(heard)

    # -- writing -------------------------------------------------------------------------------------------------------

    async def write_flash(self, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole pages and return how many are finished.

        The next page travels while the target writes, and its last bytes are held back for the longest time the data
        sheet gives; for as long as the first page took where that was longer. The last page is watched until it is over.
        """
        part, writes = self._known_part()
        require_whole_pages(part, pages)
        blind_s, not_before, done, is_busy = part.times.flash_s, anyio.current_time(), 0, False
        for page in pages:
            if monitor.stop_requested:
                break
            try:
                await self._load(page, not_before)
            finally:
                self.ready_at = not_before = anyio.current_time() + blind_s
            is_busy = True
            done += 1
            if done == 1:
                blind_s = await self._try_first(writes, page, blind_s)
                is_busy, not_before = False, anyio.current_time()
            monitor.advance(len(page.data))
        if is_busy:
            await self._settle(writes, pages[done - 1])
        return done

    async def write_eeprom(self, segments: Sequence[Segment], monitor: Monitor) -> int:
        """Write EEPROM bytes, a page at a time where the part can, and return how many segments are finished."""
        _, writes = self._known_part()
        return await writes.write_eeprom(segments, monitor)

    async def _load(self, page: Segment, not_before: float) -> None:
        """Send a page and the instruction that writes it; nothing reaches the target before ``not_before``."""
        word = avr_isp.word_address(ByteAddress(page.start))
        instructions = [*self._extend(word), *load_page(page), avr_isp.write_flash_page(word)]
        block = self._block_of(instructions)
        wait_s = max(0.0, not_before - anyio.current_time())
        if block is None or not self._pirate.pace.is_block_faster(len(instructions), self._sck_hz, wait_s):
            await anyio.sleep_until(not_before)
            await self._exchange(instructions)
            return
        request = self._marked(block)
        is_collected = self._pirate.pace.blocks is Blocks.BUFFERED
        await self._pirate.command_ahead(
            request,
            ahead_bytes=len(block.encode()) - _HELD_BYTES if is_collected else 0,
            not_before=not_before,
            deadline_s=self._deadline_s(len(instructions)),
        )

    async def _try_first(self, writes: SelfTimedWrites, page: Segment, blind_s: float) -> float:
        """Wait for the first page as long as the data sheet says; return how long to wait for each of the others."""
        part, _ = self._known_part()
        begun = anyio.current_time()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(blind_s)
            if part.has_ready_poll and avr_isp.is_busy((await self._exchange([avr_isp.poll_ready()]))[0]):
                await writes.settle(MemoryKind.FLASH, page.start)
                blind_s = anyio.current_time() - begun
        return blind_s

    async def _settle(self, writes: SelfTimedWrites, page: Segment) -> None:
        """Wait until the page just begun is written; a reset in its midst would spoil it."""
        with anyio.CancelScope(shield=True):
            await writes.settle(MemoryKind.FLASH, page.start)

    # -- instructions --------------------------------------------------------------------------------------------------

    async def _exchange(self, instructions: Sequence[bytes]) -> bytes:
        """Send instructions in bulk transfers and return the fourth reply byte of each."""
        if not instructions:
            return b""
        pace = self._pirate.pace
        count = pace.bulk_instructions(self._sck_hz)
        chunks = [b"".join(instructions[at : at + count]) for at in range(0, len(instructions), count)]
        heard = bytearray()
        for at in range(0, len(chunks), pace.bulk_run(self._sck_hz)):
            *first, last = chunks[at : at + pace.bulk_run(self._sck_hz)]
            requests: list[Request[bytes]] = [*map(Bulk, first), self._marked(Bulk(last))]
            replies = await self._pirate.command(
                requests,
                deadline_s=self._deadline_s(len(instructions)),
                window=pace.bulk_window(self._sck_hz),
            )
            heard += b"".join(reply[3::4] for reply in replies)
        return bytes(heard)

    async def _deliver(self, instructions: Sequence[bytes]) -> bytes:
        """Send instructions of which only the last one's reply matters; zeros stand for the others."""
        block = self._block_of(instructions) if len(instructions) > 1 else None
        if block is None:
            return await self._exchange(instructions)
        replies = await self._pirate.command([self._marked(block)], deadline_s=self._deadline_s(len(instructions)))
        return bytes(len(instructions) - 1) + replies[0]

    def _block_of(self, instructions: Sequence[bytes]) -> WriteThenRead | None:
        """Return one command for all instructions, None where there is none or a byte of the last would be lost."""
        data = b"".join(instructions)[:-1]
        if len(data) > self._pirate.pace.block_bytes(self._sck_hz) or instructions[-1][0] not in _FREE_FOURTH_BYTE:
            return None
        return WriteThenRead(data)

    def _marked(self, request: Request[R]) -> Marked[R]:
        return Marked(request, self._pirate.pace.packet_bytes)

    def _extend(self, word: WordAddress) -> list[bytes]:
        """Return the instruction that sets the upper address bits, where the part has them and they change."""
        change = bank_change(self._part, word, self._extended)
        if change:
            self._extended = avr_isp.extended_address(word)
        return change

    @property
    def _byte_s(self) -> float:
        return self._pirate.pace.byte_s

    def _deadline_s(self, count: int) -> float:
        """Return the deadline for so many instructions."""
        each_s = 4 * (self._byte_s + self._pirate.pace.spi_byte_s(self._sck_hz)) + _TURN_S
        return _BATCH_S + _SLACK * count * each_s

    def _known_part(self) -> tuple[AvrPart, SelfTimedWrites]:
        if self._part is None or self._writes is None:
            raise LocalProtocolError("writing needs to know the part")
        return self._part, self._writes
