"""One unit from the first look to its verdict: ISP, then the chain, then, where the board turns out ill, ISP and the chain again."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.catalog.plans import as_merged
from ispd.catalog.rescue import as_rescue
from ispd.chain.registry import tool_for
from ispd.errors import (
    ErrorCode,
    IspdError,
    JobError,
    LinkClosedError,
    LocalProtocolError,
    RefusedError,
    TransportError,
)
from ispd.flashing.chain_bench import ChainBench, ChainObserver, unless_stopped, verdict_of
from ispd.flashing.chained import chain_board, until_loader
from ispd.flashing.interface import TargetInterface
from ispd.flashing.observer import UnitObserver, UnitOutcome
from ispd.flashing.port_proof import prove_port
from ispd.flashing.readback import Unwatched
from ispd.flashing.reset_gate import ResetGate
from ispd.flashing.sck import SckStart
from ispd.flashing.verdict import failure_of
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.job import Failure, Verdict
from ispd.model.part import MemoryKind, Part
from ispd.model.recipe import PlanKind, Recipe
from ispd.transport.clock import Clock
from ispd.transport.contract import UsbDeviceAt

__all__ = ["RESCUE_HINT", "Equipment", "Way", "WholeObserver", "flash_whole", "way_of"]

RESCUE_HINT = "`ispctl rescue SLOT` does it, once the board is on a slot with a programmer"

_NOTHING_KNOWN = SckStart()


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Which way one board takes.

    :param plan: never ``auto``.
    :param isp: what goes on through the programmer at first; None: nothing.
    :param firmware: what goes on through ``bootloader`` then; None: nothing.
    :param rescue: what brings an ill board back through a programmer, None where that is not known.
    """

    plan: PlanKind
    isp: Recipe | None
    part: str | None = None
    firmware: Image | None = None
    bootloader: Bootloader | None = None
    rescue: Recipe | None = None


def way_of(recipe: Recipe, plan: PlanKind, parts: Parts, bootloaders: Bootloaders) -> Way:
    """Return the way of ``recipe``; pure.

    :param plan: the recipe's own, or what was chosen where that is ``auto``.
    """
    if plan in (PlanKind.ISP_ONLY, PlanKind.MERGED):
        return Way(plan=plan, isp=recipe if recipe.plan is plan else as_merged(recipe))
    if recipe.firmware is None or recipe.bootloader is None:
        raise LocalProtocolError(f"a recipe without firmware or bootloader cannot go {plan}")
    try:
        rescue = as_rescue(recipe, parts, bootloaders)
    except RefusedError:
        rescue = None
    return Way(
        plan=plan,
        isp=None if plan is PlanKind.CHAIN_ONLY else _isp_half(recipe),
        part=recipe.part,
        firmware=recipe.firmware,
        bootloader=bootloaders.get(recipe.bootloader),
        rescue=None if rescue is None else _isp_half(rescue),
    )


def _isp_half(recipe: Recipe) -> Recipe:
    return replace(recipe, plan=PlanKind.CHAINED)


class WholeObserver(UnitObserver, ChainObserver, Protocol):
    """Told what happens on either way."""

    def firmware_begins(self) -> None:
        """What ISP had to do is done; progress goes on with the firmware's bytes."""

    async def begin_again(self, failure: Failure) -> None:
        """The board is ill: end the attempt with ``needs-rescue``, and begin another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """What a unit is worked on with.

    :param target: what is behind the slot's programmer, which is opened when asked for; None where it has none. What only ISP cures then ends
        ``needs-rescue``.
    :param gate: asked before the target is reset.
    :param bench: where the firmware goes on; None for ways without.
    """

    target: Callable[[], Awaitable[TargetInterface]] | None
    parts: Parts
    bootloaders: Bootloaders
    clock: Clock
    gate: ResetGate
    bench: ChainBench | None = None


async def flash_whole(
    way: Way, equipment: Equipment, observer: WholeObserver, sck: SckStart = _NOTHING_KNOWN
) -> UnitOutcome:
    """Bring one board the whole way and return how it ended; promises and errors as :func:`~ispd.flashing.execute.flash_unit`."""
    run = _WholeRun(way, equipment, observer, sck)
    bench = equipment.bench
    tool = None if way.bootloader is None or bench is None else tool_for(way.bootloader.family, bench.tools)
    if tool is None or bench is None or not tool.is_exclusive:
        return await run.carry_out()
    # from the start: a board that its programmer lets go of in the midst of another's turn would be taken for that one
    try:
        await unless_stopped(observer, lambda: bench.turns.take(tool))
    except IspdError as error:
        return UnitOutcome(verdict=verdict_of(error), failure=failure_of(error), part=way.part)
    try:
        return await run.carry_out()
    finally:
        bench.turns.give(tool)


class _WholeRun:
    def __init__(self, way: Way, equipment: Equipment, observer: WholeObserver, sck: SckStart) -> None:
        self._way = way
        self._with = equipment
        self._observer = observer
        self._sck = sck
        self._target: TargetInterface | None = None

    async def carry_out(self) -> UnitOutcome:
        outcome = await self._attempt(self._way.isp)
        if outcome.verdict is not Verdict.NEEDS_RESCUE or outcome.failure is None:
            return outcome
        if self._way.rescue is None or self._with.target is None:
            return _needing_rescue(outcome)
        try:
            await self._open()
            await self._be_sure_of_it()
        except JobError as error:
            return replace(outcome, verdict=verdict_of(error), failure=failure_of(error))
        except IspdError as error:
            return _needing_rescue(outcome, f"this slot cannot do it: {error.message}")
        await self._observer.begin_again(outcome.failure)
        rescued = await self._attempt(self._way.rescue)
        return _after_rescue(outcome, outcome.failure, rescued, self._opened.kind.upper())

    async def _be_sure_of_it(self) -> None:
        """See to it that the board which is to be rescued is the one on the programmer, where nobody did yet."""
        bench, loader = self._with.bench, self._way.bootloader
        if self._way.isp is None and bench is not None and loader is not None:
            await unless_stopped(self._observer, lambda: self._prove(bench, loader))

    async def _attempt(self, isp: Recipe | None) -> UnitOutcome:
        outcome = UnitOutcome(verdict=Verdict.PASSED, part=self._way.part)
        if isp is not None:
            outcome = await self._by_isp(isp)
        if outcome.verdict is not Verdict.PASSED or self._way.firmware is None:
            return outcome
        if self._with.bench is None or self._way.bootloader is None:
            raise LocalProtocolError("nobody said where the board's own USB port is")
        self._observer.firmware_begins()
        part = None if outcome.part is None else self._with.parts.get(outcome.part)
        bench = self._with.bench
        if isp is not None:
            bench = replace(bench, prove=partial(self._prove, bench, self._way.bootloader))
        if isp is not None and part is not None and self._opened.reads_running:
            bench = replace(bench, read_flash=partial(self._read_flash, part))
        chained = await chain_board(self._way.firmware, part, self._way.bootloader, bench, self._observer)
        return replace(
            outcome,
            verdict=chained.verdict,
            failure=chained.failure,
            application_usb=chained.application_usb,
            usb_pace=chained.pace,
            warnings=tuple(dict.fromkeys((*outcome.warnings, *chained.warnings))),
        )

    async def _prove(self, bench: ChainBench, loader: Bootloader) -> UsbDeviceAt:
        """Return the slot's board on its port, in its bootloader."""
        before = self._opened.identity.port
        try:
            target = await self._open()
        except TransportError as error:
            if error.code is not ErrorCode.PORT_NOT_FOUND:
                raise
            raise LinkClosedError(before) from error  # it was there: somebody pulled it out, which interrupts the unit
        return await prove_port(target, bench.port, self._with.gate, partial(until_loader, bench.port, loader))

    @property
    def _opened(self) -> TargetInterface:
        """What was behind the programmer when it was last asked."""
        if self._target is None:
            raise LocalProtocolError("nobody asked the slot's programmer yet")
        return self._target

    async def _open(self) -> TargetInterface:
        if self._with.target is None:
            raise LocalProtocolError("this slot has no programmer")
        self._target = await self._with.target()
        return self._target

    async def _read_flash(self, part: Part) -> Sequence[Segment]:
        """Read all of flash by the slot's programmer, while the board runs."""
        target = await self._open()
        return [Segment(part.flash.start, await target.read(self._with.parts, MemoryKind.FLASH, Unwatched()))]

    async def _by_isp(self, recipe: Recipe) -> UnitOutcome:
        target = await self._open()
        await unless_stopped(self._observer, self._with.gate.begin)
        return await target.flash(
            recipe,
            parts=self._with.parts,
            bootloaders=self._with.bootloaders,
            clock=self._with.clock,
            observer=self._observer,
            start=self._sck,
        )


def _needing_rescue(outcome: UnitOutcome, why: str = "") -> UnitOutcome:
    """Tell the operator what saves the board, since nothing here could."""
    if outcome.failure is None:
        return outcome
    hint = "; ".join(word for word in (RESCUE_HINT, why) if word)
    return replace(outcome, verdict=Verdict.NEEDS_RESCUE, failure=replace(outcome.failure, hint=hint))


def _after_rescue(first: UnitOutcome, illness: Failure, rescued: UnitOutcome, spoken: str) -> UnitOutcome:
    """Return how the unit ended, with what made the rescue necessary among its warnings."""
    told = f"rescued by {spoken}: {illness.message}"
    match rescued.verdict:
        case Verdict.PASSED:
            pass
        case Verdict.FAILED if not rescued.steps and rescued.failure is not None:
            # it did not even reach the chip: another slot may
            why = f"this slot's programmer could not do it: {rescued.failure.message}"
            return _needing_rescue(replace(first, warnings=_joined(first, rescued)), why)
        case Verdict.NEEDS_RESCUE if rescued.failure is not None:
            hint = f"{spoken} did not cure it: replace the chip, or take the board out of the batch"
            failure = replace(rescued.failure, hint=hint)
            rescued = replace(rescued, verdict=Verdict.FAILED, failure=failure)
            told = f"not cured by {spoken}: {illness.message}"
        case _:
            told = f"a rescue by {spoken} was begun: {illness.message}"
    return replace(rescued, warnings=tuple(dict.fromkeys((*_joined(first, rescued), told))))


def _joined(first: UnitOutcome, second: UnitOutcome) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first.warnings, *second.warnings)))
