"""A station without slots of its own: it keeps what it is told and answers what a test put there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ispd.api.call import Allows, Peer
from ispd.api.declare import Privilege
from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.parts import Parts, load_parts
from ispd.chain.contract import ChainTool
from ispd.chain.registry import load_tools
from ispd.errors import ErrorCode, JobError
from ispd.model.image import Image, Segment
from ispd.model.job import Failure, Job, JobState, Unit, Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import PlanKind, Recipe, SourceFile
from ispd.model.station import Probe, Programmer, Slot, SlotAction, SlotState, Station
from ispd.station.events import EventHub
from ispd.surfaces.jsonrpc import serve_jsonrpc
from ispd.transport.clock import SystemClock

NOW = "2026-11-21T08:00:00.000+00:00"
PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
TOOLS = load_tools()

SLOTS = (
    Slot(name="A1", state=SlotState.IDLE, programmer="stk500v1", port="/dev/ttyACM0"),
    Slot(
        name="A2", state=SlotState.FAILED, failure=Failure(code="verify-mismatch", message="wrong", hint="replace it")
    ),
)


@dataclass
class FakeStation:
    """Jobs end when a test says so, by :meth:`finish`."""

    parts: Parts = PARTS
    bootloaders: Bootloaders = BOOTLOADERS
    tools: Sequence[ChainTool] = TOOLS
    events: EventHub = field(default_factory=lambda: EventHub(SystemClock()))
    recipes: dict[int, Recipe] = field(default_factory=dict)
    jobs_by_id: dict[int, Job] = field(default_factory=dict)
    units_by_id: dict[int, Unit] = field(default_factory=dict)
    when_enqueued: Callable[["FakeStation", int], None] | None = None
    probes_running: int = 0
    most_probes_running: int = 0
    may_probe: anyio.Event | None = None
    explode: Exception | None = None

    async def enqueue(self, recipe: Recipe, *, slots: Sequence[str] | None, count: int | None) -> Job:
        for name in slots or ():
            self.slot(name)
        job = Job(
            id=len(self.jobs_by_id) + 1,
            state=JobState.RUNNING,
            created=NOW,
            slots=tuple(slots or ("A1", "A2")),
            count=count,
            part=recipe.part,
            plan=recipe.plan,
            sources=recipe.sources,
            warnings=recipe.warnings,
        )
        self.recipes[job.id] = recipe
        self._store(job)
        if self.when_enqueued is not None:
            self.when_enqueued(self, job.id)
        return job

    def enqueue_blank(self, name: str = "board.hex") -> None:
        """Put a job that has ended into the queue."""
        self.enqueue_open(name)
        self.finish(1, None, "verify-mismatch")

    def enqueue_open(self, name: str = "board.hex") -> None:
        """Put a job that goes on into the queue."""
        number = len(self.jobs_by_id) + 1
        sources = (SourceFile(name, "00" * 32),)
        self._store(Job(id=number, state=JobState.RUNNING, created=NOW, slots=("A1",), sources=sources))

    def finish(self, job_id: int, *codes: str | None, state: JobState = JobState.DONE) -> None:
        """End a job with one unit per code; None passed."""
        for code in codes:
            unit = Unit(
                id=len(self.units_by_id) + 1,
                job=job_id,
                slot="A1",
                started=NOW,
                finished=NOW,
                part="atmega32u4",
                verdict=Verdict.PASSED if code is None else Verdict.FAILED,
                failure=None if code is None else Failure(code=code, message=f"it was {code}", hint="do better"),
            )
            self.units_by_id[unit.id] = unit
            self.events.publish(unit)
        passed = sum(code is None for code in codes)
        job = self.jobs_by_id[job_id]
        self._store(replace(job, state=state, passed=passed, failed=len(codes) - passed, finished=NOW))

    def _store(self, job: Job) -> None:
        self.jobs_by_id[job.id] = job
        self.events.publish(job)

    async def jobs(self, limit: int, before: int | None) -> list[Job]:
        found = [job for job in self.jobs_by_id.values() if before is None or job.id < before]
        return sorted(found, key=lambda job: -job.id)[:limit]

    async def job(self, job_id: int) -> Job:
        if job_id not in self.jobs_by_id:
            raise JobError(ErrorCode.UNKNOWN_JOB, f"there is no job {job_id}", hint="`ispctl jobs` lists them")
        return self.jobs_by_id[job_id]

    async def cancel(self, job_id: int) -> Job:
        return await self._change(job_id, JobState.CANCELLED)

    async def pause(self, job_id: int) -> Job:
        return await self._change(job_id, JobState.PAUSED)

    async def resume(self, job_id: int) -> Job:
        return await self._change(job_id, JobState.RUNNING)

    async def _change(self, job_id: int, state: JobState) -> Job:
        job = await self.job(job_id)
        if job.state.is_final:
            raise JobError(ErrorCode.JOB_ENDED, f"job {job_id} has ended")
        self._store(replace(job, state=state))
        return self.jobs_by_id[job_id]

    async def units(self, *, job: int | None, limit: int, before: int | None) -> list[Unit]:
        found = [unit for unit in self.units_by_id.values() if job in (None, unit.job)]
        return sorted((u for u in found if before is None or u.id < before), key=lambda u: -u.id)[:limit]

    async def unit(self, unit_id: int) -> Unit:
        if unit_id not in self.units_by_id:
            raise JobError(ErrorCode.UNKNOWN_UNIT, f"there is no unit {unit_id}")
        return self.units_by_id[unit_id]

    def slots(self) -> list[Slot]:
        if self.explode is not None:
            raise self.explode
        return list(SLOTS)

    def slot(self, name: str) -> Slot:
        found = next((slot for slot in SLOTS if slot.name == name), None)
        if found is None:
            raise JobError(ErrorCode.UNKNOWN_SLOT, f"there is no slot {name}", hint="slots: A1, A2")
        return found

    async def set_slot(self, name: str, action: SlotAction) -> Slot:
        state = SlotState.DISABLED if action is SlotAction.DISABLE else SlotState.IDLE
        return replace(self.slot(name), state=state)

    async def probe(self, name: str) -> Probe:
        """Wait for the test's leave, where it gave an event to wait for."""
        self.slot(name)
        self.probes_running += 1
        self.most_probes_running = max(self.most_probes_running, self.probes_running)
        try:
            if self.may_probe is not None:
                await self.may_probe.wait()
        finally:
            self.probes_running -= 1
        return Probe(slot=name, signature="1E 95 87", parts=("atmega32u4",), fuses={"lfuse": 0x5E}, lock=0x3F)

    async def learn(self, name: str) -> Slot:
        return replace(self.slot(name), target_usb="1-2.1", board_usb="03EB:2FF4")

    async def recipe_to_rescue(self, unit_id: int | None) -> Recipe:
        """Return that of any job which wrote a firmware over USB; no unit is ill but number 1."""
        if unit_id not in (None, 1):
            raise JobError(ErrorCode.UNKNOWN_UNIT, f"there is no unit {unit_id}")
        return Recipe(
            plan=PlanKind.CHAINED,
            part="atmega32u4",
            bootloader="atmel-dfu-32u4",
            flash=Image.of([Segment(0x7000, b"\x0c\x94\x00\x38" * 64)]),
            firmware=Image.of([Segment(0, b"\x0c\x94\x40\x00" * 64)]),
        )

    async def read(self, name: str, memory: MemoryKind) -> bytes:
        self.slot(name)
        return bytes(range(256)) if memory is MemoryKind.FLASH else b"\x1e\x95\x87"

    def programmers(self) -> list[Programmer]:
        return [Programmer(kind="stk500v1", port="/dev/ttyACM0", slot="A1", path="1-1.4", usb_id="2341:8036")]

    def describe(self) -> Station:
        return Station(
            version="0.1.0", started=NOW, socket="s", state_dir="d", bench=True, slots=len(SLOTS), jobs_open=0
        )


async def anybody(_peer: Peer, _privilege: Privilege) -> bool:
    """Let everybody do everything."""
    return True


async def nobody(_peer: Peer, _privilege: Privilege) -> bool:
    """Let nobody do anything."""
    return False


async def onlookers(_peer: Peer, privilege: Privilege) -> bool:
    """Let everybody look and nobody touch."""
    return privilege is Privilege.VIEW


class ServedStation:
    """A fake station on a real socket, in a thread of its own, for clients that block."""

    def __init__(self, path: Path, portal: BlockingPortal, station: FakeStation, allows: Allows | None) -> None:
        self.path = path
        self.station = station
        self._portal = portal
        self._allows = allows
        self.start()

    def start(self) -> None:
        """Listen; returns once clients can connect."""
        self._serving, _ = self._portal.start_task(self._serve)
        self.is_running = True

    def stop(self) -> None:
        """End the server as a stopped daemon would: every connection is cut."""
        self.is_running = False
        self._portal.call(self._scope.cancel)
        self._serving.result(timeout=10)

    def call(self, function: Callable[..., object], *args: object) -> object:
        """Run ``function`` on the server's event loop."""
        return self._portal.call(function, *args)

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.CancelScope() as self._scope:
            await serve_jsonrpc(self.path, self.station, allows=self._allows, task_status=task_status)


@contextmanager
def served(path: Path, station: FakeStation | None = None, allows: Allows | None = None) -> Iterator[ServedStation]:
    """Serve a fake station at ``path`` inside the context, to those whom the daemon itself would serve by default."""
    with start_blocking_portal() as portal:
        server = ServedStation(path, portal, station or FakeStation(), allows)
        try:
            yield server
        finally:
            if server.is_running:
                server.stop()
