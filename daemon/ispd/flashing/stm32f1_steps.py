"""Carries out the steps of a plan on a connected STM32F1."""

from typing import Final

from ispd.errors import ErrorCode, Facts, LocalProtocolError, TargetError
from ispd.flashing.cortex_core import CortexCore
from ispd.flashing.readback import Readback, Tally, Unwatched
from ispd.flashing.steps import Leave, VerifyBits, VerifyCells
from ispd.flashing.stm32f1_flash import Stm32Flash
from ispd.flashing.stm32f1_identify import Stm32Facts, check_same, read_id, read_options, state_of
from ispd.flashing.stm32f1_plan import (
    CheckBlank,
    EraseAll,
    ErasePages,
    Stm32Step,
    Unlock,
    WriteFlash,
    WriteOptions,
    blocks_of,
)
from ispd.flashing.target_state import TargetState
from ispd.flashing.unit_work import UnitWork
from ispd.flashing.verify import Mismatch, bits_note, compare, not_blank_error
from ispd.model.image import BLANK, Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Monitor
from ispd.programmers.swd_contract import SwdProgrammer
from ispd.wire.stm32f1 import FLASH_OBR, FLASH_WRPR, RDP_OPEN, OptionBytes

__all__ = ["Stm32Steps"]

_NRST_S: Final = 0.01
_HALF_WORD_BYTES: Final = 2
_BLANK_WORD: Final = 0xFFFF_FFFF
_BLANK_HALF_WORD: Final = bytes([BLANK]) * _HALF_WORD_BYTES


class Stm32Steps:
    """Steps on one chip, which stays connected throughout. Errors are those of the programmer, and ``TargetError``."""

    def __init__(
        self, programmer: SwdProgrammer, core: CortexCore, facts: Stm32Facts, work: UnitWork, tally: Tally
    ) -> None:
        self.chip_id = facts.id
        self._programmer = programmer
        self._core = core
        self._work = work
        self._part = facts.part
        self._flash_span = facts.flash
        self._tally = tally
        self._flash = Stm32Flash(programmer, core, work.clock, facts.block_bytes)
        self._readback = Readback(
            self._read, self._read_state, facts.part, work.observer.checkpoint, tally, work.warnings
        )
        self._held: tuple[Segment, ...] = ()

    @property
    def is_busy(self) -> bool:
        """True when the chip may still be at work should an error come out."""
        return self._flash.is_busy

    async def prepare(self) -> None:
        """Reset and halt the chip, make sure that it is still the same, and open its flash controller."""
        await self._core.reset_and_halt()
        check_same(self.chip_id, await read_id(self._programmer))
        await self._flash.open()

    async def do(self, step: Stm32Step) -> str:
        """Carry out one step and return what it found out, for the record."""
        match step:
            case Unlock():
                return await self._unlock(step)
            case CheckBlank():
                await self._check_blank(step)
            case ErasePages():
                return await self._erase_pages(step.pages)
            case EraseAll():
                await self._flash.erase_all()
                await self._check_erased()
            case WriteFlash():
                await self._write(step)
            case VerifyCells():
                await self._flash.close()
                await self._readback.verify_cells(step)
            case WriteOptions():
                await self._write_options(step.options)
            case VerifyBits():
                return await self._verify_bits(step)
            case Leave():
                await self._leave()
        return ""

    # -- flash -------------------------------------------------------------------------------------------------------

    async def _read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        if memory is not MemoryKind.FLASH:
            raise LocalProtocolError(f"{memory} of an STM32 is not read as cells")
        try:
            return await self._programmer.read(span, monitor)
        except TargetError as error:
            self._doubt(error)
            raise

    def _doubt(self, error: TargetError) -> None:
        """Raise an error anew with the question whether there is flash at all, where that is not certain."""
        address = error.facts.address
        certain = self._part.flash.start + self._part.smallest_flash_bytes
        if address is None or address not in self._flash_span or address + self._flash.block_bytes <= certain:
            return
        hint = f"has the chip the {len(self._flash_span) // 1024} KiB of flash that it claims? {error.hint}"
        raise TargetError(error.code, error.message, hint=hint, facts=error.facts) from error

    async def _erase_pages(self, pages: tuple[int, ...]) -> str:
        for page in pages:
            await self._work.observer.checkpoint()
            await self._flash.erase_page(page)
        return f"{len(pages)} page{'s' if len(pages) > 1 else ''}"

    async def _check_erased(self) -> None:
        """Make sure of an erase by the first word and the last one that is there for certain; what is written is proved later anyway."""
        start = self._part.flash.start
        places = (start, start + self._part.smallest_flash_bytes - 4)
        for address, word in zip(places, await self._programmer.read_all(places), strict=True):
            if word != _BLANK_WORD:
                raise TargetError(
                    ErrorCode.ERASE_FAILED,
                    f"flash at 0x{address:08X} reads 0x{word:08X} after the erase",
                    hint="check the supply voltage, then flash again; replace the chip if the same address fails again",
                    facts=Facts(part=self._part.id, memory=MemoryKind.FLASH.value, address=address),
                )

    async def _check_blank(self, step: CheckBlank) -> None:
        image = Image.of(step.expected)
        held = [await self._readback.cells(MemoryKind.FLASH, span) for span in step.spans]
        for cells in held:
            stuck = [wrong for wrong in compare(step.expected, cells) if not _is_blank_at(cells, wrong)]
            if stuck:
                raise not_blank_error(self._part, stuck)
        self._held = tuple(
            Segment(word.start, image.bytes_in(word))
            for cells in held
            for word in cells.span.blocks(_HALF_WORD_BYTES)
            if compare(step.expected, Segment(word.start, _at(cells, word.start)))
        )

    async def _write(self, step: WriteFlash) -> None:
        async def done(block: Segment) -> None:
            self._tally.settle(len(block.data))
            await self._work.observer.checkpoint()

        blocks = step.blocks
        if step.after_check:
            blocks = blocks_of(Image.of(self._held), self._flash.block_bytes)
        try:
            await self._flash.program(blocks, done)
        except TargetError as error:
            self._doubt(error)
            raise

    # -- option bytes ------------------------------------------------------------------------------------------------

    async def _unlock(self, step: Unlock) -> str:
        await self._write_options(step.options)
        if not step.expects_blank:
            return ""
        # only a chip that really erased itself is trusted to have opened
        found = Segment(self._flash_span.start, await self._programmer.read(self._flash_span, Unwatched()))
        blank = Segment(found.start, bytes([BLANK]) * len(self._flash_span))
        wrong = compare((blank,), found)
        if wrong or len(found.data) != len(blank.data):
            at = wrong[0] if wrong else Mismatch(found.span.stop, BLANK, 0)
            raise TargetError(
                ErrorCode.ERASE_FAILED,
                f"flash at 0x{at.address:08X} is not blank after its read protection was removed",
                hint="flash the board again; replace the chip if it stays so",
                facts=Facts(part=self._part.id, memory=MemoryKind.FLASH.value, address=at.address, actual=at.actual),
            )
        return "flash was erased"

    async def _write_options(self, options: OptionBytes) -> None:
        """Write, reset, and make sure that they are in force: by the core first, by NRST where that is not enough."""
        await self._flash.write_options(options)
        await self._core.reset_and_halt()
        if not await self._are_in_force(options):
            await self._core.catch_resets()
            await self._programmer.hold_reset(is_held=True)
            await self._work.clock.sleep(_NRST_S)
            await self._programmer.hold_reset(is_held=False)
            await self._work.clock.sleep(_NRST_S)
            await self._core.reset_and_halt()
        if not await self._are_in_force(options):
            raise self._not_in_force(options)

    async def _are_in_force(self, options: OptionBytes) -> bool:
        obr, wrpr = await self._programmer.read_all((FLASH_OBR, FLASH_WRPR))
        return OptionBytes.of_registers(obr, wrpr) == options.as_registers()

    def _not_in_force(self, options: OptionBytes) -> TargetError:
        what = "option bytes" if options.rdp == RDP_OPEN else "read protection"
        return TargetError(
            ErrorCode.LOCK_MISMATCH,
            f"the new {what} are not in force after a reset",
            hint="unplug the board's supply for a second, then flash it again",
            facts=Facts(part=self._part.id, memory=MemoryKind.LOCK.value),
        )

    async def _read_state(self) -> TargetState:
        return state_of(await read_options(self._programmer))

    async def _verify_bits(self, step: VerifyBits) -> str:
        """Compare cells, and make sure that they are what is in force."""
        after = await self._readback.verify_bits(step.expected)
        self._work.learn(fuses_after=after.fuses, lock_after=after.lock)
        options = OptionBytes.of_values([after.lock, *after.fuses.values()])
        if not await self._are_in_force(options):
            raise self._not_in_force(options)
        asked = {memory: step.expected[memory] for memory in step.asked}
        return bits_note(self._part, asked, after.bits)

    async def _leave(self) -> None:
        """Make sure that it is the same chip as at the start, then let it run."""
        is_locked = self._work.outcome.lock_after not in (None, RDP_OPEN)
        check_same(self.chip_id, await read_id(self._programmer), may_hide=is_locked)
        runs = await self._core.reset_and_run()
        if runs is None:
            await self._leave_silent()
            return
        if not runs and not is_locked:
            self._work.warnings.append("the program crashes as soon as it is started")
        await self._programmer.disconnect()

    async def _leave_silent(self) -> None:
        """Let go of a chip that was reset and hears nothing any more: there is nothing left to end but the programmer's side."""
        self._work.warnings.append(
            "the program was started and turned SWD off, or sleeps: it is reached under reset only"
        )
        try:
            await self._programmer.disconnect()
        except TargetError:
            return


def _at(cells: Segment, address: int) -> bytes:
    """Return the half-word that holds an address."""
    start = (address - cells.start) // _HALF_WORD_BYTES * _HALF_WORD_BYTES
    return cells.data[start : start + _HALF_WORD_BYTES]


def _is_blank_at(cells: Segment, wrong: Mismatch) -> bool:
    return _at(cells, wrong.address) == _BLANK_HALF_WORD
