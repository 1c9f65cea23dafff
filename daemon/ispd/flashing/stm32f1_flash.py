"""The flash controller of a halted STM32F1: erase, program through a loader in RAM, option bytes.

Sequences: PM0075. What clones need on top, from public reports: keys are written although the lock reads open, flags are
cleared before each operation, and the busy flag is waited for after each half-word.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import anyio

from ispd.errors import ErrorCode, Facts, TargetError
from ispd.flashing.cortex_core import CortexCore, Program
from ispd.flashing.readback import Unwatched
from ispd.flashing.stm32f1_loader import LOADER_CODE
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.programmers.swd_contract import Place, SwdProgrammer
from ispd.transport.clock import Clock
from ispd.wire.cortex_m import CoreRegister
from ispd.wire.stm32f1 import (
    AHBENR,
    AHBENR_RESET,
    DBGMCU_CR,
    DBGMCU_STOP_WATCHDOGS,
    FLASH_AR,
    FLASH_CONTROLLER,
    FLASH_CR,
    FLASH_KEYR,
    FLASH_KEYS,
    FLASH_OPTKEYR,
    FLASH_SR,
    IWDG_KR,
    IWDG_RELOAD,
    OPTION_SPAN,
    RAM_BASE,
    Cr,
    OptionBytes,
    Sr,
)

__all__ = ["Stm32Flash", "block_bytes", "block_sizes"]

_HALF_WORD_S: Final = 52.5e-6
"""Typical time to program a half-word; 40 to 70 us are allowed."""
_SLOWEST_HALF_WORD_S: Final = 100e-6
_PROGRAM_SLACK_S: Final = 0.5

_ERASE_S: Final = 1.0
"""Pages and the whole take 20 to 40 ms; an erase that opens a read protection is both."""
_ERASE_LEAST_S: Final = 0.02
_ERASE_POLL_S: Final = 0.002

_CODE_AT: Final = RAM_BASE
_DATA_AT: Final = RAM_BASE + 0x100
_HALF_WORD_BYTES: Final = 2
_LONGEST_BLOCK_BYTES: Final = 8 * 1024
"""Takes 215 ms: a watchdog that runs from reset on (option bit WDG_SW) bites after 273 ms or more (RM0008: 16384 clocks of at most 60 kHz)."""
_PAGE_BYTES: Final = 1024
_LOADS_PER_BYTE: Final = 3


def block_sizes(most_bytes: int) -> Iterator[int]:
    """Yield the sizes of blocks without end: small ones first, since nothing is programmed while the first is loaded; each next one is
    loaded about as fast as the one before is programmed (7 us a byte at 1.8 MHz, and 26 us)."""
    size = _PAGE_BYTES
    while size < most_bytes:
        yield size
        size *= _LOADS_PER_BYTE
    while True:
        yield most_bytes


def block_bytes(ram_bytes: int) -> int:
    """Return how much is programmed at once with so much RAM: half of what remains beside the loader, whole flash pages where that is possible."""
    half = (ram_bytes - (_DATA_AT - RAM_BASE)) // 2
    return min(_LONGEST_BLOCK_BYTES, half // _PAGE_BYTES * _PAGE_BYTES or half // 4 * 4)


class Stm32Flash:
    """The flash of a halted chip. Every method raises what the programmer raises, and ``TargetError`` where named.

    ``block_bytes``: most that is programmed at once; twice that and the loader fit into RAM.
    ``is_busy`` tells whether the chip may still be at work should an error come out.
    """

    def __init__(self, programmer: SwdProgrammer, core: CortexCore, clock: Clock, block_bytes: int) -> None:
        self._programmer = programmer
        self._core = core
        self._clock = clock
        self._has_loader = False
        self.block_bytes = block_bytes
        self.is_busy = False

    async def open(self) -> None:
        """Unlock the controller of a chip that was reset and halted, and load the loader.

        Raises ``TargetError`` (target-locked) where it does not unlock, which it does only once after a reset.
        """
        # RAM is ours alone: where the reset did not happen, DMA may still be writing there
        await self._programmer.write_all(((DBGMCU_CR, DBGMCU_STOP_WATCHDOGS), (AHBENR, AHBENR_RESET)))
        self._has_loader = False
        await self._wait_ready(_ERASE_S)
        await self._unlock()

    async def close(self) -> None:
        """Lock the controller."""
        await self._programmer.write_word(FLASH_CR, Cr.LOCK)

    async def erase_page(self, address: int) -> None:
        """Erase the page at an address. Raises ``TargetError`` (erase-failed, target-locked, target-busy)."""
        await self._start(Cr.ERASE_PAGE, address, ((FLASH_AR, address),))

    async def erase_all(self) -> None:
        """Erase all of the main flash; option bytes stay. Raises as :meth:`erase_page` does."""
        await self._start(Cr.ERASE_ALL, None)

    async def program(self, blocks: Sequence[Segment], between: Callable[[Segment], Awaitable[None]]) -> None:
        """Program erased half-words, block after block of at most :attr:`block_bytes`; a block's bytes go into RAM while the loader
        has the one before.

        :param between: awaited after each block but while nothing is under way, with the block that is done; may raise to stop.

        Raises ``TargetError``: not-blank where a cell is not erased, target-locked where it is write protected, target-busy
        where the chip does not get done. ``facts.address`` is the half-word.
        """
        for number, block in enumerate(blocks):
            if number == 0:
                await self._load(block.data, number)
                await self._begin(Cr.PROGRAM)
            following = blocks[number + 1] if number + 1 < len(blocks) else None
            await self._program(block, number, following)
            await between(block)
        if blocks:
            await self._programmer.write_word(FLASH_CR, 0)

    async def write_options(self, options: OptionBytes) -> None:
        """Erase the option bytes and write them anew, and read them back; they are in force after the next reset.

        Opening a read protection erases the main flash. An error leaves them half written, with reading protected; cancelling does not,
        it waits until they are whole.
        Raises ``TargetError`` as :meth:`program` does, and lock-mismatch where they read back otherwise.
        """
        wanted = options.encode()
        # erased option bytes protect the chip from being read; every wait in it has its own limit
        with anyio.CancelScope(shield=True):
            await self._rewrite_options(wanted)
        found = await self._programmer.read(OPTION_SPAN, Unwatched())
        for offset, (expected, actual) in enumerate(zip(wanted, found, strict=False)):
            if expected != actual:
                raise TargetError(
                    ErrorCode.LOCK_MISMATCH,
                    f"option byte at 0x{OPTION_SPAN.start + offset:08X} reads 0x{actual:02X}, not 0x{expected:02X}",
                    hint="flash the board again; replace the chip if it stays so",
                    facts=Facts(memory="options", address=OPTION_SPAN.start + offset, expected=expected, actual=actual),
                )

    # -- pieces ------------------------------------------------------------------------------------------------------

    async def _rewrite_options(self, wanted: bytes) -> None:
        await self._unlock()
        await self._unlock_options()
        await self._start(Cr.ERASE_OPTIONS | Cr.OPTIONS_OPEN, OPTION_SPAN.start)
        # again, from the start: whether the erase left them open depends on the chip
        await self._unlock()
        await self._unlock_options()
        await self._load(wanted, 0)
        await self._begin(Cr.PROGRAM_OPTIONS | Cr.OPTIONS_OPEN)
        await self._program(Segment(OPTION_SPAN.start, wanted), 0)
        await self._programmer.write_word(FLASH_CR, Cr.OPTIONS_OPEN)
        await self.close()

    async def _unlock(self) -> None:
        await self._programmer.write_all(((FLASH_CR, Cr.LOCK), *((FLASH_KEYR, key) for key in FLASH_KEYS)))
        if Cr.LOCK in Cr(await self._programmer.read_word(FLASH_CR)):
            raise _locked("the flash controller does not unlock")

    async def _unlock_options(self) -> None:
        await self._programmer.write_all([(FLASH_OPTKEYR, key) for key in FLASH_KEYS])
        if Cr.OPTIONS_OPEN not in Cr(await self._programmer.read_word(FLASH_CR)):
            raise _locked("the option bytes do not unlock")

    async def _start(self, operation: Cr, address: int | None, more: Sequence[tuple[Place, int]] = ()) -> None:
        """Clear the flags, set FLASH_CR and start an erase, and wait for its end."""
        self.is_busy = True
        await self._programmer.write_all(
            ((FLASH_SR, Sr.CLEAR), (FLASH_CR, operation), *more, (FLASH_CR, operation | Cr.START))
        )
        await self._clock.sleep(_ERASE_LEAST_S)
        state = await self._wait_ready(_ERASE_S)
        self.is_busy = False
        await self._programmer.write_word(FLASH_CR, operation & Cr.OPTIONS_OPEN)
        if Sr.WRITE_PROTECTED in state:
            raise _write_protected(address)
        if state & Sr.ERRORS:
            raise TargetError(
                ErrorCode.ERASE_FAILED,
                f"the erase ended with FLASH_SR 0x{state:02X}",
                hint="flash the board again; replace the chip if it stays so",
                facts=Facts(memory=MemoryKind.FLASH.value, address=address),
            )

    async def _wait_ready(self, limit_s: float) -> Sr:
        deadline = self._clock.monotonic() + limit_s
        while True:
            is_late = self._clock.monotonic() > deadline
            state = Sr(await self._programmer.read_word(FLASH_SR))
            if Sr.BUSY not in state:
                return state
            if is_late:
                raise TargetError(
                    ErrorCode.TARGET_BUSY,
                    f"the flash is still busy after {limit_s:.1f} s",
                    hint="check the supply voltage, then flash again; replace the chip if it stays so",
                )
            await self._clock.sleep(_ERASE_POLL_S)

    async def _load(self, data: bytes, number: int) -> None:
        """Put the loader into RAM where it is not yet, and a block's bytes into the half that the block's number says."""
        if not self._has_loader:
            await self._programmer.write(_CODE_AT, LOADER_CODE)
            self._has_loader = True
        await self._programmer.write(self._data_at(number), data)

    def _data_at(self, number: int) -> int:
        return _DATA_AT + number % 2 * self.block_bytes

    async def _begin(self, mode: Cr) -> None:
        """Clear the flags, and tell the controller what is programmed."""
        await self._programmer.write_all(((FLASH_SR, Sr.CLEAR), (FLASH_CR, mode)))

    async def _program(self, block: Segment, number: int, following: Segment | None = None) -> None:
        """Have the loader put half-words that were loaded into flash or option bytes, and load those of the next block meanwhile."""
        count = len(block.data) // _HALF_WORD_BYTES
        registers = {
            CoreRegister.R0: self._data_at(number),
            CoreRegister.R1: block.start,
            CoreRegister.R2: count,
        }
        if number == 0:  # the loader does not change it
            registers[CoreRegister.R3] = FLASH_CONTROLLER
        program = Program(
            entry=_CODE_AT,
            registers=registers,
            likely_s=count * _HALF_WORD_S,
            limit_s=count * _SLOWEST_HALF_WORD_S + _PROGRAM_SLACK_S,
        )
        # a hardware watchdog runs while the loader does
        await self._programmer.write_word(IWDG_KR, IWDG_RELOAD)
        self.is_busy = True
        await self._core.start(program, again=number > 0)
        if following is not None:
            await self._load(following.data, number + 1)
            await self._programmer.write_word(IWDG_KR, IWDG_RELOAD)
        try:
            await self._core.finish(program)
        except TargetError as error:
            if error.code is not ErrorCode.TARGET_NOT_RESPONDING or block.start == OPTION_SPAN.start:
                raise
            raise TargetError(
                error.code,
                f"writing from 0x{block.start:08X} to 0x{block.span.stop - 1:08X} does not end: {error.message}",
                hint=error.hint,
                facts=Facts(memory=MemoryKind.FLASH.value, address=block.start),
            ) from error
        self.is_busy = False
        await self._check_loader(block.start, count)

    async def _check_loader(self, address: int, count: int) -> None:
        """Judge by its registers what the loader did."""
        r1, r2, r5 = await self._programmer.read_all((CoreRegister.R1, CoreRegister.R2, CoreRegister.R5))
        state = Sr(r5 & 0xFF)
        if Sr.WRITE_PROTECTED in state:
            raise _write_protected(r1)
        if Sr.PROGRAM_ERROR in state:
            raise TargetError(
                ErrorCode.NOT_BLANK,
                f"flash at 0x{r1:08X} was not erased",
                hint="erase the chip first; replace it if it stays so",
                facts=Facts(memory=MemoryKind.FLASH.value, address=r1),
            )
        if (r1, r2) != (address + _HALF_WORD_BYTES * count, 0):
            raise TargetError(
                ErrorCode.TARGET_LOST,
                f"the loader stopped at 0x{r1:08X} with {r2} half-words to go",
                hint="check the board's supply and the wires to it, then flash it again",
                facts=Facts(memory=MemoryKind.FLASH.value, address=r1),
            )


def _locked(message: str) -> TargetError:
    return TargetError(ErrorCode.TARGET_LOCKED, message, hint="re-plug the board's supply, then flash it again")


def _write_protected(address: int | None) -> TargetError:
    where = "" if address is None else f" at 0x{address:08X}"
    return TargetError(
        ErrorCode.TARGET_LOCKED,
        f"flash is write protected{where}",
        hint="--unlock removes the protection and erases all of its flash",
        facts=Facts(memory=MemoryKind.FLASH.value, address=address),
    )
