"""The journal in a process that dies or whose disk fails: what was acknowledged is there afterwards, and nothing half."""

import random
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from ispd.model.job import Unit, Verdict
from ispd.station.journal import Journal
from ispd.station.worker import ThreadWorker

WRITER = Path(__file__).with_name("journal_writer.py")


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(WRITER), str(folder / "journal.db"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def acknowledged(lines: list[str]) -> tuple[dict[int, int], set[int]]:
    """Return steps told to be on the disk, by unit, and the units told to have passed."""
    steps: dict[int, int] = {}
    passed = set()
    for line in lines:
        match line.split():
            case ["unit", unit]:
                steps.setdefault(int(unit), 0)
            case ["step", unit]:
                steps[int(unit)] += 1
            case ["passed", unit]:
                passed.add(int(unit))
    return steps, passed


def check(units: list[Unit], job_passed: int, lines: list[str]) -> None:
    steps, passed = acknowledged(lines)
    by_id = {unit.id: unit for unit in units}
    assert set(steps) <= set(by_id), "an acknowledged unit is missing"
    assert len(by_id) - len(steps) <= 1, "only the row being committed may be there unacknowledged"
    for unit in units:
        recorded = sum(len(attempt.steps) for attempt in unit.attempts)
        assert recorded >= steps.get(unit.id, 0)
        assert unit.verdict in (Verdict.PASSED, Verdict.INTERRUPTED)
        assert unit.attempts[-1].verdict is unit.verdict
        assert unit.id not in passed or unit.verdict is Verdict.PASSED
    assert job_passed == sum(unit.verdict is Verdict.PASSED for unit in units), "verdict and counter come together"


@pytest.mark.anyio
async def test_kill_9_while_committing_loses_nothing_acknowledged(tmp_path: Path):
    lines: list[str] = []
    dice = random.Random(9)
    for _ in range(6):
        process = start(tmp_path)
        assert process.stdout is not None
        assert process.stderr is not None
        lines += islice(process.stdout, dice.randrange(3, 60))
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        # each start opened the journal that the kill before it left behind; this reads it in between
        journal = await Journal.open(tmp_path / "journal.db", ThreadWorker(), now="restart")
        units = await journal.units(job=None, limit=10_000, before=None)
        job = await journal.job(1)
        await journal.aclose()
        assert job is not None
        check(units, job.passed, [line for line in lines if line.endswith("\n")])


@pytest.mark.anyio
async def test_write_errors_are_reported_and_what_was_acknowledged_stays(tmp_path: Path):
    process = start(tmp_path, "--limit-bytes", "1000000")
    out, errors = process.communicate(timeout=60)
    lines = out.splitlines(keepends=True)
    assert process.returncode == 3, errors
    assert lines[-1].startswith("journal-failed reading or writing failed (SQLITE_IOERR_WRITE)")
    journal = await Journal.open(tmp_path / "journal.db", ThreadWorker(), now="restart")
    units = await journal.units(job=None, limit=10_000, before=None)
    job = await journal.job(1)
    await journal.aclose()
    assert job is not None
    assert len(units) > 3
    check(units, job.passed, lines)
