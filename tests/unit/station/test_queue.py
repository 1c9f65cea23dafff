"""The queue believes nothing that is not on the disk, whatever fails and whoever comes at the same time."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from ispd.errors import ErrorCode, IspdError
from ispd.model.image import Image, Segment
from ispd.model.job import Job, JobState, Unit, Verdict
from ispd.model.recipe import Recipe
from ispd.station.events import EventHub
from ispd.station.journal import Journal
from ispd.station.queue import JobQueue, OpenJob
from vbench.virtual_time import VirtualClock, virtual

T = TypeVar("T")

NOW = "2026-11-21T10:00:00.000+00:00"
RECIPE = Recipe(flash=Image.of([Segment(0, b"\x0c\x94")]))


class Disk:
    """A worker whose disk can fail, or take its time."""

    def __init__(self) -> None:
        self.is_broken = False
        self.slow_s = 0.0

    async def run(self, fn: Callable[[], T]) -> T:
        await anyio.sleep(self.slow_s)
        if self.is_broken:
            raise IspdError(ErrorCode.JOURNAL_FAILED, "the disk is full")
        return fn()


class Rig:
    """A queue with one job on slots A1 and A2."""

    def __init__(self, disk: Disk, journal: Journal, queue: JobQueue) -> None:
        self.disk, self.journal, self.queue = disk, journal, queue

    async def add(self, *, count: int | None = 2) -> OpenJob:
        job = Job(id=0, state=JobState.QUEUED, created=NOW, slots=("A1", "A2"), count=count)
        stored = await self.queue.add(job, RECIPE)
        return next(entry for entry in self.queue.open_jobs if entry.record.id == stored.id)

    async def begin(self, entry: OpenJob, slot: str) -> Unit:
        assert entry.reserve(slot)
        return await self.queue.begin(entry, Unit(id=0, job=entry.record.id, slot=slot, started=NOW))

    async def check_agrees(self, entry: OpenJob) -> None:
        """Memory says what the journal says."""
        assert await self.journal.job(entry.record.id) == replace(entry.record, running=entry.in_flight)


@asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    disk = Disk()
    journal = await Journal.open(folder / "journal.db", disk, now=NOW)
    try:
        yield Rig(disk, journal, JobQueue(journal, EventHub(VirtualClock()), VirtualClock()))
    finally:
        disk.is_broken = False
        await journal.aclose()


def state_of(entry: OpenJob) -> JobState:
    return entry.record.state


def ended(unit: Unit, verdict: Verdict) -> Unit:
    attempt = replace(unit.attempts[-1], verdict=verdict, finished=NOW)
    return replace(unit, verdict=verdict, finished=NOW, attempts=(attempt,))


@virtual
async def test_what_the_disk_refused_never_was(tmp_path: Path) -> None:
    """Each change of a job, with a disk that is full: the job stays as it was recorded, counters included."""
    async with rig(tmp_path) as station:
        entry = await station.add()
        unit = await station.begin(entry, "A1")
        once = await station.add(count=None)
        before, once_before = entry.job, once.job
        station.disk.is_broken = True
        for change in (
            lambda: station.queue.cancel(entry.record.id),
            lambda: station.queue.pause(entry.record.id),
            lambda: station.queue.finish(entry, ended(unit, Verdict.PASSED)),
            lambda: station.queue.note_seen(once, "A1", "nothing"),
        ):
            with pytest.raises(IspdError):
                await change()
        station.disk.is_broken = False
        assert (entry.job, once.job) == (before, once_before)
        assert entry.last_units == {}
        assert once.wants("A1"), "what could not be noted was not seen"
        await station.check_agrees(entry)
        await station.check_agrees(once)
        await station.queue.finish(entry, ended(unit, Verdict.PASSED))
        assert (entry.job.passed, entry.job.running) == (1, 0)


@virtual
async def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    """While one change is being written others wait for it; a board reserved meanwhile is counted."""
    async with rig(tmp_path) as station:
        entry = await station.add()
        first, second = await station.begin(entry, "A1"), await station.begin(entry, "A2")
        station.disk.slow_s = 0.01
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(station.queue.finish, entry, ended(first, Verdict.PASSED))
            tasks.start_soon(station.queue.pause, entry.record.id)
            tasks.start_soon(station.queue.finish, entry, ended(second, Verdict.FAILED))
            tasks.start_soon(station.queue.resume, entry.record.id)
            await anyio.sleep(0.005)
            assert entry.job.passed == 0, "not on the disk yet"
            assert not entry.reserve("A1"), "both boards still count"
        assert (entry.job.passed, entry.job.failed, entry.job.running) == (1, 1, 0)
        assert state_of(entry) is JobState.RUNNING
        await station.check_agrees(entry)
        assert entry.reserve("A2")


@virtual
async def test_cancel_during_begin_wins(tmp_path: Path) -> None:
    """A job cancelled while its first unit is being recorded stays cancelled."""
    async with rig(tmp_path) as station:
        entry = await station.add()
        station.disk.slow_s = 0.01
        begun: list[Unit] = []

        async def begin() -> None:
            begun.append(await station.begin(entry, "A1"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(station.queue.cancel, entry.record.id)
            tasks.start_soon(begin)
        assert state_of(entry) is JobState.CANCELLING
        assert not entry.reserve("A2")
        await station.queue.finish(entry, ended(begun[0], Verdict.CANCELLED))
        await station.queue.settle(entry)
        assert state_of(entry) is JobState.CANCELLED
        assert not station.queue.open_jobs
        await station.check_agrees(entry)


@virtual
async def test_slots_that_did_not_come_back_end_a_job(tmp_path: Path) -> None:
    """Only jobs without count wait for slots by name, so only they are told; served slots keep what was seen there."""
    async with rig(tmp_path) as station:
        once, counted = await station.add(count=None), await station.add()
        unit = await station.begin(once, "A1")
        await station.queue.finish(once, ended(unit, Verdict.PASSED))
        await station.queue.note_missing({"A2"})
        assert state_of(once) is JobState.RUNNING
        await station.queue.note_missing(set())
        assert state_of(once) is JobState.DONE
        assert list(once.job.seen) == ["A2"]
        assert "no programmer" in once.job.seen["A2"]
        assert state_of(counted) is JobState.QUEUED
        await station.check_agrees(once)
