"""Flashes one STM32F1 behind an SWD programmer: connect, identify, plan, carry out, verify, run, say how it ended."""

from dataclasses import replace
from typing import Final

import anyio

from ispd.catalog.admission import admit
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.cortex_image import located
from ispd.catalog.parts import Parts
from ispd.errors import IspdError, LinkTimeoutError, TargetError
from ispd.flashing.cortex_core import CortexCore
from ispd.flashing.observer import Identified, UnitObserver, UnitOutcome
from ispd.flashing.readback import Tally
from ispd.flashing.stm32f1_connect import Hold, swd_rungs, take_hold
from ispd.flashing.stm32f1_identify import ChipId, Stm32Facts, check_same, identify
from ispd.flashing.stm32f1_plan import Stm32Plan, plan_stm32f1, plan_unlock
from ispd.flashing.stm32f1_steps import Stm32Steps
from ispd.flashing.unit_work import UnitWork, conclude
from ispd.flashing.verdict import check_spoken, wrong_part
from ispd.model.part import Interface, Stm32Part
from ispd.model.recipe import Recipe
from ispd.programmers.swd_contract import SwdProgrammer
from ispd.transport.clock import Clock

__all__ = ["flash_stm32f1"]

_RELEASE_S: Final = 10.0
"""For a reset and what a programmer needs to let go, each with its own limits."""
_IN_FLIGHT_S: Final = 0.2
"""A page, or an erase of everything, is done by then: a reset in its midst would leave cells half erased."""


async def flash_stm32f1(
    programmer: SwdProgrammer,
    recipe: Recipe,
    *,
    parts: Parts,
    bootloaders: Bootloaders,
    clock: Clock,
    observer: UnitObserver,
) -> UnitOutcome:
    """Carry out ``recipe`` on the chip behind ``programmer`` and return how it ended.

    Promises as in :meth:`~ispd.flashing.interface.TargetInterface.flash`: every page that was written was read back after the last write,
    option bytes are in force, the same chip answered at the end as at the start, and it was reset and let go.
    """
    run = _Run(programmer, recipe, UnitWork(clock, observer))
    return await conclude(
        run.work,
        lambda: run.carry_out(parts, bootloaders),
        run.release,
        stuck_words="the target may still be halted",
    )


class _Run:
    """State of one attempt on an STM32F1."""

    def __init__(self, programmer: SwdProgrammer, recipe: Recipe, work: UnitWork) -> None:
        self.work = work
        self._programmer = programmer
        self._recipe = recipe
        self._core = CortexCore(programmer, work.clock)
        self._steps: Stm32Steps | None = None
        self._is_held = False
        """The target may be connected, halted, or worse."""
        self._was_reset = False

    async def carry_out(self, parts: Parts, bootloaders: Bootloaders) -> None:
        wanted = _wanted_part(self._recipe, parts)
        hold = await self._take_hold()
        facts = await self._identify(parts, hold, wanted, hold.id)
        if wanted is not None and facts.part != wanted:
            raise wrong_part(wanted, (facts.part,), facts.id.signature)
        found = Identified(
            signature=facts.id.signature,
            part=facts.part,
            clock_hz=hold.connection.clock_hz,
            chip=facts.chip,
            unique_id=facts.id.unique_id or None,
        )
        self.work.learn(fuses_before=facts.state.fuses, lock_before=facts.state.lock)
        await self.work.identified(found)
        recipe = replace(self._recipe, flash=located(self._recipe.flash, facts.part.flash.span))
        warnings = self.work.warnings
        warnings += admit(recipe, facts.part, bootloaders, facts.state.bits)
        unlock = plan_unlock(recipe, facts)
        plan = _planned(recipe, facts, is_unlocked=unlock is not None)
        observer = self.work.observer
        await observer.checkpoint()
        if unlock is not None:
            # what it hides while it is protected is asked again
            warnings[:] = [warning for warning in warnings if warning not in facts.doubts]
            warnings.append(f"the chip is {unlock.kind} protected; its protection is removed")
        await observer.about_to_write(facts.state, tuple(dict.fromkeys((*warnings, *plan.warnings))))
        steps = self._begin(facts, plan.total_bytes)
        await steps.prepare()
        if unlock is not None:
            await self.work.carry_out((unlock,), steps.do)
            facts = await self._identify(parts, hold, wanted, None)
            check_same(steps.chip_id, facts.id)
            plan = _planned(recipe, facts, is_unlocked=True)
            # an open chip may tell more of itself
            steps = self._begin(facts, plan.total_bytes)
            await steps.prepare()
        warnings += plan.warnings
        await self.work.carry_out(plan.steps, steps.do)
        self._is_held = False

    async def release(self) -> IspdError | None:
        """Reset the target and let it go, whatever happened before, cancellation included; return why that failed."""
        if not self._is_held:
            return None
        failure: IspdError | None = None
        is_silent = False
        with anyio.move_on_after(_RELEASE_S, shield=True) as scope:
            try:
                is_silent = await self._settle()
            except IspdError as error:
                failure = error
            try:
                await self._programmer.disconnect()
            except IspdError as error:
                is_expected = is_silent and isinstance(error, TargetError)
                failure = failure or (None if is_expected else error)
        if scope.cancelled_caught:
            return LinkTimeoutError(self._programmer.identity.port, _RELEASE_S)
        return failure

    async def _settle(self) -> bool:
        """End what is under way, and start the chip anew where it was touched; true where it was met under reset, runs, and is silent."""
        if self._steps is None:
            return False
        if self._steps.is_busy:
            # the loader stops behind a half-word; an erase goes on by itself
            await self._core.halt()
            await self.work.clock.sleep(_IN_FLIGHT_S)
        return await self._core.reset_and_run() is None and self._was_reset

    async def _take_hold(self) -> Hold:
        rungs = swd_rungs(self._programmer.capabilities, fixed_hz=self._recipe.sck_hz)
        self._is_held = True
        fixed_hz = self._recipe.sck_hz
        try:
            hold = await take_hold(self._programmer, rungs)
        except TargetError as error:
            if fixed_hz is None:
                raise
            hint = f"the recipe fixes SWD's clock at {fixed_hz} Hz: leave it out, or name a slower one; {error.hint}"
            raise TargetError(error.code, error.message, hint=hint, facts=error.facts) from error
        self._was_reset = hold.was_reset
        self.work.warnings += hold.connection.warnings
        self.work.learn(signature=str(hold.id.signature), sck_hz=hold.connection.clock_hz)
        return hold

    async def _identify(self, parts: Parts, hold: Hold, wanted: Stm32Part | None, known: ChipId | None) -> Stm32Facts:
        facts = await identify(
            self._programmer, parts, hold.connection, self._recipe.clones, wanted=wanted, known=known
        )
        self.work.warnings += (*facts.warnings, *facts.doubts)
        self.work.learn(chip=facts.chip, unique_id=facts.id.unique_id or self.work.outcome.unique_id)
        return facts

    def _begin(self, facts: Stm32Facts, total_bytes: int) -> Stm32Steps:
        observer = self.work.observer
        self._steps = Stm32Steps(self._programmer, self._core, facts, self.work, Tally(observer, total_bytes))
        return self._steps


def _wanted_part(recipe: Recipe, parts: Parts) -> Stm32Part | None:
    """Return the part that the recipe names. Raises ``ProgrammerError`` (programmer-cannot) for one that is not programmed by SWD."""
    if recipe.part is None:
        return None
    part = parts.get(recipe.part)
    check_spoken(part, Interface.SWD)
    return part if isinstance(part, Stm32Part) else None


def _planned(recipe: Recipe, facts: Stm32Facts, *, is_unlocked: bool) -> Stm32Plan:
    """Return what is done after a protection was removed, or without one."""
    return plan_stm32f1(recipe, replace(facts, options=facts.options.opened()) if is_unlocked else facts)
