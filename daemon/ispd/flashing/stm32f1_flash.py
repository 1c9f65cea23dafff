"""The flash controller of a halted STM32F1: erase, program through a loader in RAM, option bytes.

Sequences: PM0075. What clones need on top, from public reports: keys are written although the lock reads open, flags are
cleared before each operation, and the busy flag is waited for after each half-word.
"""

from typing import Final

from ispd.errors import ErrorCode, Facts, TargetError
from ispd.flashing.cortex_core import CortexCore, Program
from ispd.flashing.stm32f1_loader import LOADER_CODE
from ispd.model.part import MemoryKind
from ispd.programmers.contract import Monitor
from ispd.programmers.swd_contract import SwdProgrammer
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

__all__ = ["Stm32Flash"]

_HALF_WORD_S: Final = 52.5e-6
"""Typical time to program a half-word; 40 to 70 us are allowed."""
_SLOWEST_HALF_WORD_S: Final = 100e-6
_PROGRAM_SLACK_S: Final = 0.5

_ERASE_S: Final = 1.0
"""Pages and the whole take 20 to 40 ms; an erase that opens a read protection is both."""
_ERASE_POLL_S: Final = 0.002

_CODE_AT: Final = RAM_BASE
_DATA_AT: Final = RAM_BASE + 0x100
_HALF_WORD_BYTES: Final = 2


class Stm32Flash:
    """The flash of a halted chip. Every method raises what the programmer raises, and ``TargetError`` where named.

    ``is_busy`` tells whether the chip may still be at work should an error come out.
    """

    def __init__(self, programmer: SwdProgrammer, core: CortexCore, clock: Clock) -> None:
        self._programmer = programmer
        self._core = core
        self._clock = clock
        self._has_loader = False
        self.is_busy = False

    async def open(self) -> None:
        """Unlock the controller of a chip that was reset and halted, and load the loader.

        Raises ``TargetError`` (target-locked) where it does not unlock, which it does only once after a reset.
        """
        await self._programmer.write_word(DBGMCU_CR, DBGMCU_STOP_WATCHDOGS)
        # RAM is ours alone: where the reset did not happen, DMA may still be writing there
        await self._programmer.write_word(AHBENR, AHBENR_RESET)
        self._has_loader = False
        await self._wait_ready(_ERASE_S)
        await self._unlock()

    async def close(self) -> None:
        """Lock the controller."""
        await self._programmer.write_word(FLASH_CR, Cr.LOCK)

    async def erase_page(self, address: int) -> None:
        """Erase the page at an address. Raises ``TargetError`` (erase-failed, target-locked, target-busy)."""
        await self._clear()
        await self._programmer.write_word(FLASH_CR, Cr.ERASE_PAGE)
        await self._programmer.write_word(FLASH_AR, address)
        await self._start(Cr.ERASE_PAGE, address)

    async def erase_all(self) -> None:
        """Erase all of the main flash; option bytes stay. Raises as :meth:`erase_page` does."""
        await self._clear()
        await self._programmer.write_word(FLASH_CR, Cr.ERASE_ALL)
        await self._start(Cr.ERASE_ALL, None)

    async def program(self, address: int, data: bytes) -> None:
        """Program erased half-words; at most what fits into RAM.

        Raises ``TargetError``: not-blank where a cell is not erased, target-locked where it is write protected, target-busy
        where the chip does not get done. ``facts.address`` is the half-word.
        """
        await self._program(address, data, Cr.PROGRAM)

    async def write_options(self, options: OptionBytes, monitor: Monitor) -> None:
        """Erase the option bytes and write them anew, and read them back; they are in force after the next reset.

        Opening a read protection erases the main flash. Raises ``TargetError`` as :meth:`program` does, and lock-mismatch
        where they read back otherwise.
        """
        await self._unlock()
        await self._unlock_options()
        await self._clear()
        await self._programmer.write_word(FLASH_CR, Cr.ERASE_OPTIONS | Cr.OPTIONS_OPEN)
        await self._start(Cr.ERASE_OPTIONS | Cr.OPTIONS_OPEN, OPTION_SPAN.start)
        # again, from the start: whether the erase left them open depends on the chip
        await self._unlock()
        await self._unlock_options()
        wanted = options.encode()
        await self._program(OPTION_SPAN.start, wanted, Cr.PROGRAM_OPTIONS | Cr.OPTIONS_OPEN)
        await self.close()
        found = await self._programmer.read(OPTION_SPAN, monitor)
        for offset, (expected, actual) in enumerate(zip(wanted, found, strict=False)):
            if expected != actual:
                raise TargetError(
                    ErrorCode.LOCK_MISMATCH,
                    f"option byte at 0x{OPTION_SPAN.start + offset:08X} reads 0x{actual:02X}, not 0x{expected:02X}",
                    hint="flash the board again; replace the chip if it stays so",
                    facts=Facts(memory="options", address=OPTION_SPAN.start + offset, expected=expected, actual=actual),
                )

    # -- pieces ------------------------------------------------------------------------------------------------------

    async def _unlock(self) -> None:
        await self._programmer.write_word(FLASH_CR, Cr.LOCK)
        await self._write_keys(FLASH_KEYR)
        if Cr.LOCK in Cr(await self._programmer.read_word(FLASH_CR)):
            raise _locked("the flash controller does not unlock")

    async def _unlock_options(self) -> None:
        await self._write_keys(FLASH_OPTKEYR)
        if Cr.OPTIONS_OPEN not in Cr(await self._programmer.read_word(FLASH_CR)):
            raise _locked("the option bytes do not unlock")

    async def _write_keys(self, register: int) -> None:
        for key in FLASH_KEYS:
            await self._programmer.write_word(register, key)

    async def _clear(self) -> None:
        await self._programmer.write_word(FLASH_SR, Sr.CLEAR)

    async def _start(self, operation: Cr, address: int | None) -> None:
        """Start what FLASH_CR was set to, and wait for its end."""
        self.is_busy = True
        await self._programmer.write_word(FLASH_CR, operation | Cr.START)
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

    async def _program(self, address: int, data: bytes, mode: Cr) -> None:
        """Have the loader put half-words into flash or option bytes."""
        if not self._has_loader:
            await self._programmer.write(_CODE_AT, LOADER_CODE)
            self._has_loader = True
        count = len(data) // _HALF_WORD_BYTES
        await self._programmer.write(_DATA_AT, data)
        await self._clear()
        await self._programmer.write_word(FLASH_CR, mode)
        # a hardware watchdog runs while the loader does
        await self._programmer.write_word(IWDG_KR, IWDG_RELOAD)
        self.is_busy = True
        await self._core.run(
            Program(
                entry=_CODE_AT,
                registers={
                    CoreRegister.R0: _DATA_AT,
                    CoreRegister.R1: address,
                    CoreRegister.R2: count,
                    CoreRegister.R3: FLASH_CONTROLLER,
                },
                likely_s=count * _HALF_WORD_S,
                limit_s=count * _SLOWEST_HALF_WORD_S + _PROGRAM_SLACK_S,
            )
        )
        self.is_busy = False
        await self._check_loader(address, count)
        await self._programmer.write_word(FLASH_CR, mode & Cr.OPTIONS_OPEN)

    async def _check_loader(self, address: int, count: int) -> None:
        """Judge by its registers what the loader did."""
        r1, r2, r5 = [await self._core.register(one) for one in (CoreRegister.R1, CoreRegister.R2, CoreRegister.R5)]
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
        hint="have its protection removed, which may erase it",
        facts=Facts(memory=MemoryKind.FLASH.value, address=address),
    )
