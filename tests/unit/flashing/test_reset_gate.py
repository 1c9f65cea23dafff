"""One proof at a time, and nobody else's reset in it, before it, or left over."""

import anyio
import pytest

from ispd.flashing.reset_gate import SETTLE_S, ResetGate
from vbench.virtual_time import VirtualClock, virtual


class Log:
    """Who does what, in order; times are virtual seconds from its making."""

    def __init__(self) -> None:
        self.gate = ResetGate(VirtualClock())
        self.lines: list[tuple[str, float]] = []
        self._begun_s = anyio.current_time()

    def note(self, text: str) -> None:
        self.lines.append((text, round(anyio.current_time() - self._begun_s, 3)))

    async def prove(self, name: str, lasts_s: float = 1.0, *, after_s: float = 0.0) -> None:
        await anyio.sleep(after_s)
        async with self.gate.proving():
            self.note(f"{name} begins")
            await anyio.sleep(lasts_s)
            self.note(f"{name} ends")

    async def look(self, name: str, lasts_s: float = 0.1, *, after_s: float = 0.0) -> None:
        await anyio.sleep(after_s)
        async with self.gate.resetting():
            self.note(f"{name} begins")
            await anyio.sleep(lasts_s)
            self.note(f"{name} ends")

    async def begin(self, name: str, *, after_s: float = 0.0) -> None:
        await anyio.sleep(after_s)
        await self.gate.begin()
        self.note(name)


@virtual
async def test_boards_are_proved_one_after_the_other() -> None:
    log = Log()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.prove, "one")
        tasks.start_soon(log.prove, "two")
    assert log.lines == [("one begins", 0.0), ("one ends", 1.0), ("two begins", 1.0), ("two ends", 2.0)]


@virtual
async def test_looks_go_on_side_by_side_and_a_proof_waits_for_them_and_for_what_they_left() -> None:
    log = Log()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.look, "A", 0.4)
        tasks.start_soon(log.look, "B", 0.2)
        tasks.start_soon(lambda: log.prove("C", after_s=0.1))
        tasks.start_soon(lambda: log.look("D", after_s=0.3))
    ends = 0.4 + SETTLE_S + 1.0
    assert dict(log.lines) == {
        "A begins": 0.0,
        "B begins": 0.0,
        "B ends": 0.2,
        "A ends": 0.4,
        "C begins": pytest.approx(0.4 + SETTLE_S),
        "C ends": pytest.approx(ends),
        "D begins": pytest.approx(ends),
        "D ends": pytest.approx(ends + 0.1),
    }


@virtual
async def test_what_lasts_long_waits_for_a_proof_and_is_waited_for_no_longer_than_it_takes_to_be_told() -> None:
    log = Log()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: log.begin("flash"))
        tasks.start_soon(lambda: log.prove("one", after_s=0.2))
        tasks.start_soon(lambda: log.begin("flash more", after_s=0.6))
    assert log.lines == [("flash", 0.0), ("one begins", SETTLE_S), ("one ends", 1.5), ("flash more", 1.5)]


@virtual
async def test_a_proof_that_is_cancelled_opens_the_gate() -> None:
    log = Log()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.look, "A", 0.4)
        with anyio.move_on_after(0.2):
            await log.prove("waiting")
        with anyio.move_on_after(SETTLE_S + 0.5):
            await log.prove("proving", 100.0)
        await log.look("B")
    assert [text for text, _ in log.lines] == ["A begins", "A ends", "proving begins", "B begins", "B ends"]
