"""The target behind an SWD programmer: looked at, probed, read, flashed. Each visit lets it run in the end."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, Facts, ProgrammerError, TargetError
from ispd.flashing.cortex_core import CortexCore
from ispd.flashing.interface import ProbeFacts, Sighting
from ispd.flashing.observer import UnitObserver, UnitOutcome
from ispd.flashing.sck import SckStart
from ispd.flashing.stm32f1_connect import Hold, swd_rungs, take_hold, visit
from ispd.flashing.stm32f1_execute import flash_stm32f1
from ispd.flashing.stm32f1_identify import Stm32Facts, identify
from ispd.flashing.verdict import failure_of
from ispd.model.part import Interface, MemoryKind, Stm32Part
from ispd.model.recipe import ClonePolicy, Recipe
from ispd.programmers.contract import Monitor, ProgrammerIdentity
from ispd.programmers.swd_contract import SwdProgrammer
from ispd.transport.clock import Clock, SystemClock
from ispd.wire.cortex_m import core_name

__all__ = ["SwdInterface"]

_SILENT = "no answer to SWD"


class SwdInterface:
    """See :class:`~ispd.flashing.interface.TargetInterface`."""

    kind = Interface.SWD
    meets_anew = True
    reads_running = True

    def __init__(self, programmer: SwdProgrammer) -> None:
        self._programmer = programmer
        self._is_met_under_reset = False
        """The board answered under reset only, the last time somebody looked."""

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the port was opened."""
        return self._programmer.identity

    def rungs(self, fixed_hz: int | None = None) -> tuple[int | None, ...]:
        """Return the ladder: the programmer's default first, then slower clocks for long wires."""
        return swd_rungs(self._programmer.capabilities, fixed_hz=fixed_hz)

    async def look(self, rungs: Sequence[int | None] | None = None) -> Sighting:
        """Look once what is there; the target runs on, unless it answers under reset only.

        That is tried only where the slowest clock is: until then a board on long wires may still answer by itself. A board that was
        met so is met so again, and one that sleeps at once.
        """
        rungs = rungs or self.rungs()
        may_reset = self._is_met_under_reset or len(rungs) == 1 or self.rungs()[-1] in rungs
        async with visit(self._programmer):
            try:
                hold = await take_hold(self._programmer, rungs, may_reset=may_reset)
            except TargetError as error:
                self._is_met_under_reset = False
                return Sighting(words=_SILENT, signature=None, failure=failure_of(error))
        self._is_met_under_reset = hold.was_reset
        return Sighting(
            words=f"chip id reads {hold.id.signature}",
            signature=hold.id.signature,
            failure=None,
            rung_hz=hold.rung_hz,
            unique_id=hold.id.unique_id or None,
        )

    async def probe(self, parts: Parts) -> ProbeFacts:
        """Ask the target for everything it tells."""
        async with visit(self._programmer):
            try:
                hold = await take_hold(self._programmer, self.rungs())
            except TargetError as error:
                return ProbeFacts(sck_hz=0, failure=failure_of(error))
            try:
                facts = await identify(self._programmer, parts, hold.connection, ClonePolicy.WARN, known=hold.id)
            except TargetError as error:
                return _unknown_facts(hold, error)
        return _known_facts(hold, facts, parts)

    async def read(self, parts: Parts, memory: MemoryKind, monitor: Monitor) -> bytes:
        """Return a whole memory."""
        async with visit(self._programmer):
            hold = await take_hold(self._programmer, self.rungs())
            facts = await identify(self._programmer, parts, hold.connection, ClonePolicy.ALLOW, known=hold.id)
            match memory:
                case MemoryKind.SIGNATURE:
                    return facts.id.signature.value
                case MemoryKind.LOCK:
                    return bytes((facts.state.lock,))
                case MemoryKind.FLASH:
                    _check_readable(facts)
                    return await self._programmer.read(facts.flash, monitor)
                case _ if memory in facts.state.fuses:
                    return bytes((facts.state.fuses[memory],))
                case _:
                    raise ProgrammerError(ErrorCode.PROGRAMMER_CANNOT, f"{facts.part.name} has no {memory}")

    async def flash(
        self,
        recipe: Recipe,
        *,
        parts: Parts,
        bootloaders: Bootloaders,
        clock: Clock,
        observer: UnitObserver,
        start: SckStart,  # noqa: ARG002 - each board is met anew
    ) -> UnitOutcome:
        """Carry out ``recipe``."""
        return await flash_stm32f1(
            self._programmer,
            recipe,
            parts=parts,
            bootloaders=bootloaders,
            clock=clock,
            observer=observer,
        )

    async def identify(self, clock: Clock) -> None:  # noqa: ARG002 - the interface's signature
        """Raise: an ST-Link's light is its own."""
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT,
            f"the {self.identity.kind} on {self.identity.port} has no light that it can be told to switch",
            hint="look for its USB path, or unplug it and see which slot falls vacant",
        )

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Hold NRST low and the core halted at its first instruction, whichever is wired; afterwards the target starts anew."""
        core = CortexCore(self._programmer, SystemClock())
        async with visit(self._programmer) as here:
            await take_hold(self._programmer, self.rungs())
            await core.reset_and_halt()
            await self._programmer.hold_reset(is_held=True)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self._programmer.hold_reset(is_held=False)
                    here.is_silent = await core.reset_and_run() is None

    async def aclose(self) -> None:
        """Close the programmer."""
        await self._programmer.aclose()


def _unknown_facts(hold: Hold, error: TargetError) -> ProbeFacts:
    return ProbeFacts(
        sck_hz=hold.connection.clock_hz,
        signature=hold.id.signature,
        unique_id=hold.id.unique_id or None,
        voltage_mv=hold.connection.voltage_mv,
        chip=core_name(hold.connection.cpuid) or "",
        warnings=hold.connection.warnings,
        failure=failure_of(error),
    )


def _known_facts(hold: Hold, facts: Stm32Facts, parts: Parts) -> ProbeFacts:
    return ProbeFacts(
        sck_hz=hold.connection.clock_hz,
        signature=facts.id.signature,
        parts=parts.by_signature(facts.id.signature, Stm32Part),
        fuses=facts.state.fuses,
        lock=facts.state.lock,
        chip=facts.chip,
        unique_id=facts.id.unique_id or None,
        flash_bytes=facts.flash_bytes,
        flash_page_bytes=facts.part.flash.page_bytes,
        ram_bytes=facts.ram_bytes,
        voltage_mv=hold.connection.voltage_mv,
        warnings=(*hold.connection.warnings, *facts.warnings, *facts.doubts),
    )


def _check_readable(facts: Stm32Facts) -> None:
    if facts.is_read_protected:
        raise TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the chip is read protected (RDP 0x{facts.state.lock:02X})",
            hint="flashing it with --unlock removes the protection; its contents are lost then",
            facts=Facts(part=facts.part.id, memory=MemoryKind.FLASH.value),
        )
