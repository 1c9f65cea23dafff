"""Rows of the journal and the records they stand for, both ways; no I/O.

Plain fields are columns of the same name; fields with structure are JSON in a column called ``<field>_json``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import msgspec

from ispd.errors import ErrorCode, IspdError
from ispd.flashing.sck import FoundSck, SckKey
from ispd.model.image import Image, Segment
from ispd.model.job import Attempt, Failure, Job, JobState, StepRecord, Unit, Verdict
from ispd.model.recipe import PlanKind, Recipe, SourceFile

__all__ = [
    "Row",
    "attempt_of",
    "failure_json",
    "found_sck_of",
    "found_sck_row",
    "image_bytes",
    "image_of",
    "job_of",
    "job_row",
    "recipe_json",
    "recipe_of",
    "step_of",
    "step_row",
    "unit_facts_row",
    "unit_intent_row",
    "unit_of",
    "unit_verdict_row",
]

T = TypeVar("T")

_NUMBER_BYTES = 8


class Row(Protocol):
    """A row as SQLite returns it."""

    def __getitem__(self, key: str, /) -> Any:
        """Return the value of a column."""


def image_bytes(image: Image) -> bytes:
    """Return the canonical form, whose SHA-256 is ``image.sha256``."""
    parts = []
    for segment in image.segments:
        parts += [_number(segment.start), _number(len(segment.data)), segment.data]
    return b"".join(parts)


def image_of(sha256: str, data: bytes) -> Image:
    """Return the image of a canonical form; raises ``IspdError`` where its digest is not ``sha256``."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IspdError(
            ErrorCode.JOURNAL_FAILED,
            f"the stored image {sha256[:12]} is damaged: its digest differs",
            hint="enqueue the image again; check the disk",
        )
    segments = []
    at = 0
    while at < len(data):
        start, size = (int.from_bytes(data[at + i : at + i + _NUMBER_BYTES], "big") for i in (0, _NUMBER_BYTES))
        at += 2 * _NUMBER_BYTES
        segments.append(Segment(start, data[at : at + size]))
        at += size
    return Image(tuple(segments))


def recipe_json(recipe: Recipe) -> str:
    """Return everything of ``recipe`` but its images."""
    return _encode(replace(recipe, flash=Image(()), firmware=None, eeprom=None))


def recipe_of(text: str, *, flash: Image, firmware: Image | None, eeprom: Image | None) -> Recipe:
    """Return the recipe with its images back in place."""
    return replace(_decode(text, Recipe), flash=flash, firmware=firmware, eeprom=eeprom)


def job_row(job: Job) -> dict[str, Any]:
    """Return the columns of a job but its id and recipe. ``running`` is not stored: it is the count of open attempts."""
    return {
        "state": job.state.value,
        "created": job.created,
        "finished": job.finished,
        "slots_json": _encode(job.slots),
        "count": job.count,
        "part": job.part,
        "bootloader": job.bootloader,
        "plan": job.plan.value,
        "passed": job.passed,
        "failed": job.failed,
        "image_sha256": job.image_sha256,
        "sources_json": _encode(job.sources),
        "warnings_json": _encode(job.warnings),
        "seen_json": _encode(job.seen),
    }


def job_of(row: Row) -> Job:
    """Return the job of a row that has the column ``running`` too."""
    return Job(
        id=row["id"],
        state=JobState(row["state"]),
        created=row["created"],
        finished=row["finished"],
        slots=_decode(row["slots_json"], tuple[str, ...]),
        count=row["count"],
        part=row["part"],
        bootloader=row["bootloader"],
        plan=PlanKind(row["plan"]),
        passed=row["passed"],
        failed=row["failed"],
        running=row["running"],
        image_sha256=row["image_sha256"],
        sources=_decode(row["sources_json"], tuple[SourceFile, ...]),
        warnings=_decode(row["warnings_json"], tuple[str, ...]),
        seen=_decode(row["seen_json"], dict[str, str]),
    )


def unit_facts_row(unit: Unit) -> dict[str, Any]:
    """Return the columns that may change while the unit is running."""
    return {
        "part": unit.part,
        "signature": unit.signature,
        "chip": unit.chip,
        "unique_id": unit.unique_id,
        "plan": None if unit.plan is None else unit.plan.value,
        "target_usb": unit.target_usb,
        "application_usb": unit.application_usb,
        "sck_hz": unit.sck_hz,
        "image_sha256": unit.image_sha256,
        "sources_json": _encode(unit.sources),
        "fuses_before_json": _encode(unit.fuses_before),
        "fuses_after_json": _encode(unit.fuses_after),
        "lock_before": unit.lock_before,
        "lock": unit.lock,
        "warnings_json": _encode(unit.warnings),
    }


def unit_intent_row(unit: Unit) -> dict[str, Any]:
    """Return the columns of a unit that begins: all but its id and its verdict."""
    return {"job": unit.job, "slot": unit.slot, "started": unit.started, **unit_facts_row(unit)}


def unit_verdict_row(verdict: Verdict | None, failure: Failure | None, finished: str | None) -> dict[str, Any]:
    """Return the columns that end a unit or an attempt; all None opens a unit again."""
    return {
        "verdict": None if verdict is None else verdict.value,
        "failure_json": failure_json(failure),
        "finished": finished,
    }


def unit_of(row: Row, attempts: Sequence[Attempt]) -> Unit:
    """Return the unit of a row, with its attempts."""
    return Unit(
        id=row["id"],
        job=row["job"],
        slot=row["slot"],
        started=row["started"],
        part=row["part"],
        signature=row["signature"],
        chip=row["chip"],
        unique_id=row["unique_id"],
        plan=None if row["plan"] is None else PlanKind(row["plan"]),
        target_usb=row["target_usb"],
        application_usb=row["application_usb"],
        verdict=_verdict_of(row),
        failure=_failure_of(row),
        sck_hz=row["sck_hz"],
        finished=row["finished"],
        image_sha256=row["image_sha256"],
        sources=_decode(row["sources_json"], tuple[SourceFile, ...]),
        fuses_before=_decode(row["fuses_before_json"], dict[str, int]),
        fuses_after=_decode(row["fuses_after_json"], dict[str, int]),
        lock_before=row["lock_before"],
        lock=row["lock"],
        warnings=_decode(row["warnings_json"], tuple[str, ...]),
        attempts=tuple(attempts),
    )


def attempt_of(row: Row, steps: Sequence[StepRecord]) -> Attempt:
    """Return the attempt of a row, with its steps."""
    return Attempt(
        number=row["number"],
        started=row["started"],
        finished=row["finished"],
        verdict=_verdict_of(row),
        failure=_failure_of(row),
        steps=tuple(steps),
    )


def step_row(unit_id: int, attempt: int, position: int, step: StepRecord) -> dict[str, Any]:
    """Return all columns of a step."""
    return {
        "unit": unit_id,
        "attempt": attempt,
        "position": position,
        "name": step.name,
        "started": step.started,
        "seconds": step.seconds,
        "bytes": step.bytes,
        "note": step.note,
        "output": step.output,
    }


def step_of(row: Row) -> StepRecord:
    """Return the step of a row."""
    fields = ("name", "started", "seconds", "bytes", "note", "output")
    return StepRecord(**{field: row[field] for field in fields})


def found_sck_row(slot: str, programmer: str, found: FoundSck) -> dict[str, Any]:
    """Return all columns of an SCK that was found."""
    return {
        "slot": slot,
        "programmer": programmer,
        "part": found.key.part,
        "clock": found.key.clock,
        "sck_hz": found.sck_hz,
        "boards": found.boards,
    }


def found_sck_of(row: Row) -> FoundSck:
    """Return the SCK of a row."""
    return FoundSck(SckKey(row["part"], row["clock"]), row["sck_hz"], row["boards"])


def failure_json(failure: Failure | None) -> str | None:
    """Return a failure as JSON, None where there is none."""
    return None if failure is None else _encode(failure)


def _verdict_of(row: Row) -> Verdict | None:
    return None if row["verdict"] is None else Verdict(row["verdict"])


def _failure_of(row: Row) -> Failure | None:
    return None if row["failure_json"] is None else _decode(row["failure_json"], Failure)


def _number(value: int) -> bytes:
    return value.to_bytes(_NUMBER_BYTES, "big")


def _encode(value: object) -> str:
    if isinstance(value, Mapping):
        value = dict(value)
    return msgspec.json.encode(value).decode()


def _decode(text: str, kind: type[T]) -> T:
    return msgspec.json.decode(text, type=kind)
