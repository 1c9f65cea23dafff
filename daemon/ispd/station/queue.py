"""The job queue: which job a slot works for, how many boards are still wanted, and what is recorded about it.

In memory are only the jobs that are not final; every change is in the journal before it is believed, and before anybody
hears of it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import anyio

from ispd.errors import ErrorCode, JobError
from ispd.model.job import Failure, Job, JobState, Unit, Verdict
from ispd.model.recipe import Recipe
from ispd.station.events import EventHub
from ispd.station.journal import Journal
from ispd.station.presence import told
from ispd.station.pulse import Pulse
from ispd.transport.clock import Clock, timestamp

__all__ = ["JobQueue", "OpenJob"]

_OPEN = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)


class OpenJob:
    """A job that is not final: its record, its recipe, and what its slots did so far.

    ``record`` is what the journal holds; ``in_flight`` are the boards reserved or being flashed. ``served`` are the slots a
    job without ``count`` is through with; ``last_units`` holds per slot the newest unit, which survives a restart: a board
    that has its verdict stays untouched until it was taken out. ``misfits`` are slots whose programmer cannot do a job with ``count``: they
    come back once they have another one.
    """

    def __init__(self, job: Job, recipe: Recipe, last_units: Mapping[str, Unit]) -> None:
        self.record = job
        self.recipe = recipe
        self.last_units = dict(last_units)
        self.served = {slot for slot, unit in last_units.items() if unit.verdict is not Verdict.INTERRUPTED}
        self.misfits = set() if job.count is None else set(job.seen) & set(job.slots)
        self.in_flight = 0
        self.lock = anyio.Lock()

    @property
    def job(self) -> Job:
        """The job as clients see it, with the boards that are running now."""
        return replace(self.record, running=self.in_flight)

    @property
    def is_once(self) -> bool:
        """True for a job that flashes each board present now, once."""
        return self.record.count is None

    def wants(self, slot: str) -> bool:
        """Tell whether ``slot`` should work for this job now."""
        if slot not in self.record.slots or self.record.state not in (JobState.QUEUED, JobState.RUNNING):
            return False
        if self.record.count is None:
            return slot not in self.served
        return self.record.passed < self.record.count

    def reserve(self, slot: str) -> bool:
        """Take one board of the job for ``slot``; False where it wants no more than are running already.

        Never more boards run than passes are still needed, so the job stops at its count exactly.
        """
        if self.record.state not in (JobState.QUEUED, JobState.RUNNING):
            return False
        if self.record.count is not None and self.record.passed + self.in_flight >= self.record.count:
            return False
        self.in_flight += 1
        self.served.add(slot)
        return True


class JobQueue:
    """All open jobs, oldest first. ``changed`` fires whenever a slot should look again."""

    def __init__(self, journal: Journal, events: EventHub, clock: Clock) -> None:
        self._journal = journal
        self._events = events
        self._clock = clock
        self._open: dict[int, OpenJob] = {}
        self.changed = Pulse()

    async def load(self) -> None:
        """Take up the jobs an earlier run left open; one that was being cancelled ends now."""
        for job, recipe in await self._journal.open_jobs():
            entry = OpenJob(job, recipe, await self._journal.last_units(job.id))
            self._open[job.id] = entry
            await self.settle(entry)

    @property
    def open_jobs(self) -> Sequence[OpenJob]:
        """Jobs that are not final, oldest first."""
        return tuple(self._open.values())

    def next_for(self, slot: str, fits: Callable[[Recipe], bool]) -> OpenJob | None:
        """Return the oldest job that ``slot`` should work for.

        :param fits: tells whether the slot's programmer can do a recipe.
        """
        return next((entry for entry in self._open.values() if entry.wants(slot) and fits(entry.recipe)), None)

    async def add(self, job: Job, recipe: Recipe) -> Job:
        """Record a new job and return it with its id."""
        stored = await self._journal.add_job(job, recipe)
        self._open[stored.id] = OpenJob(stored, recipe, {})
        self._events.publish(stored)
        self.changed.fire()
        return stored

    async def cancel(self, job_id: int) -> Job:
        """Start no further unit; running ones stop at their next page."""
        entry = self._entry(job_id)
        await self._turn(entry, JobState.CANCELLING, _OPEN)
        await self.settle(entry)
        return entry.job

    async def pause(self, job_id: int) -> Job:
        """Hold the job: running units wait between two pages, no further unit starts."""
        entry = self._entry(job_id)
        await self._turn(entry, JobState.PAUSED, (JobState.QUEUED, JobState.RUNNING))
        return entry.job

    async def resume(self, job_id: int) -> Job:
        """Let a paused job go on."""
        entry = self._entry(job_id)
        await self._turn(entry, JobState.RUNNING, (JobState.PAUSED,))
        return entry.job

    async def begin(self, entry: OpenJob, intent: Unit) -> Unit:
        """Commit the intent to flash a reserved board: a new unit, or a further attempt on one that was interrupted, unless the
        chip's serial number tells that this is another board."""
        last = entry.last_units.get(intent.slot)
        await self._turn(entry, JobState.RUNNING, (JobState.QUEUED,))
        if last is not None and last.verdict is Verdict.INTERRUPTED and not _are_two(last, intent):
            unit = await self._journal.begin_attempt(last.id, intent.started)
        else:
            unit = await self._journal.begin_unit(intent)
        self._events.publish(unit)
        return unit

    async def begin_again(self, unit: Unit, failure: Failure) -> Unit:
        """Commit that a running unit is worked on anew, since its board turned out ill: a further attempt, which ISP begins."""
        unit = await self._journal.begin_again(unit, Verdict.NEEDS_RESCUE, failure, timestamp(self._clock))
        self._events.publish(unit)
        return unit

    async def finish(self, entry: OpenJob, unit: Unit) -> None:
        """Record a unit's verdict together with the job's counters; :meth:`settle` comes next."""
        async with entry.lock:
            record = replace(
                entry.record,
                passed=entry.record.passed + (unit.verdict is Verdict.PASSED),
                failed=entry.record.failed + (unit.verdict in (Verdict.FAILED, Verdict.NEEDS_RESCUE)),
            )
            await self._journal.finish_unit(unit, record)
            entry.record = record
            entry.in_flight -= 1
            entry.last_units[unit.slot] = unit
            if unit.failure is not None and unit.failure.code == ErrorCode.INTERRUPTED:
                entry.served.discard(unit.slot)  # the daemon stops: the job stays open for the next one
        self._events.publish(unit)
        self._events.publish(entry.job)

    def abandon(self, entry: OpenJob, slot: str) -> None:
        """Take back a reservation whose unit was never recorded."""
        entry.in_flight -= 1
        entry.served.discard(slot)
        self.changed.fire()

    async def note_seen(self, entry: OpenJob, slot: str, text: str) -> None:
        """Record what a job without ``count`` found on a slot where no unit came about."""
        async with entry.lock:
            await self._save(entry, replace(entry.record, seen={**entry.record.seen, slot: text}))
            entry.served.add(slot)
        self._tell(entry)
        await self.settle(entry)

    async def note_misfit(self, entry: OpenJob, slot: str, why: str | None) -> None:
        """Record that a slot's programmer cannot do a job, and ``why``; None: it can, whatever was there before."""
        if not entry.wants(slot) or (why is None) != (slot in entry.misfits):
            return
        if why is not None and entry.is_once:
            await self.note_seen(entry, slot, why)
            return
        async with entry.lock:
            seen = {name: text for name, text in entry.record.seen.items() if name != slot}
            await self._save(entry, replace(entry.record, seen=seen if why is None else {**seen, slot: why}))
            entry.misfits ^= {slot}
        self._tell(entry)
        await self.settle(entry)

    async def note_missing(self, slots: Collection[str]) -> None:
        """End jobs without ``count`` on slots that no longer exist: all others are named in ``slots``."""
        for entry in self.open_jobs:
            for slot in entry.record.slots:
                if entry.is_once and slot not in slots and slot not in entry.served:
                    await self.note_seen(entry, slot, f"no programmer came back to slot {slot} after the restart")

    def _entry(self, job_id: int) -> OpenJob:
        if job_id not in self._open:
            raise JobError(
                ErrorCode.JOB_ENDED, f"job {job_id} has ended or does not exist", hint="`ispctl jobs` lists them"
            )
        return self._open[job_id]

    async def settle(self, entry: OpenJob) -> None:
        """End the job when nothing is left to do for it."""
        async with entry.lock:
            state = self._final_state(entry)
            if state is None or entry.record.state.is_final:
                self.changed.fire()
                return
            await self._save(entry, replace(entry.record, state=state, finished=timestamp(self._clock)))
            self._open.pop(entry.record.id, None)
        self._tell(entry)

    async def _turn(self, entry: OpenJob, state: JobState, of: Collection[JobState]) -> None:
        """Bring a job into ``state`` where it is in one ``of`` these; else leave it."""
        async with entry.lock:
            if entry.record.state not in of:
                return
            await self._save(entry, replace(entry.record, state=state))
        self._tell(entry)

    async def _save(self, entry: OpenJob, record: Job) -> None:
        """Commit, then believe: what the disk did not take never was. The entry's lock is held."""
        await self._journal.save_job(record)
        entry.record = record

    def _tell(self, entry: OpenJob) -> None:
        self._events.publish(entry.job)
        self.changed.fire()

    @staticmethod
    def _final_state(entry: OpenJob) -> JobState | None:
        if entry.in_flight:
            return None
        if entry.record.state is JobState.CANCELLING:
            return JobState.CANCELLED
        if entry.record.count is not None:
            if entry.record.passed >= entry.record.count:
                return JobState.DONE
            return JobState.EMPTY if not entry.last_units and entry.misfits.issuperset(entry.record.slots) else None
        if not entry.served.issuperset(entry.record.slots):
            return None
        return JobState.DONE if entry.last_units else JobState.EMPTY


def _are_two(one: Unit, other: Unit) -> bool:
    """Tell whether two records are of two boards for certain."""
    ids = told(one.unique_id), told(other.unique_id)
    return None not in ids and ids[0] != ids[1]
