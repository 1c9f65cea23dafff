"""The worker thread: one function at a time, in order, outside the event loop, and none left behind."""

import threading

import anyio
import anyio.to_thread
import pytest

from ispd.station.worker import ThreadWorker

pytestmark = pytest.mark.anyio

PATIENCE_S = 10.0


async def test_functions_run_one_by_one_in_the_order_of_asking():
    worker = ThreadWorker()
    running = threading.Lock()
    order: list[int] = []

    def note(number: int) -> None:
        assert running.acquire(blocking=False), "two functions at once"
        assert threading.current_thread() is not threading.main_thread()
        order.append(number)
        running.release()

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(worker.run, lambda number=number: note(number))
    assert order == sorted(order)
    assert len(order) == 50


async def test_a_cancelled_caller_waits_for_the_end_of_what_was_begun():
    worker = ThreadWorker()
    begun, release = threading.Event(), threading.Event()
    ended: list[str] = []

    def work() -> None:
        begun.set()
        assert release.wait(PATIENCE_S)
        ended.append("work")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run, work)
        await anyio.to_thread.run_sync(begun.wait, PATIENCE_S)
        tasks.start_soon(worker.run, lambda: ended.append("never begun"))
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
            assert ended == []
            release.set()
    assert ended == ["work"]
    assert await worker.run(lambda: 7) == 7


async def test_what_a_function_raises_reaches_its_caller_only():
    worker = ThreadWorker()
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: "fine") == "fine"
