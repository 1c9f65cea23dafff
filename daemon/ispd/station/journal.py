"""The journal: every job, every board and every finished step, on the disk before anybody acts on it.

Rules of use: :meth:`Journal.begin_unit` (the intent) has returned before the first destructive step, each
:meth:`Journal.add_step` before the next one, and :meth:`Journal.finish_unit` (the verdict) comes last. Each method is one
transaction, and has reached the disk when it returns. What a crash leaves without verdict becomes ``interrupted`` when
the journal is opened again.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio

from ispd.errors import ErrorCode, JobError
from ispd.flashing.sck import FoundSck, SckKey
from ispd.model.image import Image
from ispd.model.job import Attempt, Failure, Job, StepRecord, Unit, Verdict
from ispd.model.recipe import Recipe
from ispd.station import journal_rows as rows
from ispd.station.journal_file import JournalFile
from ispd.station.slot_memory import SlotMemory
from ispd.station.worker import Worker

__all__ = ["Journal"]

T = TypeVar("T")

_INTERRUPTED = Failure(
    code=ErrorCode.INTERRUPTED,
    message="the daemon stopped while this board was being worked on",
    hint="leave the board on its slot, or put it back: it is flashed again from the start",
)

_SELECT_JOB = """
    SELECT job.*, (SELECT count(*) FROM attempt JOIN unit ON unit.id = attempt.unit
                   WHERE attempt.verdict IS NULL AND unit.job = job.id) AS running
    FROM job"""


class Journal:
    """The station's records. Every method raises ``IspdError`` with ``journal-failed`` where the disk fails.

    After such an error nothing of the method's change is kept, and the journal can still be used. ``slots`` is what it
    keeps about slots beside their units.
    """

    def __init__(self, file: JournalFile, worker: Worker) -> None:
        self._file = file
        self._worker = worker
        self.slots = SlotMemory(file, worker)

    @classmethod
    async def open(cls, path: Path, worker: Worker, *, now: str) -> "Journal":
        """Open or create the journal; whatever has no verdict becomes ``interrupted`` at ``now`` (ISO 8601, UTC).

        Raises ``ConfigError`` where another daemon holds it, a newer version wrote it, or it is some other file.
        """
        file = await worker.run(lambda: JournalFile.open(path))
        journal = cls(file, worker)
        try:
            await journal._commit(lambda: _interrupt_open_attempts(file, now))
        except BaseException:
            await journal.aclose()
            raise
        return journal

    async def aclose(self) -> None:
        """Close the file. Everything recorded is on the disk already."""
        with anyio.CancelScope(shield=True):
            await self._worker.run(self._file.close)

    async def ping(self) -> None:
        """Return once the worker has done everything handed to it so far."""
        await self._worker.run(lambda: None)

    async def add_job(self, job: Job, recipe: Recipe) -> Job:
        """Record a new job with its recipe and return it with its id; ``job.id`` is ignored."""
        images = [image for image in (recipe.flash, recipe.firmware, recipe.eeprom) if image is not None]

        def add() -> int:
            for image in images:
                stored = {"sha256": image.sha256, "data": rows.image_bytes(image)}
                self._file.insert("image", stored, if_absent=True)
            row = rows.job_row(job)
            row |= {"recipe_json": rows.recipe_json(recipe), "flash": recipe.flash.sha256}
            row |= {"firmware": _digest(recipe.firmware), "eeprom": _digest(recipe.eeprom)}
            return self._file.insert("job", row)

        return replace(job, id=await self._commit(add), running=0)

    async def save_job(self, job: Job) -> None:
        """Record what changed about a job; ``running`` is not stored."""
        await self._commit(lambda: self._save_job(job))

    async def open_jobs(self) -> list[tuple[Job, Recipe]]:
        """Return the jobs that are not final, oldest first, with their recipes."""

        def load() -> list[tuple[Job, Recipe]]:
            found = self._file.query(f"{_SELECT_JOB} WHERE state NOT IN ('done', 'empty', 'cancelled') ORDER BY id")
            return [(rows.job_of(row), self._recipe(row)) for row in found]

        return await self._worker.run(load)

    async def jobs(self, *, limit: int, before: int | None = None) -> list[Job]:
        """Return at most ``limit`` jobs with ids below ``before``, newest first."""
        sql = f"{_SELECT_JOB} WHERE :before IS NULL OR id < :before ORDER BY id DESC LIMIT :limit"
        found = await self._worker.run(lambda: self._file.query(sql, {"before": before, "limit": limit}))
        return [rows.job_of(row) for row in found]

    async def job(self, job_id: int) -> Job | None:
        """Return one job, or None where there is none."""
        found = await self._worker.run(lambda: self._file.query(f"{_SELECT_JOB} WHERE id = :id", {"id": job_id}))
        return rows.job_of(found[0]) if found else None

    async def begin_unit(self, unit: Unit) -> Unit:
        """Record the intent to work on a board: the unit gets its id, and its first attempt is open.

        Fails with ``journal-failed`` while another attempt is open on the same slot.
        """

        def begin() -> Unit:
            unit_id = self._file.insert("unit", rows.unit_intent_row(unit))
            self._open_attempt(unit_id, 1, unit.slot, unit.started)
            return self._unit(unit_id)

        return await self._commit(begin)

    async def begin_attempt(self, unit_id: int, started: str) -> Unit:
        """Open the next attempt of an interrupted unit, which has no verdict from here on, and return the unit.

        Raises ``JobError`` with ``unknown-unit`` where the unit does not exist or was not interrupted.
        """

        def begin() -> Unit:
            again = rows.unit_verdict_row(None, None, None)
            where = "id = :key_id AND verdict = 'interrupted'"
            _expect(self._file.update("unit", again, where=where, id=unit_id), unit_id)
            unit = self._unit(unit_id)
            self._open_attempt(unit_id, unit.attempts[-1].number + 1, unit.slot, started)
            return self._unit(unit_id)

        return await self._commit(begin)

    async def begin_again(self, unit: Unit, verdict: Verdict, failure: Failure, now: str) -> Unit:
        """Close the open attempt of a running unit with a verdict, open the next one, and return the unit."""

        def begin() -> Unit:
            self._save_unit(unit, rows.unit_facts_row(unit))
            row = rows.unit_verdict_row(verdict, failure, now)
            _expect(self._file.update("attempt", row, where="unit = :key_id AND verdict IS NULL", id=unit.id), unit.id)
            self._open_attempt(unit.id, unit.attempts[-1].number + 1, unit.slot, now)
            return self._unit(unit.id)

        return await self._commit(begin)

    async def save_unit(self, unit: Unit) -> None:
        """Record what became known about a running unit: all but its verdict and attempts."""
        await self._commit(lambda: self._save_unit(unit, rows.unit_facts_row(unit)))

    async def add_step(self, unit_id: int, attempt: int, step: StepRecord) -> None:
        """Record a finished step of the open attempt."""

        def add() -> None:
            sql = "SELECT count(*) AS position FROM step WHERE unit = :unit AND attempt = :attempt"
            position = self._file.query(sql, {"unit": unit_id, "attempt": attempt})[0]["position"]
            self._file.insert("step", rows.step_row(unit_id, attempt, position, step))

        await self._commit(add)

    async def finish_unit(self, unit: Unit, job: Job) -> None:
        """Record the verdict of ``unit``, close its open attempt with it, and record the job's counters, all at once.

        ``unit`` must have a verdict and ``finished``. Raises ``JobError`` with ``unknown-unit`` where it is not running.
        """

        def finish() -> None:
            verdict = rows.unit_verdict_row(unit.verdict, unit.failure, unit.finished)
            self._save_unit(unit, rows.unit_facts_row(unit) | verdict)
            _expect(
                self._file.update("attempt", verdict, where="unit = :key_id AND verdict IS NULL", id=unit.id), unit.id
            )
            self._save_job(job)

        await self._commit(finish)

    async def units(self, *, job: int | None, limit: int, before: int | None) -> list[Unit]:
        """Return at most ``limit`` units with ids below ``before``, newest first, of one job or of all."""
        where = "(:job IS NULL OR job = :job) AND (:before IS NULL OR id < :before)"
        parameters = {"job": job, "before": before, "limit": limit}
        return await self._worker.run(lambda: self._units(f"{where} ORDER BY id DESC LIMIT :limit", parameters))

    async def unit(self, unit_id: int) -> Unit | None:
        """Return one unit, or None where there is none."""
        found = await self._worker.run(lambda: self._units("id = :id", {"id": unit_id}))
        return found[0] if found else None

    async def newest_to_rescue(self) -> Unit | None:
        """Return the newest unit that ended ``needs-rescue``, None where there is none."""
        where = "id = (SELECT max(id) FROM unit WHERE verdict = 'needs-rescue')"
        found = await self._worker.run(lambda: self._units(where, {}))
        return found[0] if found else None

    async def recipe(self, job_id: int) -> Recipe:
        """Return a job's recipe; ``JobError`` unknown-job where there is none."""

        def load() -> Recipe:
            found = self._file.query("SELECT * FROM job WHERE id = :id", {"id": job_id})
            if not found:
                raise _unknown_job(job_id)
            return self._recipe(found[0])

        return await self._worker.run(load)

    async def last_units(self, job_id: int) -> dict[str, Unit]:
        """Return for each slot the newest unit of this job."""
        where = "id IN (SELECT max(id) FROM unit WHERE job = :job GROUP BY slot)"
        found = await self._worker.run(lambda: self._units(where, {"job": job_id}))
        return {unit.slot: unit for unit in found}

    async def found_sck(self, slot: str, programmer: str) -> dict[SckKey, FoundSck]:
        """Return the SCKs found on a slot with this kind of programmer."""
        sql = "SELECT * FROM sck WHERE slot = :slot AND programmer = :programmer"
        parameters = {"slot": slot, "programmer": programmer}
        found = map(rows.found_sck_of, await self._worker.run(lambda: self._file.query(sql, parameters)))
        return {one.key: one for one in found}

    async def remember_sck(self, slot: str, programmer: str, found: FoundSck) -> None:
        """Keep the SCK that was found, in the place of what was known for the same part and clock."""
        row = rows.found_sck_row(slot, programmer, found)
        await self._commit(lambda: self._file.replace("sck", row))

    async def forget_sck(self, slot: str, part: str) -> None:
        """Forget what was found for a part on a slot: it is looked for anew."""
        await self._commit(lambda: self._file.delete("sck", slot=slot, part=part))

    async def _commit(self, change: Callable[[], T]) -> T:
        def run() -> T:
            with self._file.transaction():
                return change()

        return await self._worker.run(run)

    # What follows runs in the worker.

    def _save_job(self, job: Job) -> None:
        if self._file.update("job", rows.job_row(job), where="id = :key_id", id=job.id) != 1:
            raise _unknown_job(job.id)

    def _save_unit(self, unit: Unit, row: dict[str, Any]) -> None:
        _expect(self._file.update("unit", row, where="id = :key_id AND verdict IS NULL", id=unit.id), unit.id)

    def _open_attempt(self, unit_id: int, number: int, slot: str, started: str) -> None:
        self._file.insert("attempt", {"unit": unit_id, "number": number, "slot": slot, "started": started})

    def _recipe(self, job: rows.Row) -> Recipe:
        firmware = None if job["firmware"] is None else self._image(job["firmware"])
        eeprom = None if job["eeprom"] is None else self._image(job["eeprom"])
        return rows.recipe_of(job["recipe_json"], flash=self._image(job["flash"]), firmware=firmware, eeprom=eeprom)

    def _image(self, sha256: str) -> Image:
        found = self._file.query("SELECT data FROM image WHERE sha256 = :sha256", {"sha256": sha256})
        return rows.image_of(sha256, found[0]["data"])

    def _unit(self, unit_id: int) -> Unit:
        return self._units("id = :id", {"id": unit_id})[0]

    def _units(self, where: str, parameters: dict[str, Any]) -> list[Unit]:
        """Return the units meeting a condition of this class's own, with attempts and steps: three queries in all."""
        selected = f"SELECT id FROM unit WHERE {where}"  # noqa: S608  # conditions are this class's own, values are bound
        units = self._file.query(f"SELECT * FROM unit WHERE {where}", parameters)  # noqa: S608  # as above
        order = "ORDER BY unit, number"
        attempts = self._file.query(f"SELECT * FROM attempt WHERE unit IN ({selected}) {order}", parameters)  # noqa: S608  # as above
        order = "ORDER BY unit, attempt, position"
        steps = self._file.query(f"SELECT * FROM step WHERE unit IN ({selected}) {order}", parameters)  # noqa: S608  # as above
        steps_of: dict[tuple[int, int], list[StepRecord]] = {}
        for row in steps:
            steps_of.setdefault((row["unit"], row["attempt"]), []).append(rows.step_of(row))
        attempts_of: dict[int, list[Attempt]] = {}
        for row in attempts:
            own = steps_of.get((row["unit"], row["number"]), [])
            attempts_of.setdefault(row["unit"], []).append(rows.attempt_of(row, own))
        return [rows.unit_of(row, attempts_of[row["id"]]) for row in units]


def _interrupt_open_attempts(file: JournalFile, now: str) -> None:
    """A daemon that has just started runs nothing: what is open was left by one that died."""
    verdict = rows.unit_verdict_row(Verdict.INTERRUPTED, _INTERRUPTED, now)
    file.update("unit", verdict, where="verdict IS NULL")
    file.update("attempt", verdict, where="verdict IS NULL")


def _digest(image: Image | None) -> str | None:
    return None if image is None else image.sha256


def _unknown_job(job_id: int) -> JobError:
    return JobError(ErrorCode.UNKNOWN_JOB, f"there is no job {job_id}", hint="`ispctl jobs` lists them")


def _expect(changed: int, unit_id: int) -> None:
    if changed != 1:
        raise JobError(
            ErrorCode.UNKNOWN_UNIT,
            f"unit {unit_id} does not exist or is not in the state this change needs",
            hint="`ispctl units` lists them",
        )
