"""Kill -9 of the real daemon at every commit and at every protocol step: nothing lost, nothing doubled, the job goes on.

Four boards on pseudo-terminals outlive the daemon. It is killed at a chosen point of a job, started again on the same
state directory, and must end the job by itself with every board holding the image and one record each.
"""

import base64
import random
import resource
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import anyio
import pytest
from tests.bench.live_daemon import LiveDaemon

from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import load_parts
from ispd.model.image import Image, Segment
from ispd.model.job import JobState, Unit, Verdict
from ispd.station.journal import Journal
from ispd.station.worker import ThreadWorker
from vbench.arduino_isp import ArduinoIsp
from vbench.line import Flavour
from vbench.mcu import Program
from vbench.pty_board import PtyBoard, PtyServer
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

pytestmark = pytest.mark.timeout(900)
"""Some hundred daemons start and die here: minutes on two cores, more where they are shared."""

SLOTS = ("A1", "A2", "A3", "A4")
AT_ONCE = 6
JOB_DEADLINE_S = 60.0
TIME_SCALE = 6.0
IMAGE = Image.of([Segment(0, bytes(range(1, 13))), Segment(0x7000, b"boot")])
EEPROM = b"\x01\x02"
LOCK = 0x2F


class CountedSketch(ArduinoIsp):
    """Tells its programmer of every command it has carried out."""

    on_command: Callable[[], None]

    def _avrisp(self) -> Program:
        yield from super()._avrisp()
        self.on_command()


class CountedProgrammer(SerialProgrammer):
    """Counts commands; ``alarm`` is called once when the count reaches ``alarm_at``."""

    commands = 0
    alarm_at = 0
    alarm: Callable[[], None] | None = None

    def _new_sketch(self) -> ArduinoIsp:
        sketch = CountedSketch(self.mcu, self.socket, baud=self.baud)
        sketch.on_command = self._count
        return sketch

    def _count(self) -> None:
        self.commands += 1
        if self.alarm is not None and self.commands == self.alarm_at:
            self.alarm()


@dataclass(frozen=True, slots=True)
class Memory:
    """What can be seen of a board from outside: how often it was erased, and all it holds."""

    erased: int
    content: tuple[bytes, bytes, int]

    @classmethod
    def of(cls, target: AvrTarget) -> "Memory":
        return cls(target.erase_count, (bytes(target.flash), bytes(target.eeprom), target.lock))


class Bench:
    """Four boards on pseudo-terminals and a daemon that works on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        part = load_parts().avr("atmega32u4")
        self.programmers = {
            name: CountedProgrammer(Flavour.UART, target=AvrTarget(part, seed=seed)) for seed, name in enumerate(SLOTS)
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Plug everything in; afterwards the daemon is dead."""
        with ExitStack() as stack:
            server = stack.enter_context(PtyServer(time_scale=TIME_SCALE))
            boards = {
                name: stack.enter_context(PtyBoard(programmer, server=server))
                for name, programmer in self.programmers.items()
            }
            self.daemon = LiveDaemon(self.folder, {name: board.path for name, board in boards.items()})
            try:
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self.daemon.kill_and_wait()

    def target(self, slot: str) -> AvrTarget:
        target = self.programmers[slot].socket.target
        assert target is not None
        return target

    def memories(self) -> dict[str, Memory]:
        return {slot: Memory.of(self.target(slot)) for slot in SLOTS}

    async def enqueue(self, count: int | None) -> None:
        content = base64.b64encode(write_hex(IMAGE)).decode()
        eeprom = base64.b64encode(write_hex(Image.of([Segment(0, EEPROM)]))).decode()
        await self.daemon.call(
            "job.enqueue",
            images=[{"name": "board.hex", "content": content}],
            eeprom={"name": "board.eep", "content": eeprom},
            part="atmega32u4",
            slots=list(SLOTS),
            lock=LOCK,
            **({} if count is None else {"count": count}),
        )

    async def follow_job(self) -> dict[str, Any] | None:
        """Wait until job 1 has ended and return it; None where the daemon dies before."""
        with anyio.fail_after(JOB_DEADLINE_S):
            while True:
                job = await self.daemon.call("job.get", id=1)
                if job is None or JobState(job["state"]).is_final:
                    return job  # type: ignore[no-any-return]  # JSON
                await anyio.sleep(0.02)

    async def recorded(self) -> tuple[int, dict[str, Unit]]:
        """Return how many jobs, and per slot which unit, a copy of the dead daemon's journal holds."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if not self.daemon.journal.exists():
            return 0, {}
        shutil.copytree(self.daemon.journal.parent, copy)
        journal = await Journal.open(copy / "journal.db", ThreadWorker(), now="copy")
        jobs = await journal.jobs(limit=10)
        units = await journal.units(job=None, limit=100, before=None)
        await journal.aclose()
        by_slot = {unit.slot: unit for unit in units}
        assert len(by_slot) == len(units), "a board has two records"
        return len(jobs), by_slot


async def run_until_killed(bench: Bench, kill_at: str, count: int | None) -> bool:
    """Start the daemon, give it the job, and return whether it was killed before the job ended."""
    await bench.daemon.start(kill_at=kill_at)
    await bench.enqueue(count)
    job = await bench.follow_job()
    if job is None:
        assert await bench.daemon.wait() == -9, bench.daemon.log()
    return job is None


async def check_recovery(bench: Bench, count: int | None) -> None:
    """Start the daemon again where it died and see the job through."""
    jobs, before = await bench.recorded()
    memories = bench.memories()
    passed = {slot for slot, unit in before.items() if unit.verdict is Verdict.PASSED}
    assert {unit.verdict for unit in before.values()} <= {Verdict.PASSED, Verdict.INTERRUPTED}

    await bench.daemon.start()
    if jobs == 0:
        await bench.enqueue(count)
    job = await bench.follow_job()
    assert job is not None, bench.daemon.log()
    units = await bench.daemon.call("unit.list", limit=100)
    assert await bench.daemon.stop() == 0, bench.daemon.log()

    assert (job["state"], job["passed"], job["failed"]) == ("done", len(SLOTS), 0)
    by_slot = {unit["slot"]: unit for unit in units}
    assert len(units) == len(by_slot) == len(SLOTS)
    for slot, unit in by_slot.items():
        check_board(bench, unit)
        assert len(unit["attempts"]) == (2 if slot in before and slot not in passed else 1)
        if slot in passed:
            assert unit["id"] == before[slot].id
            assert Memory.of(bench.target(slot)) == memories[slot], "a board that had passed was written again"


def check_board(bench: Bench, unit: dict[str, Any]) -> None:
    """Compare a passed unit's record with its board."""
    attempts = [attempt["verdict"] for attempt in unit["attempts"]]
    assert unit["verdict"] == "passed"
    assert attempts == ["interrupted"] * (len(attempts) - 1) + ["passed"]
    target = bench.target(unit["slot"])
    for segment in IMAGE.segments:
        assert target.flash[segment.start : segment.span.stop] == segment.data
    assert target.eeprom[: len(EEPROM)] == EEPROM
    assert target.lock & 0x3F == LOCK & 0x3F


async def in_parallel(cases: list[Callable[[], Awaitable[None]]]) -> None:
    """Run all cases, a few at a time, and stop at the first failure."""
    waiting = iter(cases)

    async def work() -> None:
        for case in waiting:
            await case()

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(work)


@pytest.mark.anyio
@pytest.mark.slow
async def test_kill_9_at_every_commit(tmp_path: Path) -> None:
    async with Bench(folder(tmp_path, "whole")).running() as bench:
        assert not await run_until_killed(bench, "never", None)
        commits = bench.daemon.commits
    assert commits > 4 * 8

    def case(moment: str, number: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            count = len(SLOTS) if number % 2 else None
            async with Bench(folder(tmp_path, f"{moment}-{number}")).running() as bench:
                was_killed = await run_until_killed(bench, f"{moment}:{number}", count)
                assert was_killed or number > commits - 2, "the run has as many commits as the one before"
                if was_killed:
                    await check_recovery(bench, count)

        return run

    await in_parallel([case(moment, number) for number in range(1, commits + 1) for moment in ("before", "after")])


@pytest.mark.anyio
@pytest.mark.slow
async def test_kill_9_at_every_protocol_step(tmp_path: Path) -> None:
    async with Bench(folder(tmp_path, "whole")).running() as bench:
        assert not await run_until_killed(bench, "never", None)
        commands = bench.programmers["A1"].commands
    assert commands > 50

    def case(number: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            async with Bench(folder(tmp_path, str(number))).running() as bench:
                board = bench.programmers[SLOTS[number % len(SLOTS)]]
                board.alarm_at, board.alarm = number, bench.daemon.kill
                if await run_until_killed(bench, "never", None):
                    await check_recovery(bench, None)

        return run

    await in_parallel([case(number) for number in range(1, commands + 1)])


@pytest.mark.anyio
@pytest.mark.slow
async def test_killed_again_and_again(tmp_path: Path) -> None:
    kills: list[int] = []

    def case(seed: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            dice = random.Random(seed)
            async with Bench(folder(tmp_path, str(seed))).running() as bench:
                for _ in range(5):
                    board = bench.programmers[dice.choice(SLOTS)]
                    board.alarm_at, board.alarm = board.commands + dice.randrange(5, 90), bench.daemon.kill
                    if not await resume_until_killed(bench):
                        return
                    board.alarm = None
                    kills.append(seed)
                jobs, units = await bench.recorded()
                assert jobs == 1
                memories = bench.memories()
                await bench.daemon.start()
                assert await bench.follow_job() is not None, bench.daemon.log()
                after = {unit["slot"]: unit for unit in await bench.daemon.call("unit.list")}
                assert await bench.daemon.stop() == 0, bench.daemon.log()
                for slot in SLOTS:
                    known = len(units[slot].attempts) if slot in units else 0
                    was_passed = slot in units and units[slot].verdict is Verdict.PASSED
                    assert len(after[slot]["attempts"]) == known + (not was_passed)
                    assert not was_passed or Memory.of(bench.target(slot)) == memories[slot]
                    check_board(bench, after[slot])

        return run

    await in_parallel([case(seed) for seed in range(6)])
    assert len(kills) >= 3 * 6  # a board may be done before its alarm: how often depends on the machine


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_full_disk_ends_the_daemon_in_order_and_room_lets_the_job_go_on(tmp_path: Path) -> None:
    ended: list[int] = []

    def case(room_bytes: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            async with Bench(folder(tmp_path, str(room_bytes))).running() as bench:
                daemon = bench.daemon
                await daemon.start()
                await bench.enqueue(None)
                assert daemon.process is not None
                log = daemon.journal.with_name("journal.db-wal")
                limit = log.stat().st_size + room_bytes
                resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
                if await bench.follow_job() is not None:
                    return
                assert await daemon.wait() == 1
                assert "ispd: the journal" in daemon.log()
                assert "Traceback" not in daemon.log()
                assert not any(bench.target(slot).in_reset for slot in SLOTS)
                await check_recovery(bench, None)
                ended.append(room_bytes)

        return run

    await in_parallel([case(room_bytes) for room_bytes in range(0, 600_000, 40_000)])
    assert len(ended) >= 5


async def resume_until_killed(bench: Bench) -> bool:
    """Start the daemon on whatever it left behind, and return whether it was killed before the job ended."""
    await bench.daemon.start()
    if await bench.daemon.call("job.list") == []:
        await bench.enqueue(None)
    return await bench.follow_job() is None


def folder(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir()
    return made
