"""The hub numbers every change; a slow reader gets one resync instead of a backlog."""

import anyio
import pytest

from ispd.model.event import EventKind
from ispd.model.station import Slot, SlotState
from ispd.station.events import EventHub
from ispd.transport.clock import SystemClock

pytestmark = pytest.mark.anyio

SLOT = Slot(name="A1", state=SlotState.IDLE)


async def test_events_arrive_in_order_with_growing_numbers():
    hub = EventHub(SystemClock())
    with hub.subscribe() as events:
        for _ in range(3):
            hub.publish(SLOT)
        got = [await anext(events) for _ in range(3)]
    assert [event.seq for event in got] == [1, 2, 3]
    assert {event.kind for event in got} == {EventKind.SLOT}
    assert got[0].slot == SLOT


async def test_a_slow_reader_is_told_to_resync_and_then_goes_on():
    hub = EventHub(SystemClock())
    with hub.subscribe(size=4) as slow, hub.subscribe(size=100) as quick:
        for _ in range(9):
            hub.publish(SLOT)
        first = await anext(slow)
        rest = [await anext(slow) for _ in range(hub.seq - first.seq)]
        assert first.kind is EventKind.RESYNC
        assert [event.seq for event in rest] == list(range(first.seq + 1, 10))
        assert [(await anext(quick)).seq for _ in range(9)] == list(range(1, 10))


async def test_a_reader_waits_until_something_happens():
    hub = EventHub(SystemClock())
    got: list[int] = []

    async def read() -> None:
        with hub.subscribe() as events:
            task_started.set()
            got.append((await anext(events)).seq)

    task_started = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await task_started.wait()
        hub.publish(SLOT)
    assert got == [1]
    hub.publish(SLOT)
    assert hub.seq == 2
