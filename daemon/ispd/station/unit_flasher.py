"""One board on one slot, with its record around it: the intent first, then the whole way, the verdict last."""

from dataclasses import dataclass, replace
from functools import partial

from ispd.catalog.split import VIA_BOOTLOADER
from ispd.errors import ErrorCode, IspdError, LocalProtocolError
from ispd.flashing.chain_bench import ChainBench
from ispd.flashing.interface import TargetInterface
from ispd.flashing.observer import UnitOutcome
from ispd.flashing.pace import choose_plan, isp_pace
from ispd.flashing.sck import SckStart
from ispd.flashing.verdict import failure_of
from ispd.flashing.whole import Equipment, Way, flash_whole, way_of
from ispd.model.job import Unit, Verdict
from ispd.model.recipe import PlanKind, Recipe
from ispd.station.board_port import SlotPort
from ispd.station.fitting import fitting_target
from ispd.station.floor import Floor
from ispd.station.presence import Seen
from ispd.station.programmer_host import ProgrammerHost
from ispd.station.queue import OpenJob
from ispd.station.slot_display import SlotDisplay
from ispd.station.unit_run import UnitRun
from ispd.station.wall import wall

__all__ = ["Flashed", "UnitFlasher"]


@dataclass(frozen=True, slots=True)
class Flashed:
    """A unit that has its verdict: its record, and what else was learnt."""

    unit: Unit
    outcome: UnitOutcome


class UnitFlasher:
    """Flashes boards of one slot. The caller holds the slot's programmer lock."""

    def __init__(self, host: ProgrammerHost, floor: Floor, display: SlotDisplay) -> None:
        self._host = host
        self._floor = floor
        self._display = display

    @property
    def _slot(self) -> str:
        return self._display.view.name

    async def flash(
        self,
        entry: OpenJob,
        *,
        board: Seen | None = None,
        rung_hz: int | None = None,
        is_rescue: bool = False,
    ) -> Flashed:
        """Flash one reserved board and return its record; the reservation is given back where none came about.

        :param board: what the looks at it showed, None where nobody looked.
        :param rung_hz: the clock at which it answered.
        :param is_rescue: a rescue that was cut short is to be begun anew.

        Raises what keeps the programmer from being used, and ``journal-failed``.
        """
        floor = self._floor
        try:
            way = await self._way(entry.recipe)
            if is_rescue and way.rescue is not None:
                way = replace(way, isp=way.rescue)
            target = None if way.isp is None else await self._target(entry.recipe)
            unit = await floor.queue.begin(entry, self._intent(entry, way, board))
        except BaseException:  # also what nobody foresaw: a reservation that stays keeps its job open for ever
            floor.queue.abandon(entry, self._slot)
            raise
        self._display.show(unit=unit.id, part=way.part)
        firmware_bytes = 0 if way.firmware is None else len(way.firmware)
        run = UnitRun(unit, entry, floor, show=self._display.show, firmware_bytes=firmware_bytes)
        outcome = await self._attempts(entry.recipe, way, run, await self._sck(target, rung_hz))
        unit = run.close(outcome, floor.now())
        await floor.queue.finish(entry, unit)
        await self._remember_pace(entry.recipe, unit, outcome)
        self._display.verdict(unit)
        await floor.queue.settle(entry)
        if unit.failure is not None and unit.failure.code == ErrorCode.LINK_CLOSED:
            await self._host.drop()
        return Flashed(unit, outcome)

    async def _target(self, recipe: Recipe) -> TargetInterface:
        return await fitting_target(self._host, recipe, self._floor.parts)

    async def _way(self, recipe: Recipe) -> Way:
        plan = recipe.plan
        if plan is PlanKind.AUTO:
            if recipe.firmware is None or recipe.part is None:
                raise LocalProtocolError("a recipe without firmware or part leaves nothing to choose")
            pace = await self._floor.journal.slots.pace(self._slot, recipe.part)
            plan = choose_plan(pace, len(recipe.firmware))
        return way_of(recipe, plan, self._floor.parts, self._floor.bootloaders)

    def _intent(self, entry: OpenJob, way: Way, board: Seen | None) -> Unit:
        return Unit(
            id=0,
            job=entry.record.id,
            slot=self._slot,
            started=self._floor.now(),
            part=way.part,
            signature=None if board is None else str(board.signature),
            unique_id=None if board is None else board.unique_id,
            plan=way.plan,
            target_usb=None if way.firmware is None else self._display.view.target_usb,
            image_sha256=entry.record.image_sha256,
            sources=entry.record.sources,
            warnings=entry.record.warnings,
        )

    async def _sck(self, target: TargetInterface | None, rung_hz: int | None) -> SckStart:
        if target is None:
            return SckStart()
        found = await self._floor.journal.found_sck(self._slot, target.identity.kind)
        return SckStart(rung_hz=rung_hz, found=found)

    async def _attempts(self, recipe: Recipe, way: Way, run: UnitRun, sck: SckStart) -> UnitOutcome:
        """Flash the board. What nobody foresaw is a verdict, too: an open record would keep its job open for ever."""
        floor = self._floor
        equipment = Equipment(
            target=partial(self._target, recipe) if self._host.has_place else None,
            parts=floor.parts,
            bootloaders=floor.bootloaders,
            clock=floor.clock,
            gate=floor.gate,
            bench=self._bench(),
        )
        try:
            with wall(self._slot):
                return await flash_whole(way, equipment, run, sck)
        except IspdError as error:
            return UnitOutcome(verdict=Verdict.FAILED, failure=failure_of(error))

    def _bench(self) -> ChainBench | None:
        path = self._display.view.target_usb
        if path is None:
            return None
        floor = self._floor
        return ChainBench(
            port=SlotPort(floor.tree, path),
            hardware=floor.hardware,
            clock=floor.clock,
            tools=floor.tools,
            turns=floor.turns,
        )

    async def _remember_pace(self, recipe: Recipe, unit: Unit, outcome: UnitOutcome) -> None:
        """Keep how fast the firmware got onto a board, for recipes that leave the way open."""
        if unit.verdict is not Verdict.PASSED or unit.part is None or len(unit.attempts) > 1:
            return
        slots = self._floor.journal.slots
        if outcome.usb_pace is not None:
            await slots.remember_pace(self._slot, unit.part, outcome.usb_pace)
        elif recipe.plan in VIA_BOOTLOADER or recipe.plan is PlanKind.MERGED:
            image_bytes = len(recipe.flash) + (0 if recipe.firmware is None else len(recipe.firmware))
            pace = isp_pace(outcome.steps, image_bytes)
            if pace is not None:
                await slots.remember_pace(self._slot, unit.part, pace)
