"""Flash, EEPROM and single instructions of the target, through a recognised sketch. Lives from one entering to the next."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import anyio

from ispd.errors import LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Monitor
from ispd.programmers.flash_page import bank_change, load_page, require_whole_pages
from ispd.programmers.self_timed import BUSY_FACTOR, busy_error
from ispd.programmers.stk500v1_pace import Pace, Way
from ispd.programmers.stk500v1_sketch import Sketch
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress, WordAddress
from ispd.wire.engine import Chain, Request
from ispd.wire.stk500v1 import MAX_BLOCK_BYTES, BlockMemory, LoadAddress, ProgramPage, ReadPage, Universal

__all__ = ["TargetMemory"]

R = TypeVar("R")

_REQUEST_S = 1.0
"""Room in a batch's deadline for each block; the slowest takes 0.4 s."""

_BATCH_S = 5.0
"""Room in a batch's deadline for everything else."""

_INSTRUCTION_S = 0.05
"""Room for each single instruction: 6.3 ms at 9600 baud."""

_READS_AHEAD = 3
"""Reads go four deep: enough to hide the turn-around of any converter."""

_MEASURE_COUNT = 24
_POLLS_LIMIT = 32


class TargetMemory:
    """The target's memories while it is in programming mode. ``part`` None allows looking, not writing."""

    def __init__(self, sketch: Sketch, part: AvrPart | None, pace: Pace) -> None:
        self._sketch = sketch
        self._part = part
        self._pace = pace
        self._epoch = sketch.epoch
        self._extended: int | None = None
        self._polls: dict[MemoryKind, int] = {}
        self._may_write = False

    @property
    def is_stale(self) -> bool:
        """True once the framing was lost: the sketch may have been reset, and the target with it."""
        return self._epoch != self._sketch.epoch or not self._sketch.is_confirmed

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions back to back and return the fourth reply byte of each."""
        if not self._may_write and any(avr_isp.is_write(instruction) for instruction in instructions):
            await self._confirm()
        if any(map(avr_isp.moves_bank, instructions)):
            self._extended = None
        return bytes(await self._universal(instructions))

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM, less than asked only when stopped."""
        block_memory = BlockMemory.FLASH if memory is MemoryKind.FLASH else BlockMemory.EEPROM
        if memory not in (MemoryKind.FLASH, MemoryKind.EEPROM):
            raise LocalProtocolError(f"{memory} is not read in blocks")
        await self._sketch.reconfirm()
        blocks = list(span.aligned(2).blocks(MAX_BLOCK_BYTES))
        heard = bytearray()

        def take(data: bytes) -> None:
            block = Span(blocks[0].start + len(heard), blocks[0].start + len(heard) + len(data))
            heard.extend(data)
            monitor.advance(len(block.overlap(span)))

        await self._sketch.command(
            self._read_requests(blocks, block_memory),
            window=replace(self._sketch.window, ahead_requests=_READS_AHEAD),
            deadline_s=_BATCH_S + _REQUEST_S * len(blocks),
            stop=lambda: monitor.stop_requested,
            on_reply=take,
        )
        skipped = span.start % 2
        return bytes(heard[skipped : skipped + len(span)])

    async def write_flash(self, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole pages the faster way and return how many are finished."""
        part = self._known_part()
        require_whole_pages(part, pages)
        page_bytes = part.flash.page_bytes
        await self._measure()
        done = 0
        while done < len(pages) and not monitor.stop_requested:
            decision = self._pace.decide(page_bytes, len(pages) - done)
            chosen = pages[done:] if decision.pages is None else pages[done : done + decision.pages]
            write = self._write_blocks if decision.way is Way.BLOCK else self._write_loads
            done += await write(chosen, monitor)
        return done

    async def write_eeprom(self, segments: Sequence[Segment], monitor: Monitor) -> int:
        """Write EEPROM bytes, a page at a time where the part can, and return how many segments are finished."""
        eeprom = self._known_part().eeprom
        await self._measure()
        await self._confirm()
        for done, segment in enumerate(segments):
            if segment.span not in eeprom.span:
                raise LocalProtocolError(f"{segment.span} is not in EEPROM")
            for block in segment.span.blocks(eeprom.page_bytes):
                if monitor.stop_requested:
                    return done
                data = segment.data[block.start - segment.start : block.stop - segment.start]
                if eeprom.is_paged and len(block) == eeprom.page_bytes:
                    await self._write_eeprom_page(block.start, data)
                else:
                    await self._write_eeprom_bytes(block.start, data)
                monitor.advance(len(block))
        return len(segments)

    # -- flash ---------------------------------------------------------------------------------------------------------

    async def _write_blocks(self, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write each page as one ``d``: the start of the next travels while the sketch commits this one.

        One page a block beats 256 bytes a block: 60 of 133 bytes travel unseen, instead of 60 of 261. Only ``d`` can
        do harm to a bootloader, which answers the other commands just as well: so ask who is there right before.
        """
        await self._confirm()
        page_bytes = len(pages[0].data)
        finished_at: list[float] = []

        def note(_reply: None) -> None:
            finished_at.append(anyio.current_time())
            monitor.advance(page_bytes)

        await self._sketch.command(
            self._block_requests(pages),
            window=replace(self._sketch.window, ahead_requests=1),
            deadline_s=_BATCH_S + _REQUEST_S * len(pages),
            stop=lambda: monitor.stop_requested,
            on_reply=note,
        )
        for before, after in pairwise(finished_at):
            self._pace.note_page(Way.BLOCK, page_bytes, after - before)
        return len(finished_at)

    async def _write_loads(self, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write each page as a window of single loads and one ``4C``, and poll."""
        part = self._known_part()
        await self._confirm()
        for done, page in enumerate(pages):
            if monitor.stop_requested:
                return done
            begun = anyio.current_time()
            word = avr_isp.word_address(ByteAddress(page.start))
            instructions = [*self._extend(word), *load_page(page), avr_isp.write_flash_page(word)]
            await self._write_and_wait(instructions, MemoryKind.FLASH, part.times.flash_s, page.start)
            self._pace.note_page(Way.LOAD, len(page.data), anyio.current_time() - begun)
            monitor.advance(len(page.data))
        return len(pages)

    def _block_requests(self, pages: Sequence[Segment]) -> Iterator[Request[None]]:
        """Yield one request a page, with its address only where the sketch's own does not lead there."""
        expected: int | None = None
        for page in pages:
            word = avr_isp.word_address(ByteAddress(page.start))
            request = ProgramPage(page.data)
            yield request if word == expected and word & 0xFFFF else self._located(word, request)
            expected = word + len(page.data) // 2

    def _read_requests(self, blocks: Sequence[Span], memory: BlockMemory) -> Iterator[Request[bytes]]:
        """Yield one request a block. EEPROM reads do not move the sketch's address, and count it in words too."""
        for number, block in enumerate(blocks):
            word = avr_isp.word_address(ByteAddress(block.start))
            request = ReadPage(memory, len(block))
            if memory is BlockMemory.EEPROM:
                yield Chain((LoadAddress(word),), request)
            else:
                yield self._located(word, request) if number == 0 or not word & 0xFFFF else request

    def _located(self, word: WordAddress, request: Request[R]) -> Chain[R]:
        """Return the request behind the commands that set its address."""
        extend = tuple(Universal(instruction) for instruction in self._extend(word))
        return Chain((*extend, LoadAddress(WordAddress(word & 0xFFFF))), request)

    def _extend(self, word: WordAddress) -> list[bytes]:
        """Return the instruction that sets the upper address bits, where the part has them and they change."""
        change = bank_change(self._part, word, self._extended)
        if change:
            self._extended = avr_isp.extended_address(word)
        return change

    # -- EEPROM --------------------------------------------------------------------------------------------------------

    async def _write_eeprom_page(self, start: int, data: bytes) -> None:
        """Load a whole page and write it at once."""
        loads = [avr_isp.load_eeprom_page(ByteAddress(start + offset), value) for offset, value in enumerate(data)]
        write = avr_isp.write_eeprom_page(ByteAddress(start))
        await self._write_and_wait([*loads, write], MemoryKind.EEPROM, self._known_part().times.eeprom_s, start)

    async def _write_eeprom_bytes(self, start: int, data: bytes) -> None:
        """Write byte by byte: for parts without EEPROM pages, and for pieces of pages."""
        for address, value in enumerate(data, start):
            write = avr_isp.write_eeprom(ByteAddress(address), value)
            await self._write_and_wait([write], MemoryKind.EEPROM, self._known_part().times.eeprom_s, address)

    # -- instructions --------------------------------------------------------------------------------------------------

    async def _write_and_wait(
        self, instructions: Sequence[bytes], memory: MemoryKind, limit_s: float, address: int
    ) -> None:
        """Send instructions of which the last begins a write, and wait until the target finished it.

        The first polls travel with the write, as many as the last write took. Raises ``TargetError`` with
        ``target-busy`` where the write does not end.
        """
        if not self._known_part().has_ready_poll:
            await self._universal(instructions)
            await anyio.sleep(limit_s)
            return
        count = self._polls.get(memory) or min(_POLLS_LIMIT, math.ceil(limit_s * 0.8 / (self._pace.universal_s or 1)))
        polls = (await self._universal([*instructions, *[avr_isp.poll_ready()] * count]))[len(instructions) :]
        end = anyio.current_time() + limit_s * BUSY_FACTOR
        while all(avr_isp.is_busy(poll) for poll in polls):
            if anyio.current_time() > end:
                raise busy_error(memory, address)
            polls += await self._universal([avr_isp.poll_ready()])
        ready = next(number for number, poll in enumerate(polls, 1) if not avr_isp.is_busy(poll))
        self._polls[memory] = min(_POLLS_LIMIT, ready)

    async def _universal(self, instructions: Sequence[bytes]) -> list[int]:
        """Send instructions through the window and return their fourth reply bytes."""
        return await self._sketch.command(
            [Universal(instruction) for instruction in instructions],
            deadline_s=_BATCH_S + _INSTRUCTION_S * len(instructions),
        )

    async def _measure(self) -> None:
        """Measure the line once, with instructions that only look."""
        if self._pace.universal_s is None:
            begun = anyio.current_time()
            await self._universal([avr_isp.read_signature(0)] * _MEASURE_COUNT)
            self._pace.universal_s = (anyio.current_time() - begun) / _MEASURE_COUNT

    async def _confirm(self) -> None:
        """Make sure, right before writing, that no bootloader took the sketch's place."""
        await self._sketch.reconfirm()
        self._may_write = True

    def _known_part(self) -> AvrPart:
        if self._part is None:
            raise LocalProtocolError("writing needs to know the part")
        return self._part
