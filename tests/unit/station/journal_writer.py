"""A process for test_journal_crash: records boards as fast as it can and says on stdout what is acknowledged.

``--limit-bytes N``: no file may grow beyond N bytes, so that writing fails sooner or later; then the exit code is 3.
"""

import argparse
import resource
import sys
from dataclasses import replace
from pathlib import Path

import anyio

from ispd.errors import IspdError
from ispd.model.image import Image, Segment
from ispd.model.job import Job, JobState, StepRecord, Unit, Verdict
from ispd.model.recipe import Recipe
from ispd.station.journal import Journal
from ispd.station.worker import ThreadWorker

NOW = "2026-11-21T10:00:00.000+00:00"
STEPS = 3


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


async def record_boards(path: Path) -> None:
    journal = await Journal.open(path, ThreadWorker(), now=NOW)
    job = await journal.job(1)
    if job is None:
        image = Image.of([Segment(0, bytes(range(256)))])
        job = await journal.add_job(
            Job(id=0, state=JobState.RUNNING, created=NOW, slots=("A1", "A2")), Recipe(flash=image)
        )
    # boards that a killed run left behind are worked on again first
    waiting = [unit for unit in (await journal.last_units(1)).values() if unit.verdict is Verdict.INTERRUPTED]
    while True:
        if waiting:
            unit = await journal.begin_attempt(waiting.pop().id, NOW)
        else:
            unit = await journal.begin_unit(Unit(id=0, job=1, slot="A1", started=NOW))
        say("unit", unit.id)
        for number in range(STEPS):
            step = StepRecord(name=f"step {number}", started=NOW, seconds=0.5, bytes=number)
            await journal.add_step(unit.id, unit.attempts[-1].number, step)
            say("step", unit.id)
        job = replace(job, passed=job.passed + 1)
        await journal.finish_unit(replace(unit, verdict=Verdict.PASSED, finished=NOW), job)
        say("passed", unit.id)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--limit-bytes", type=int)
    arguments = parser.parse_args()
    if arguments.limit_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.limit_bytes, arguments.limit_bytes))
    try:
        anyio.run(record_boards, arguments.path)
    except IspdError as error:
        say(error.code, error.message.partition(" failed: ")[2])
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
