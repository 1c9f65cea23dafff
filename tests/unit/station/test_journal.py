"""The journal on a real file: what goes in comes out, rules hold, and a daemon that died leaves `interrupted` behind."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ispd.errors import ConfigError, ErrorCode, IspdError, JobError
from ispd.flashing.pace import IspPace, SlotPace, UsbPace
from ispd.model.image import Image, Segment
from ispd.model.job import Attempt, Failure, Job, JobState, StepRecord, Unit, Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import ClonePolicy, PlanKind, Recipe, SourceFile, VerifyScope
from ispd.station.journal import Journal
from ispd.station.journal_rows import image_bytes
from ispd.station.worker import ThreadWorker

pytestmark = pytest.mark.anyio

NOW = "2026-11-21T10:00:00.000+00:00"
LATER = "2026-11-21T10:00:05.000+00:00"
IMAGE = Image.of([Segment(0, b"\x0c\x94"), Segment(0x7000, b"\xff\x00")])
RECIPE = Recipe(flash=IMAGE)
JOB = Job(id=0, state=JobState.QUEUED, created=NOW, slots=("A1", "A2"))

texts = st.text(st.characters(codec="utf-8"), max_size=12)
byte_values = st.integers(0, 255)
sources = st.lists(st.builds(SourceFile, name=texts, sha256=texts), max_size=2).map(tuple)
images = st.lists(st.binary(max_size=8), max_size=3).map(
    lambda pieces: Image.of(Segment(0x100 * place, data) for place, data in enumerate(pieces))
)
recipes = st.builds(
    Recipe,
    flash=images,
    plan=st.sampled_from(PlanKind),
    firmware=st.none() | images,
    part=st.none() | texts,
    eeprom=st.none() | images,
    fuses=st.dictionaries(st.sampled_from(MemoryKind), byte_values, max_size=3),
    lock=st.none() | byte_values,
    bootloader=st.none() | texts,
    erase=st.booleans(),
    keeps_rest=st.booleans(),
    unlock=st.booleans(),
    clones=st.sampled_from(ClonePolicy),
    verify=st.sampled_from(VerifyScope),
    force_fuses=st.booleans(),
    accept_fuses=st.booleans(),
    sck_hz=st.none() | st.integers(1, 10**7),
    sources=sources,
    warnings=st.lists(texts, max_size=2).map(tuple),
)
jobs = st.builds(
    Job,
    id=st.just(0),
    state=st.sampled_from(JobState),
    created=texts,
    slots=st.lists(texts, max_size=3).map(tuple),
    count=st.none() | st.integers(1, 10**6),
    part=st.none() | texts,
    bootloader=st.none() | texts,
    plan=st.sampled_from(PlanKind),
    finished=st.none() | texts,
    passed=st.integers(0, 10**6),
    failed=st.integers(0, 10**6),
    image_sha256=texts,
    sources=sources,
    warnings=st.lists(texts, max_size=2).map(tuple),
    seen=st.dictionaries(texts, texts, max_size=2),
)
failures = st.builds(
    Failure,
    code=texts,
    message=texts,
    hint=texts,
    memory=st.none() | texts,
    address=st.none() | st.integers(0, 2**32 - 1),
    expected=st.none() | byte_values,
    actual=st.none() | byte_values,
)
fuse_maps = st.dictionaries(st.sampled_from(["lfuse", "hfuse", "efuse", "user", "wrp0"]), byte_values)
units = st.builds(
    Unit,
    id=st.just(0),
    job=st.just(1),
    slot=st.just("A1"),
    started=texts,
    part=st.none() | texts,
    signature=st.none() | texts,
    chip=texts,
    unique_id=st.none() | texts,
    plan=st.none() | st.sampled_from([plan for plan in PlanKind if plan is not PlanKind.AUTO]),
    target_usb=st.none() | texts,
    application_usb=st.none() | texts,
    sck_hz=st.none() | st.integers(1, 10**7),
    image_sha256=texts,
    sources=sources,
    fuses_before=fuse_maps,
    fuses_after=fuse_maps,
    lock_before=st.none() | byte_values,
    lock=st.none() | byte_values,
    warnings=st.lists(texts, max_size=2).map(tuple),
)
steps = st.builds(
    StepRecord,
    name=texts,
    started=texts,
    seconds=st.floats(0, 1e6),
    bytes=st.integers(0, 2**40),
    note=texts,
    output=texts,
)


@asynccontextmanager
async def opened(path: Path, *, now: str = LATER) -> AsyncIterator[Journal]:
    journal = await Journal.open(path, ThreadWorker(), now=now)
    try:
        yield journal
    finally:
        await journal.aclose()


def board(slot: str, job: int = 1) -> Unit:
    return Unit(id=0, job=job, slot=slot, started=NOW, image_sha256=IMAGE.sha256)


def ended(unit: Unit, verdict: Verdict, failure: Failure | None = None) -> Unit:
    """The record as the station hands it over: the verdict on the unit and on its last attempt."""
    last = replace(unit.attempts[-1], verdict=verdict, failure=failure, finished=LATER)
    return replace(unit, verdict=verdict, failure=failure, finished=LATER, attempts=(*unit.attempts[:-1], last))


@settings(max_examples=40, deadline=None)
@given(
    job=jobs,
    changed=jobs,
    recipe=recipes,
    unit=units,
    facts=units,
    done=st.lists(steps, max_size=4),
    end=st.tuples(st.sampled_from(Verdict), failures),
)
def test_everything_recorded_comes_back_equal_after_a_restart(job, changed, recipe, unit, facts, done, end):
    verdict = end[0]
    why = None if verdict is Verdict.PASSED else end[1]

    async def scenario(path: Path) -> None:
        async with opened(path) as journal:
            stored = await journal.add_job(job, recipe)
            assert stored == replace(job, id=1)
            assert await journal.job(1) == stored
            begun = await journal.begin_unit(unit)
            assert begun == replace(unit, id=1, attempts=(Attempt(number=1, started=unit.started),))
            learned = replace(facts, id=1, started=unit.started, attempts=begun.attempts)
            await journal.save_unit(learned)
            for step in done:
                await journal.add_step(1, 1, step)
            running = replace(learned, attempts=(replace(begun.attempts[0], steps=tuple(done)),))
            assert await journal.unit(1) == running
            finished = ended(running, verdict, why)
            await journal.finish_unit(finished, replace(changed, id=1))
        async with opened(path) as journal:
            assert await journal.unit(1) == finished
            assert await journal.job(1) == replace(changed, id=1)
            expected = [] if changed.state.is_final else [(replace(changed, id=1), recipe)]
            assert await journal.open_jobs() == expected

    with TemporaryDirectory() as folder:
        anyio.run(scenario, Path(folder) / "journal.db")


async def test_open_attempts_of_a_dead_daemon_become_interrupted_once_and_verdicts_stay(tmp_path: Path):
    path = tmp_path / "journal.db"
    async with opened(path) as journal:
        job = await journal.add_job(JOB, RECIPE)
        passed = ended(await journal.begin_unit(board("A1")), Verdict.PASSED)
        await journal.finish_unit(passed, replace(job, state=JobState.RUNNING, passed=1))
        left = await journal.begin_unit(board("A2"))
        step = StepRecord(name="erase", started=NOW, seconds=0.009)
        await journal.add_step(left.id, 1, step)
        open_job = await journal.job(job.id)
        assert open_job is not None
        assert open_job.running == 1

    async with opened(path, now="t1") as journal:
        found = await journal.last_units(job.id)
        assert found["A1"] == passed
        interrupted = found["A2"]
        assert (interrupted.verdict, interrupted.finished) == (Verdict.INTERRUPTED, "t1")
        assert interrupted.failure is not None
        assert interrupted.failure.code == ErrorCode.INTERRUPTED
        assert [(a.verdict, a.finished, a.steps) for a in interrupted.attempts] == [
            (Verdict.INTERRUPTED, "t1", (step,))
        ]
        again = await journal.begin_attempt(left.id, "t2")
        assert (again.verdict, again.failure, again.finished) == (None, None, None)
        assert [(a.number, a.started, a.verdict) for a in again.attempts] == [
            (1, NOW, Verdict.INTERRUPTED),
            (2, "t2", None),
        ]

    async with opened(path, now="t3") as journal:
        twice = await journal.unit(left.id)
        assert twice is not None
        assert [a.finished for a in twice.attempts] == ["t1", "t3"]
        again = await journal.begin_attempt(left.id, "t4")
        done = ended(again, Verdict.PASSED)
        await journal.finish_unit(done, replace(job, state=JobState.DONE, passed=2))
    async with opened(path) as journal:
        assert await journal.unit(left.id) == done
        assert len(await journal.units(job=None, limit=10, before=None)) == 2
        assert await journal.open_jobs() == []


async def test_rules_of_the_records_are_kept_by_the_database(tmp_path: Path):
    async with opened(tmp_path / "journal.db") as journal:
        job = await journal.add_job(JOB, RECIPE)
        one = await journal.begin_unit(board("A1"))

        with pytest.raises(IspdError, match="UNIQUE") as two_open:
            await journal.begin_unit(board("A1"))
        assert two_open.value.code is ErrorCode.JOURNAL_FAILED
        with pytest.raises(IspdError, match="FOREIGN KEY"):
            await journal.begin_unit(board("A2", job=77))
        with pytest.raises(JobError) as not_interrupted:
            await journal.begin_attempt(one.id, LATER)
        assert not_interrupted.value.code is ErrorCode.UNKNOWN_UNIT
        with pytest.raises(IspdError, match="CHECK"):  # a verdict has a time, and a pass has no failure
            await journal.finish_unit(replace(ended(one, Verdict.PASSED), finished=None), job)
        with pytest.raises(IspdError, match="CHECK"):
            await journal.finish_unit(ended(one, Verdict.PASSED, Failure(code="x", message="y")), job)
        with pytest.raises(JobError) as no_job:
            await journal.finish_unit(ended(one, Verdict.PASSED), replace(job, id=9))
        assert no_job.value.code is ErrorCode.UNKNOWN_JOB
        assert await journal.unit(one.id) == one, "a refused change leaves nothing behind"

        done = ended(one, Verdict.FAILED, Failure(code="verify-mismatch", message="differs", address=0, actual=0))
        await journal.finish_unit(done, job)
        with pytest.raises(IspdError, match="no further step"):
            await journal.add_step(one.id, 1, StepRecord(name="late", started=LATER, seconds=0.0))
        for change in (journal.save_unit(one), journal.finish_unit(ended(one, Verdict.PASSED), job)):
            with pytest.raises(JobError):
                await change
        assert await journal.unit(one.id) == done
        assert (await journal.begin_unit(board("A1"))).id > one.id, "the slot is free again, ids are never reused"


async def test_a_further_attempt_of_a_running_unit_is_one_change(tmp_path: Path):
    illness = Failure(code="not-blank", message="0x0000 is not blank", address=0)
    path = tmp_path / "journal.db"
    async with opened(path) as journal:
        job = await journal.add_job(JOB, RECIPE)
        one = replace(await journal.begin_unit(board("A1")), part="atmega32u4")
        again = await journal.begin_again(one, Verdict.NEEDS_RESCUE, illness, LATER)
        first = replace(one.attempts[0], verdict=Verdict.NEEDS_RESCUE, failure=illness, finished=LATER)
        assert again == replace(one, attempts=(first, Attempt(number=2, started=LATER)))
        with pytest.raises(IspdError, match="no further step"):
            await journal.add_step(one.id, 1, StepRecord(name="late", started=LATER, seconds=0.0))
        await journal.add_step(one.id, 2, StepRecord(name="erase", started=LATER, seconds=0.0, output="Success"))
    async with opened(path) as journal:
        crashed = await journal.unit(one.id)
        assert crashed is not None
        assert [attempt.verdict for attempt in crashed.attempts] == [Verdict.NEEDS_RESCUE, Verdict.INTERRUPTED]
        third = await journal.begin_attempt(one.id, LATER)
        assert third.attempts[-1].number == 3
        await journal.finish_unit(ended(third, Verdict.NEEDS_RESCUE, illness), job)
        with pytest.raises(JobError):
            await journal.begin_again(third, Verdict.NEEDS_RESCUE, illness, LATER)
        newest = await journal.newest_to_rescue()
        assert newest is not None
        assert (newest.id, await journal.recipe(newest.job)) == (one.id, RECIPE)
        with pytest.raises(JobError) as caught:
            await journal.recipe(99)
        assert caught.value.code is ErrorCode.UNKNOWN_JOB


async def test_what_is_known_of_slots_outlives_the_daemon(tmp_path: Path):
    path = tmp_path / "journal.db"
    async with opened(path) as journal:
        assert await journal.slots.pairings() == {}
        await journal.slots.pair("A1", "1-2.1")
        await journal.slots.pair("A2", "1-2.2")
        await journal.slots.pair("A2", "1-2.1")
        assert await journal.slots.pace("A1", "atmega32u4") == SlotPace()
        await journal.slots.remember_pace("A1", "atmega32u4", UsbPace(2.0, 0.5))
        await journal.slots.remember_pace("A1", "atmega32u4", UsbPace(1.0, 0.25))
        await journal.slots.remember_pace("A1", "atmega32u4", IspPace(0.125))
    async with opened(path) as journal:
        assert await journal.slots.pairings() == {"A2": "1-2.1"}, "a port has one slot"
        pace = SlotPace(isp=IspPace(0.125), usb=UsbPace(1.0, 0.25))
        assert await journal.slots.pace("A1", "atmega32u4") == pace
        assert await journal.slots.pace("A2", "atmega32u4") == SlotPace()


EARLIER = """
    INSERT INTO image VALUES (:flash, :data);
    INSERT INTO job (state, created, slots_json, passed, failed, image_sha256, sources_json, warnings_json, seen_json,
                     recipe_json, flash)
        VALUES ('running', 'then', '["A1"]', 1, 0, '', '[]', '[]', '{}', '{"flash": {"segments": []}}', :flash);
    INSERT INTO unit (job, slot, started, finished, verdict, image_sha256, sources_json, fuses_before_json,
                      fuses_after_json, warnings_json)
        VALUES (1, 'A1', 'then', 'later', 'passed', '', '[]', '{}', '{}', '[]');
    INSERT INTO attempt (unit, number, slot, started, finished, verdict)
        VALUES (1, 1, 'A1', 'then', 'later', 'passed');
"""


SCRIPTS = ("0001_first.sql", "0002_sck.sql", "0003_chain.sql")


@pytest.mark.parametrize("version", [2, 3])
async def test_records_of_an_earlier_version_read_as_what_they_were(tmp_path: Path, version: int):
    """Before there were plans, everything went on by ISP; before there was SWD, no chip told its serial number."""
    path = tmp_path / "journal.db"
    values = {"flash": IMAGE.sha256, "data": image_bytes(IMAGE)}
    with closing(sqlite3.connect(path)) as database:
        for name in SCRIPTS[:version]:
            database.executescript(resources.files("ispd.station").joinpath(f"schema/{name}").read_text())
        database.execute(f"PRAGMA user_version = {version}")
        for statement in EARLIER.split(";")[:-1]:
            database.execute(statement, {name: values[name] for name in values if f":{name}" in statement})
        database.commit()
    async with opened(path) as journal:
        ((job, recipe),) = await journal.open_jobs()
        assert (job.plan, recipe.plan, recipe.firmware, recipe.flash) == (
            PlanKind.ISP_ONLY,
            PlanKind.ISP_ONLY,
            None,
            IMAGE,
        )
        unit = await journal.unit(1)
        assert unit is not None
        assert (unit.verdict, unit.plan, unit.target_usb) == (Verdict.PASSED, None, None)
        assert (unit.chip, unit.unique_id) == ("", None)
        new = await journal.begin_unit(replace(board("A1"), chip="revision Y", unique_id="31ff"))
        assert (new.chip, new.unique_id) == ("revision Y", "31ff")


async def test_lists_are_newest_first_and_page_by_id(tmp_path: Path):
    async with opened(tmp_path / "journal.db") as journal:
        first = await journal.add_job(JOB, RECIPE)
        second = await journal.add_job(replace(JOB, state=JobState.EMPTY), replace(RECIPE, eeprom=IMAGE))
        third = await journal.add_job(JOB, replace(RECIPE, flash=Image(())))
        assert await journal.jobs(limit=2) == [third, second]
        assert await journal.jobs(limit=2, before=second.id) == [first]
        assert [job for job, _ in await journal.open_jobs()] == [first, third]
        assert await journal.job(99) is None
        assert await journal.unit(99) is None
        made = []
        for slot, job in (("A1", first), ("A2", first), ("A1", third), ("A1", first)):
            unit = ended(await journal.begin_unit(board(slot, job.id)), Verdict.CANCELLED)
            await journal.finish_unit(unit, job)
            made.append(unit)
        assert await journal.units(job=None, limit=3, before=None) == made[:0:-1]
        assert await journal.units(job=first.id, limit=9, before=made[3].id) == [made[1], made[0]]
        assert await journal.last_units(first.id) == {"A1": made[3], "A2": made[1]}
        assert await journal.last_units(second.id) == {}


async def test_files_are_private_and_image_bytes_are_stored_once(tmp_path: Path):
    path = tmp_path / "state" / "journal.db"
    async with opened(path) as journal:
        for _ in range(3):
            await journal.add_job(JOB, replace(RECIPE, eeprom=IMAGE))
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()} == {0o600}
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT count(*), max(length(data)) FROM image").fetchone() == (1, 36)
    reader.close()


async def test_a_second_opener_is_refused_and_the_first_goes_on(tmp_path: Path):
    path = tmp_path / "journal.db"
    async with opened(path) as journal:
        with pytest.raises(ConfigError, match=f"another ispd .* already uses {tmp_path}"):
            await Journal.open(path, ThreadWorker(), now=NOW)
        outsider = sqlite3.connect(path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            outsider.execute("SELECT * FROM job")
        outsider.close()
        assert (await journal.add_job(JOB, RECIPE)).id == 1
    async with opened(path) as journal:
        assert len(await journal.jobs(limit=5)) == 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("PRAGMA application_id = 0x69737064; PRAGMA user_version = 1000", "newer ispd"),
        ("CREATE TABLE contact (name TEXT)", "not a journal"),
        ("PRAGMA application_id = 1", "not a journal"),
    ],
)
async def test_files_this_version_must_not_touch_are_refused_untouched(tmp_path: Path, script: str, message: str):
    path = tmp_path / "journal.db"
    other = sqlite3.connect(path)
    other.executescript(script)
    other.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message):
        await Journal.open(path, ThreadWorker(), now=NOW)
    assert path.read_bytes() == before


async def test_damage_is_reported_and_never_handed_out(tmp_path: Path):
    path = tmp_path / "journal.db"
    async with opened(path) as journal:
        await journal.add_job(JOB, RECIPE)
    other = sqlite3.connect(path)
    other.execute("UPDATE image SET data = zeroblob(36)")
    other.commit()
    other.close()
    async with opened(path) as journal:
        with pytest.raises(IspdError, match="digest differs"):
            await journal.open_jobs()
    path.write_bytes(b"not a database, and long enough to be read as one" * 20)
    with pytest.raises(IspdError, match="NOTADB") as damaged:
        await Journal.open(path, ThreadWorker(), now=NOW)
    assert damaged.value.code is ErrorCode.JOURNAL_FAILED


async def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(IspdError, match=r"file/journal\.db cannot be opened") as blocked:
        await Journal.open(tmp_path / "file" / "journal.db", ThreadWorker(), now=NOW)
    assert blocked.value.code is ErrorCode.JOURNAL_FAILED
    (tmp_path / "journal.db").symlink_to("/dev/null")
    with pytest.raises(IspdError, match="cannot be opened"):
        await Journal.open(tmp_path / "journal.db", ThreadWorker(), now=NOW)


async def test_a_full_disk_keeps_nothing_of_the_change_and_the_journal_usable(tmp_path: Path):
    path = tmp_path / "journal.db"
    async with opened(path) as journal:
        job = await journal.add_job(JOB, RECIPE)
        pages = journal._file.query("PRAGMA page_count")[0][0]
        journal._file.query(f"PRAGMA max_page_count = {pages}")
        big = replace(RECIPE, eeprom=Image.of([Segment(0, bytes(100_000))]))
        with pytest.raises(IspdError, match="the disk is full") as full:
            await journal.add_job(JOB, big)
        assert full.value.code is ErrorCode.JOURNAL_FAILED
        assert full.value.hint
        journal._file.query(f"PRAGMA max_page_count = {pages + 1000}")
        assert await journal.jobs(limit=5) == [job]
        assert (await journal.add_job(JOB, big)).id == job.id + 1
    async with opened(path) as journal:
        assert [recipe for _, recipe in await journal.open_jobs()] == [RECIPE, big]


async def test_durability_settings_are_in_force(tmp_path: Path):
    async with opened(tmp_path / "journal.db") as journal:
        names = ("journal_mode", "synchronous", "foreign_keys", "mmap_size", "locking_mode")
        found = tuple(journal._file.query(f"PRAGMA {name}")[0][0] for name in names)
        assert found == ("wal", 2, 1, 0, "exclusive")
        assert not (tmp_path / "journal.db-shm").exists(), "exclusive mode needs no shared memory"
