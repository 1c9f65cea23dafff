"""A job taken up again after a restart waits for programmers that come with hotplug, and then goes on."""

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from ispd.model.job import Job, JobState, Unit, Verdict
from ispd.model.recipe import Recipe
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.virtual_time import InlineWorker, VirtualClock, run_virtual

WHEN = "2026-01-01T00:00:00.000+00:00"
CONTENT = bytes(range(200))


async def taken_up(folder, *, path: str, configured: bool = True) -> tuple[Job, list[Unit], AvrTarget]:
    parts = load_parts()
    target = AvrTarget(parts.avr("atmega32u4"))
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now=WHEN)
    recipe = Recipe(flash=Image.of([Segment(0, CONTENT)]))
    job = await journal.add_job(Job(id=0, state=JobState.RUNNING, created=WHEN, slots=("A1",)), recipe)
    await journal.begin_unit(Unit(id=0, job=job.id, slot="A1", started=WHEN, signature="1E 95 87"))
    await journal.aclose()

    journal = await Journal.open(folder / "journal.db", InlineWorker(), now=WHEN)
    hardware = BenchHardware()
    hardware.add("/bench/A1", SerialProgrammer(Flavour.TEENSYDUINO, target=target), path="1-1.4")
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=parts, bootloaders=load_bootloaders(parts), drivers=load_drivers()),
        clock=VirtualClock(),
        specs=[SlotSpec(name="A1", programmer="stk500v1", path=path)] if configured else [],
        watch_hotplug=not configured,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    async with hardware, anyio.create_task_group() as tasks:
        with station.events.subscribe(size=10_000) as events:
            await tasks.start(station.run)
            while not (await station.job(job.id)).state.is_final:
                await anext(events)
        job = await station.job(job.id)
        await station.stop()
    units = await journal.units(job=job.id, limit=10, before=None)
    await journal.aclose()
    return job, units, target


def test_the_board_is_flashed_again_as_a_further_attempt(tmp_path):
    job, units, target = run_virtual(lambda: taken_up(tmp_path, path="1-1.4"))
    assert job.state is JobState.DONE
    assert (job.passed, dict(job.seen)) == (1, {})
    assert [[attempt.verdict for attempt in unit.attempts] for unit in units] == [[Verdict.INTERRUPTED, Verdict.PASSED]]
    assert bytes(target.flash[: len(CONTENT)]) == CONTENT


def test_a_programmer_that_never_comes_back_ends_the_job_with_a_word(tmp_path):
    job, units, _ = run_virtual(lambda: taken_up(tmp_path, path="1-1.5"))
    assert job.state is JobState.DONE
    assert job.passed == 0
    assert "no programmer" in job.seen["A1"]
    assert "port and programmer kind" in job.seen["A1"], "another kind may be plugged in there"
    assert [unit.verdict for unit in units] == [Verdict.INTERRUPTED]


def test_a_slot_that_hotplug_made_and_does_not_make_again_ends_the_job_too(tmp_path):
    job, units, target = run_virtual(lambda: taken_up(tmp_path, path="1-1.4", configured=False))
    assert job.state is JobState.DONE
    assert "no programmer came back" in job.seen["A1"]
    assert [unit.verdict for unit in units] == [Verdict.INTERRUPTED]
    assert target.erase_count == 0, "the programmer that is there belongs to another slot"
