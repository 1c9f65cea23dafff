"""A Cortex-M core behind an SWD programmer: halt, reset, run, and run a small program of ours in its RAM."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ispd.errors import ErrorCode, TargetError
from ispd.programmers.swd_contract import Place, SwdProgrammer
from ispd.transport.clock import Clock
from ispd.wire.cortex_m import (
    AIRCR,
    AIRCR_RESET,
    DEMCR,
    DEMCR_CATCH_RESET,
    DEMCR_TRACE,
    DFSR,
    DFSR_CLEAR,
    DHCSR,
    XPSR_THUMB,
    CoreRegister,
    Dhcsr,
    dhcsr,
)

__all__ = ["CortexCore", "Program"]

_HALT_S: Final = 0.2
_POLL_S: Final = 0.001
_PROGRAM_POLL_S: Final = 0.002
_START_S: Final = 0.01
"""What a program gets after a reset before it is looked whether it crashed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program of ours that ends with a breakpoint.

    :param entry: where it starts, in RAM.
    :param registers: what it is given.
    :param likely_s: how long it usually takes.
    :param limit_s: when it is given up.
    """

    entry: int
    registers: Mapping[CoreRegister, int]
    likely_s: float
    limit_s: float


class CortexCore:
    """The core of a connected target. Every method raises what the programmer raises, and ``TargetError`` where named."""

    def __init__(self, programmer: SwdProgrammer, clock: Clock) -> None:
        self._programmer = programmer
        self._clock = clock
        self._started_s = clock.monotonic()

    async def halt(self) -> None:
        """Halt the core where it is. Raises ``TargetError`` (target-not-responding) where it does not halt."""
        await self._programmer.write_word(DHCSR, dhcsr(Dhcsr.DEBUG | Dhcsr.HALT))
        await self._wait_halted(_HALT_S, _POLL_S, "the core does not halt")

    async def reset_and_halt(self) -> None:
        """Reset the chip and halt the core at its first instruction: clocks, DMA and flash controller are as after power-up.

        Raises ``TargetError`` (target-not-responding) where it does not halt there.
        """
        if not await self._reset_caught():
            # one that is halted already would look as if the reset had done it
            await self._programmer.write_word(DHCSR, dhcsr(Dhcsr.DEBUG))
            await self._programmer.write_word(DEMCR, DEMCR_CATCH_RESET)
            await self._reset()
            await self._wait_halted(_HALT_S, _POLL_S, "the core does not halt after a reset", forgives=True)
        await self._programmer.write_word(DEMCR, DEMCR_TRACE)

    async def catch_resets(self) -> None:
        """Have the core halted at its first instruction after whatever resets it from now on."""
        await self._programmer.write_word(DEMCR, DEMCR_CATCH_RESET)

    async def _reset_caught(self) -> bool:
        """Reset a core that is halted without letting it go before; false where it ran, or it is not certain that it was reset.

        Held since a connection under reset, its program may turn its debug pins off as soon as it runs.
        """
        # reading forgets the resets before this one (ARM DDI 0403, DHCSR.S_RESET_ST)
        if Dhcsr.IS_HALTED not in Dhcsr(await self._programmer.read_word(DHCSR)):
            return False
        await self.catch_resets()
        await self._reset()
        state = await self._wait_halted(_HALT_S, _POLL_S, "the core does not halt after a reset", forgives=True)
        return Dhcsr.WAS_RESET in state

    async def reset_and_run(self) -> bool | None:
        """Reset the chip and let it run; return whether it runs, false where it crashed beyond its own fault handler.

        None where it answers no more: a program may turn its debug pins off, or sleep.
        """
        await self._programmer.write_word(DEMCR, 0)
        await self._programmer.write_word(DHCSR, dhcsr(Dhcsr.DEBUG))
        await self._reset()
        await self._clock.sleep(_START_S)
        try:
            state = Dhcsr(await self._programmer.read_word(DHCSR))
        except TargetError:
            return None
        return not state & (Dhcsr.IS_LOCKED_UP | Dhcsr.IS_HALTED)

    async def start(self, program: Program, *, again: bool = False) -> None:
        """Start a program of ours, interrupts masked; :meth:`finish` waits for its end. RAM can be written meanwhile.

        :param again: the core is halted since a program of ours ended: only what differs is set.
        """
        masked = Dhcsr.DEBUG | Dhcsr.MASK_INTERRUPTS
        values: list[tuple[Place, int]] = [*program.registers.items(), (CoreRegister.PC, program.entry)]
        if not again:
            # the mask must not change in the moment the core is let go (ARM DDI 0403, C1.6.2)
            values += ((CoreRegister.XPSR, XPSR_THUMB), (DFSR, DFSR_CLEAR), (DHCSR, dhcsr(masked | Dhcsr.HALT)))
        await self._programmer.write_all((*values, (DHCSR, dhcsr(masked))))
        self._started_s = self._clock.monotonic()

    async def finish(self, program: Program) -> None:
        """Wait until a program comes to its breakpoint; the core is halted then. Raises ``TargetError`` where it does not end."""
        elapsed_s = self._clock.monotonic() - self._started_s
        if elapsed_s < program.likely_s:
            await self._clock.sleep(program.likely_s - elapsed_s)
        try:
            await self._wait_halted(program.limit_s, _PROGRAM_POLL_S, "the program in RAM does not end")
        except TargetError as error:
            if error.code is ErrorCode.TARGET_NOT_RESPONDING:
                await self.halt()
            raise

    async def _reset(self) -> None:
        try:
            await self._programmer.write_word(AIRCR, AIRCR_RESET)
        except TargetError:
            # some answer no more to the very word that resets them; whether it did is seen by what follows
            return

    async def _wait_halted(self, limit_s: float, poll_s: float, complaint: str, *, forgives: bool = False) -> Dhcsr:
        """Wait until the core is halted and return what it showed meanwhile. ``forgives``: it may not answer for a while."""
        deadline = self._clock.monotonic() + limit_s
        seen = Dhcsr(0)
        while True:
            is_late = self._clock.monotonic() > deadline
            try:
                state = Dhcsr(await self._programmer.read_word(DHCSR))
            except TargetError:
                if is_late or not forgives:
                    raise
                state = Dhcsr(0)
            seen |= state
            if Dhcsr.IS_HALTED in state:
                return seen
            if is_late or Dhcsr.IS_LOCKED_UP in state:
                raise TargetError(
                    ErrorCode.TARGET_NOT_RESPONDING,
                    f"{complaint} (DHCSR 0x{state:08X})",
                    hint="check the board's supply and NRST, then flash it again, under reset",
                )
            await self._clock.sleep(poll_s)
