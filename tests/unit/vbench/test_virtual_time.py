"""Time that costs nothing, and never runs away."""

import socket
import time
from datetime import timedelta

import anyio
import pytest

from vbench.virtual_time import InlineWorker, VirtualClock, VirtualDeadlockError, run_virtual, virtual


def test_a_day_of_waiting_takes_no_time_and_lasts_a_day() -> None:
    async def wait() -> tuple[float, timedelta]:
        clock = VirtualClock()
        began, day = clock.monotonic(), clock.wall()
        for _ in range(24):
            await clock.sleep(3600)
        return clock.monotonic() - began, clock.wall() - day

    began = time.monotonic()
    assert run_virtual(wait) == (86400.0, timedelta(days=1))
    assert time.monotonic() - began < 5.0


def test_tasks_wake_in_the_order_of_their_times() -> None:
    async def main() -> list[tuple[float, str]]:
        seen: list[tuple[float, str]] = []

        async def ring(name: str, first: float, period: float) -> None:
            await anyio.sleep(first)
            for _ in range(3):
                seen.append((round(anyio.current_time(), 6), name))
                await anyio.sleep(period)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ring, "a", 0.5, 1.0)
            tasks.start_soon(ring, "b", 0.1, 0.7)
        return seen

    assert run_virtual(main) == [(0.1, "b"), (0.5, "a"), (0.8, "b"), (1.5, "a"), (1.5, "b"), (2.5, "a")]


@virtual
async def test_deadlines_are_virtual() -> None:
    with pytest.raises(TimeoutError):
        with anyio.fail_after(1e5):
            await anyio.Event().wait()
    assert anyio.current_time() == pytest.approx(1e5)
    with anyio.move_on_after(2.0) as scope:
        await anyio.sleep(1.0)
    assert not scope.cancelled_caught


def test_waiting_for_ever_is_an_error_and_leaves_nothing_behind() -> None:
    ended = []

    async def stuck() -> None:
        try:
            await anyio.Event().wait()
        finally:
            ended.append(anyio.current_time())

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stuck)
            await anyio.sleep(7.0)

    with pytest.raises(VirtualDeadlockError):
        run_virtual(main)
    assert ended == [7.0]


def test_real_descriptors_still_work() -> None:
    async def main() -> bytes:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.sendall(b"x")
            await anyio.wait_readable(near)
            return near.recv(1)

    assert run_virtual(main) == b"x"


@virtual
async def test_inline_worker_calls_in_place_and_passes_errors_on() -> None:
    worker = InlineWorker()
    assert await worker.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert anyio.current_time() == 0.0
