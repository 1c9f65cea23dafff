"""The station: all slots, the queue and the journal behind one door for the API."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.catalog.plans import image_digest
from ispd.chain.contract import ChainTool
from ispd.errors import ErrorCode, JobError
from ispd.flashing.interface import ProbeFacts, TargetInterface
from ispd.flashing.reset_gate import ResetGate
from ispd.model import station as model
from ispd.model.job import Job, JobState, Unit, Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe
from ispd.model.station import Probe, Programmer, Slot, SlotAction
from ispd.programmers.contract import ProgrammerIdentity
from ispd.programmers.registry import Driver
from ispd.station.board_port import UsbTree
from ispd.station.events import EventHub
from ispd.station.floor import LISTING_S, Floor
from ispd.station.journal import Journal
from ispd.station.pairing import Pairings
from ispd.station.port_watch import PortWatch
from ispd.station.programmer_host import ProgrammerHost
from ispd.station.queue import JobQueue
from ispd.station.slot_choice import choose_slots
from ispd.station.slot_runner import SlotRunner
from ispd.station.spec import SlotSpec
from ispd.station.tool_turns import StationTurns
from ispd.transport.clock import Clock
from ispd.transport.contract import TURN_S, Hardware

__all__ = ["Knowledge", "Station"]

T = TypeVar("T")

_STOP_DEADLINE_S = 20.0  # the longest page plus leaving programming mode, generously
_SETTLE_DEADLINE_S = 5.0  # an Uno that was reset by opening its port answers after 1.7 s
_SILENT_TURNS = 3  # a watch of ports that missed so many hangs


class _NoMonitor:
    """Watches a read that nobody stops."""

    stop_requested = False

    def advance(self, done_bytes: int) -> None:
        """Nobody shows this progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What a station knows before it sees any device."""

    parts: Parts
    bootloaders: Bootloaders
    drivers: Mapping[str, Driver]
    tools: Sequence[ChainTool] = ()


class Station:
    """Owns the slots and serves the API's handlers; one task per slot runs inside :meth:`run`.

    :param about: what :meth:`describe` says besides the counts.
    """

    def __init__(
        self,
        hardware: Hardware,
        journal: Journal,
        *,
        knowledge: Knowledge,
        clock: Clock,
        specs: Sequence[SlotSpec] = (),
        watch_hotplug: bool = True,
        about: model.Station,
    ) -> None:
        self.parts = knowledge.parts
        self.bootloaders = knowledge.bootloaders
        self.tools = knowledge.tools
        self.events = EventHub(clock)
        self._hardware = hardware
        self._journal = journal
        self._drivers = knowledge.drivers
        self._watches = watch_hotplug
        self._about = about
        self._is_stopping = False
        self._runners: dict[str, SlotRunner] = {}
        self._tasks: TaskGroup | None = None
        self._ended = anyio.Event()
        tree = UsbTree(hardware)
        self._floor = Floor(
            parts=knowledge.parts,
            bootloaders=knowledge.bootloaders,
            tools=knowledge.tools,
            hardware=hardware,
            tree=tree,
            turns=StationTurns(tree),
            gate=ResetGate(clock),
            queue=JobQueue(journal, self.events, clock),
            journal=journal,
            events=self.events,
            clock=clock,
            is_stopping=lambda: self._is_stopping,
        )
        self._pairings = Pairings(self._floor, self._runners)
        self._watch = PortWatch(
            self._floor,
            self._runners,
            knowledge.drivers,
            knowledge.bootloaders,
            add=self._begin if watch_hotplug else None,
        )
        for spec in specs:
            self._add(spec)

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Take up open jobs and run all slots until :meth:`stop`; started once the slots are at work.

        Raises a group with ``journal-failed`` where a record cannot be written: no board is touched without one. All slots
        are stopped then with their targets out of reset; the next start finds open attempts ``interrupted`` and goes on.
        """
        await self._floor.queue.load()
        await self._pairings.load()
        self._watches = self._watches or any(runner.spec.is_on_usb for runner in self._runners.values())
        self._watch.turned()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for runner in self._runners.values():
                    tasks.start_soon(runner.run, name=f"slot {runner.spec.name}")
                if self._watches:
                    tasks.start_soon(self._watch.run, tasks, name="hotplug")
                tasks.start_soon(self._note_missing_slots, name="missing slots")
                with anyio.move_on_after(_SETTLE_DEADLINE_S):
                    for runner in tuple(self._runners.values()):
                        await runner.settled.wait()
                task_status.started()
        finally:
            self._tasks = None
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:  # a device that hangs keeps only itself waiting
                    for runner in self._runners.values():
                        tasks.start_soon(runner.host.drop)
            self._ended.set()

    async def stop(self) -> None:
        """Let running units stop at their next page, with their targets out of reset, then end all slots."""
        self._is_stopping = True
        self._watch.stop()
        for runner in self._runners.values():
            runner.stop()
        self._floor.queue.changed.fire()
        tasks = self._tasks
        if tasks is not None:
            with anyio.move_on_after(_STOP_DEADLINE_S):
                await self._ended.wait()
                return
            tasks.cancel_scope.cancel()  # harmless where only the closing of what hangs is left

    async def is_making_progress(self) -> bool:
        """Tell whether hotplug is still watched; returns only when the journal's thread has answered."""
        await self._journal.ping()
        return not self._watches or self._watch.silent_s < _SILENT_TURNS * TURN_S

    async def _note_missing_slots(self) -> None:
        """Once the first listing of ports is over: jobs taken up again do not wait for slots that did not come back."""
        with anyio.move_on_after(LISTING_S):
            while not self._is_stopping:
                await self._floor.wait_for_change()
        if not self._is_stopping:
            await self._floor.queue.note_missing(self._runners)

    def _add(self, spec: SlotSpec) -> SlotRunner:
        self._pairings.configured(spec)
        runner = SlotRunner(spec, ProgrammerHost(spec, self._drivers, self._hardware), self._floor)
        self._runners[spec.name] = runner
        return runner

    def _begin(self, spec: SlotSpec) -> SlotRunner:
        """Add a slot while the station runs."""
        runner = self._add(spec)
        self._pairings.tell()
        if self._tasks is not None:
            self._tasks.start_soon(runner.run, name=f"slot {spec.name}")
        return runner

    # ------------------------------------------------------------------ jobs

    async def enqueue(self, recipe: Recipe, *, slots: Sequence[str] | None, count: int | None) -> Job:
        """Record a job; its slots start on it at once.

        :param slots: names, or None for all idle slots (all slots, where none is idle).
        :param count: passes wanted, or None for each board present now, once.
        :raises JobError: unknown-slot, no-slot, not-paired, programmer-cannot.
        """
        named = None if slots is None else [self._runner(name).spec.name for name in slots]
        choice = choose_slots(
            self._runners,
            named,
            recipe.plan,
            is_free=lambda name: self._runners[name].next_job() is None,
            misfit=lambda runner: runner.misfit(recipe),
        )
        job = Job(
            id=0,
            state=JobState.QUEUED,
            created=self._floor.now(),
            slots=choice.slots,
            count=count,
            part=recipe.part,
            bootloader=recipe.bootloader,
            plan=recipe.plan,
            image_sha256=image_digest(recipe),
            sources=recipe.sources,
            warnings=(*recipe.warnings, *choice.warnings),
            seen=choice.misfits,
        )
        return await self._floor.queue.add(job, recipe)

    async def recipe_to_rescue(self, unit_id: int | None) -> Recipe:
        """Return the recipe of a unit that ended ``needs-rescue``; None: of the newest one.

        :raises JobError: unknown-unit, nothing-to-rescue.
        """
        unit = await self._journal.newest_to_rescue() if unit_id is None else await self.unit(unit_id)
        if unit is None:
            raise JobError(
                ErrorCode.NOTHING_TO_RESCUE, "no unit ended needs-rescue", hint="`ispctl units` lists how each ended"
            )
        if unit.verdict is not Verdict.NEEDS_RESCUE:
            ended = "is not through" if unit.verdict is None else f"ended {unit.verdict}"
            raise JobError(
                ErrorCode.NOTHING_TO_RESCUE, f"unit {unit.id} {ended}", hint="flash the board again: ispctl enqueue"
            )
        return await self._journal.recipe(unit.job)

    async def jobs(self, limit: int, before: int | None) -> list[Job]:
        """Return jobs, newest first."""
        open_now = {entry.job.id: entry.job for entry in self._floor.queue.open_jobs}
        return [open_now.get(job.id, job) for job in await self._journal.jobs(limit=limit, before=before)]

    async def job(self, job_id: int) -> Job:
        """Return one job; ``JobError`` unknown-job."""
        for entry in self._floor.queue.open_jobs:
            if entry.job.id == job_id:
                return entry.job
        job = await self._journal.job(job_id)
        if job is None:
            raise JobError(ErrorCode.UNKNOWN_JOB, f"there is no job {job_id}", hint="`ispctl jobs` lists them")
        return job

    async def cancel(self, job_id: int) -> Job:
        """Stop a job between pages; units it was flashing end ``cancelled``."""
        await self.job(job_id)
        return await self._floor.queue.cancel(job_id)

    async def pause(self, job_id: int) -> Job:
        """Hold a job between pages."""
        await self.job(job_id)
        return await self._floor.queue.pause(job_id)

    async def resume(self, job_id: int) -> Job:
        """Let a paused job go on."""
        await self.job(job_id)
        return await self._floor.queue.resume(job_id)

    async def units(self, *, job: int | None, limit: int, before: int | None) -> list[Unit]:
        """Return unit records, newest first."""
        return await self._journal.units(job=job, limit=limit, before=before)

    async def unit(self, unit_id: int) -> Unit:
        """Return one unit record; ``JobError`` unknown-unit."""
        unit = await self._journal.unit(unit_id)
        if unit is None:
            raise JobError(ErrorCode.UNKNOWN_UNIT, f"there is no unit {unit_id}", hint="`ispctl units` lists them")
        return unit

    # ------------------------------------------------------------------ slots

    def slots(self) -> list[Slot]:
        """Return all slots, by name."""
        return [self._runners[name].view for name in sorted(self._runners)]

    def slot(self, name: str) -> Slot:
        """Return one slot; ``JobError`` unknown-slot."""
        return self._runner(name).view

    async def set_slot(self, name: str, action: SlotAction) -> Slot:
        """Switch a slot on or off, or make its programmer show itself."""
        runner = self._runner(name)
        match action:
            case SlotAction.ENABLE:
                runner.enable()
            case SlotAction.DISABLE:
                runner.disable()
            case SlotAction.IDENTIFY:
                await self._use(name, self._blink)
        return runner.view

    async def _blink(self, target: TargetInterface) -> None:
        async with self._floor.gate.resetting():
            await target.identify(self._floor.clock)

    async def probe(self, name: str) -> Probe:
        """Look at a slot's target: signature, fuses, lock, clock. A silent target is an answer, not an error."""
        identity, facts = await self._use(name, self._ask)
        return Probe(
            slot=name,
            programmer=identity.kind,
            firmware=identity.firmware,
            serial=identity.serial or None,
            signature=str(facts.signature) if facts.signature is not None else None,
            parts=tuple(part.id for part in facts.parts),
            fuses={memory.value: value for memory, value in facts.fuses.items()} if facts.parts else None,
            lock=facts.lock,
            calibration=facts.calibration,
            clock=facts.clock,
            sck_hz=facts.sck_hz,
            chip=facts.chip,
            unique_id=facts.unique_id,
            flash_bytes=facts.flash_bytes,
            flash_page_bytes=facts.flash_page_bytes,
            ram_bytes=facts.ram_bytes,
            voltage_mv=facts.voltage_mv,
            warnings=facts.warnings,
            failure=facts.failure,
        )

    async def _ask(self, target: TargetInterface) -> tuple[ProgrammerIdentity, ProbeFacts]:
        return target.identity, await target.probe(self.parts)

    async def read(self, name: str, memory: MemoryKind) -> bytes:
        """Read a whole memory of a slot's target."""
        return await self._use(name, lambda target: target.read(self.parts, memory, _NoMonitor()))

    async def learn(self, name: str) -> Slot:
        """Find out which USB port a slot's board is on, and keep it; the board starts anew twice.

        :raises JobError: unknown-slot, slot-busy, not-paired; and what keeps the programmer from being used.
        """
        runner = self._runner(name)
        if not self._watches:
            raise JobError(
                ErrorCode.NOT_PAIRED,
                "this daemon does not watch USB",
                hint="set udev = true in [hotplug], or write target_usb into the slot",
            )
        await self._pairings.learn(runner)
        return runner.view

    def programmers(self) -> list[Programmer]:
        """Return the programmers that are connected now."""
        found = (self._runners[name].host.describe() for name in sorted(self._runners))
        return [programmer for programmer in found if programmer is not None]

    def describe(self) -> model.Station:
        """Return what the daemon says about itself."""
        return replace(self._about, slots=len(self._runners), jobs_open=len(self._floor.queue.open_jobs))

    async def _use(self, name: str, use: Callable[[TargetInterface], Awaitable[T]]) -> T:
        return await self._runner(name).use_target(use)

    def _runner(self, name: str) -> SlotRunner:
        if name not in self._runners:
            known = ", ".join(sorted(self._runners)) or "none"
            raise JobError(ErrorCode.UNKNOWN_SLOT, f"there is no slot {name}", hint=f"slots: {known}")
        return self._runners[name]
