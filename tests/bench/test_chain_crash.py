"""The daemon dies at a commit of a chained unit that has to be rescued: the next one brings the board through, with one record."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.bench.chain_station import PART, chain_station, firmware, recipe, runs

from ispd.errors import ErrorCode, IspdError
from ispd.model.job import JobState, Verdict
from ispd.station.journal_file import JournalFile
from ispd.station.spec import SlotSpec
from vbench.board import Board
from vbench.board_faults import EraseLeaves
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.virtual_time import run_virtual

SPEC = SlotSpec(name="A", programmer="usbasp", path="1-1.1", target_usb="1-2.1")
APP = firmware(21, 1500)
RECIPE = recipe(APP)
DISEASE = EraseLeaves(chip_erases=2)


class Death:
    """Stops everything at one commit, and keeps what a kill would have left: the journal's files and the board's cells."""

    def __init__(self, folder: Path, kept: Path, *, at: int, is_before: bool) -> None:
        self.commits = 0
        self.is_dead = False
        self.left: AvrTarget | None = None
        self.scope: anyio.CancelScope | None = None
        self.target = AvrTarget(PART)
        self._folder = folder
        self._kept = kept
        self._at = at
        self._is_before = is_before

    def watching(self, commit: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            if self.is_dead:
                raise IspdError(ErrorCode.JOURNAL_FAILED, "dead")
            self.commits += 1
            if self.commits == self._at and self._is_before:
                self._die()
                raise IspdError(ErrorCode.JOURNAL_FAILED, "dead")
            commit(*arguments)
            if self.commits == self._at:
                self._die()

        return counted

    def _die(self) -> None:
        self.is_dead = True
        shutil.copytree(self._folder, self._kept)
        self.left = AvrTarget(PART)
        self.left.flash[:] = self.target.flash
        self.left.core.fuses.update(self.target.core.fuses)
        self.left.core.lock = self.target.lock
        if self.scope is not None:
            self.scope.cancel()


def bench_of(target: AvrTarget) -> tuple[BenchHardware, Board]:
    hardware = BenchHardware()
    board = Board(target, faults=[DISEASE])
    hardware.add("A", UsbAsp(), path="1-1.1", board_usb="1-2.1")
    hardware.insert("A", board)
    return hardware, board


async def live_until(death: Death, folder: Path) -> None:
    hardware, _ = bench_of(death.target)
    with anyio.CancelScope() as death.scope:
        try:
            async with chain_station(hardware, [SPEC], folder) as bench:
                await bench.ended(await bench.station.enqueue(RECIPE, slots=["A"], count=1))
        except* IspdError:
            if not death.is_dead:
                raise


async def recover(death: Death, folder: Path) -> list[Verdict | None]:
    assert death.left is not None
    hardware, board = bench_of(death.left)
    async with chain_station(hardware, [SPEC], folder) as bench:
        jobs = await bench.station.jobs(10, None)
        job = jobs[0] if jobs else await bench.station.enqueue(RECIPE, slots=["A"], count=1)
        job = await bench.ended(job)
        (unit,) = await bench.units(job)
    assert (job.state, job.passed, job.failed) == (JobState.DONE, 1, 0)
    assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
    assert runs(board, APP)
    assert [attempt.number for attempt in unit.attempts] == list(range(1, len(unit.attempts) + 1))
    return [attempt.verdict for attempt in unit.attempts]


def test_a_death_at_every_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = JournalFile._commit

    def life(number: int, *, is_before: bool) -> Death:
        folder = tmp_path / f"{number}-{is_before}"
        folder.mkdir()
        kept = tmp_path / f"{number}-{is_before}-kept"
        death = Death(folder, kept, at=number, is_before=is_before)
        monkeypatch.setattr(JournalFile, "_commit", death.watching(commit))
        run_virtual(lambda: live_until(death, folder))
        monkeypatch.setattr(JournalFile, "_commit", commit)
        return death

    whole = life(0, is_before=False)
    assert not whole.is_dead
    ways: set[tuple[Verdict | None, ...]] = set()
    for number in range(2, whole.commits - 2):  # the first opens the journal; the last ones come after the verdict
        for is_before in (True, False):
            death = life(number, is_before=is_before)
            assert death.is_dead, number
            kept = tmp_path / f"{number}-{is_before}-kept"
            ways.add(tuple(run_virtual(lambda death=death, kept=kept: recover(death, kept))))
    ill, cut, good = Verdict.NEEDS_RESCUE, Verdict.INTERRUPTED, Verdict.PASSED
    assert {(ill, good), (cut, ill, good), (ill, cut, ill, good)} <= ways
