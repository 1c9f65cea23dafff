"""The udev watcher, with a stand-in for the library: a socket that rings, devices that are values."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import anyio
import pytest

from ispd.transport import udev
from ispd.transport.contract import PortEvent, PortKind
from ispd.transport.machine import Machine
from vbench.virtual_time import run_virtual

pytestmark = pytest.mark.anyio

UNO = {"ID_VENDOR_ID": "2341", "ID_MODEL_ID": "0043"}


@dataclass
class FakeUdev:
    """Devices that are there, and monitors that tell about changes."""

    devices: list[SimpleNamespace] = field(default_factory=list)
    may_list: threading.Event = field(default_factory=threading.Event)
    """Cleared while the kernel holds back who reads."""
    monitors: list["FakeMonitor"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_list.set()

    def Context(self) -> "FakeUdev":  # noqa: N802 - the library's name
        return self

    @property
    def Monitor(self) -> "FakeUdev":  # noqa: N802 - the library's name
        return self

    def from_netlink(self, _context: object, source: str) -> "FakeMonitor":
        assert source == "udev", "kernel events come before the rules set permissions and names"
        self.monitors.append(FakeMonitor())
        return self.monitors[-1]

    def list_devices(self, subsystem: str, **properties: str) -> Iterator[SimpleNamespace]:
        assert (subsystem, properties) in (("tty", {}), ("usb", {"DEVTYPE": "usb_device"}))
        found = [device for device in self.devices if device.subsystem == subsystem]
        assert self.may_list.wait(30)
        return iter(found)


class FakeMonitor:
    def __init__(self) -> None:
        self.events: deque[SimpleNamespace | OSError] = deque()
        self.filters: list[tuple[str, str | None]] = []
        self.started = False
        self._ear, self._bell = os.pipe()
        os.set_blocking(self._ear, False)

    def filter_by(self, subsystem: str, device_type: str | None = None) -> None:
        assert not self.started, "what comes before the filter is not filtered"
        self.filters.append((subsystem, device_type))

    def start(self) -> None:
        self.started = True

    def fileno(self) -> int:
        return self._ear

    def ring(self, *events: SimpleNamespace | OSError) -> None:
        self.events.extend(events)
        os.write(self._bell, b"!")

    def poll(self, timeout: float) -> SimpleNamespace | None:
        assert timeout == 0, "waiting belongs to the event loop"
        if not self.events:
            with suppress(BlockingIOError):
                os.read(self._ear, 1)
            return None
        event = self.events.popleft()
        if isinstance(event, OSError):
            raise event
        return event


def device(place: str, node: str, action: str = "add", properties: dict[str, str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        action=action,
        subsystem="tty",
        device_path=f"/devices/pci0/usb1/1-1/{place}/{place}:1.0/tty/{node}",
        device_node=f"/dev/{node}",
        properties=UNO if properties is None else properties,
    )


def whole(place: str, action: str = "add", properties: dict[str, str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        action=action,
        subsystem="usb",
        device_path=f"/devices/pci0/usb1/1-1/{place}",
        device_node="/dev/bus/usb/001/005",
        properties=UNO if properties is None else properties,
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeUdev:
    fake = FakeUdev()
    monkeypatch.setattr(udev, "pyudev", fake)
    return fake


def shown(event: PortEvent) -> tuple[str, str]:
    return event.change.value, event.path


async def test_present_ports_come_first_then_changes(fake: FakeUdev) -> None:
    fake.devices.append(device("1-1.1", "ttyACM0"))
    with anyio.fail_after(5):
        async with Machine().hotplug() as events:
            assert shown(await anext(events)) == ("added", "1-1.1")
            (monitor,) = fake.monitors
            assert (monitor.started, monitor.filters) == (True, [("tty", None), ("usb", "usb_device")])
            monitor.ring(device("1-1.2", "ttyACM1"), device("1-1.1", "ttyACM0", "unbind", {}))
            assert shown(await anext(events)) == ("added", "1-1.2")
            assert shown(await anext(events)) == ("removed", "1-1.1")


async def test_a_board_with_a_tty_is_a_serial_port_and_a_usb_device(fake: FakeUdev) -> None:
    fake.devices += [whole("1-1.1"), device("1-1.1", "ttyACM0")]
    with anyio.fail_after(5):
        async with Machine().hotplug() as events:
            found = [await anext(events), await anext(events)]
            assert [(event.kind, event.path, event.port) for event in found] == [
                (PortKind.USB, "1-1.1", "usb:1-1.1"),
                (PortKind.SERIAL, "1-1.1", "/dev/ttyACM0"),
            ]
            fake.monitors[0].ring(device("1-1.1", "ttyACM0", "remove", {}), whole("1-1.1", "unbind", {}))
            assert [(await anext(events)).kind for _ in range(2)] == [PortKind.SERIAL, PortKind.USB]


async def test_events_do_not_wait_for_a_listing_and_are_newer_than_it(fake: FakeUdev) -> None:
    fake.devices[:] = [device("1-1.1", "ttyACM0"), device("1-1.2", "ttyACM1")]
    fake.may_list.clear()
    with anyio.fail_after(10):
        async with Machine().hotplug() as events:
            with anyio.move_on_after(0.01):
                await anext(events)
            fake.monitors[0].ring(device("1-1.3", "ttyACM2"), device("1-1.2", "ttyACM1", "remove", {}))
            assert shown(await anext(events)) == ("added", "1-1.3")
            with anyio.move_on_after(0.05) as quiet:
                await anext(events)
            assert quiet.cancelled_caught
            fake.may_list.set()
            assert shown(await anext(events)) == ("added", "1-1.1")
            with anyio.move_on_after(0.05) as quiet:
                await anext(events)
            assert quiet.cancelled_caught, "neither is the port that left back, nor the one that came gone"


async def test_a_listing_from_before_an_error_counts_for_nothing(fake: FakeUdev) -> None:
    fake.devices[:] = [device("1-1.1", "ttyACM0")]
    fake.may_list.clear()
    with anyio.fail_after(10):
        async with Machine().hotplug() as events:
            with anyio.move_on_after(0.05):
                await anext(events)
            fake.devices[:] = [device("1-1.2", "ttyACM0")]
            fake.monitors[0].ring(OSError("POLLERR"))
            with anyio.move_on_after(0.5):
                await anext(events)
            assert len(fake.monitors) == 2
            fake.may_list.set()
            assert shown(await anext(events)) == ("added", "1-1.2")


async def test_a_port_is_told_of_before_what_comes_after_it_is_read(fake: FakeUdev) -> None:
    fake.devices.append(device("1-1.1", "ttyACM0"))
    with anyio.fail_after(5):
        async with Machine().hotplug() as events:
            await anext(events)
            fake.monitors[0].ring(device("1-1.2", "ttyACM1"), device("1-1.3", "ttyACM2"))
            assert shown(await anext(events)) == ("added", "1-1.2")
            assert len(fake.monitors[0].events) == 1
            assert shown(await anext(events)) == ("added", "1-1.3")


def test_what_no_event_told_is_found_after_thirty_seconds(fake: FakeUdev, monkeypatch: pytest.MonkeyPatch) -> None:
    class Inline:
        """Virtual time would run away from a thread."""

        def __init__(self, *, target: Callable[[], None], **_: object) -> None:
            self.start = target

    async def watch() -> None:
        fake.devices.append(device("1-1.1", "ttyACM0"))
        turns: list[float] = []
        async with Machine().hotplug(lambda: turns.append(anyio.current_time())) as events:
            assert shown(await anext(events)) == ("added", "1-1.1")
            for path in ("1-1.2", "1-1.3"):
                begun = anyio.current_time()
                fake.devices.append(device(path, "ttyACM1"))
                assert shown(await anext(events)) == ("added", path)
                assert anyio.current_time() - begun == pytest.approx(30)
            fake.devices.clear()
            assert [shown(await anext(events)) for _ in range(3)] == [
                ("removed", path) for path in ("1-1.1", "1-1.2", "1-1.3")
            ]
            assert anyio.current_time() == pytest.approx(90)
        assert max(after - before for before, after in pairwise(turns)) <= 30 + 1e-6, "the watchdog hears of each"

    monkeypatch.setattr(udev, "Thread", Inline)
    run_virtual(watch)


async def test_an_error_of_the_monitor_means_a_new_one_and_a_full_comparison(fake: FakeUdev) -> None:
    fake.devices.append(device("1-1.1", "ttyACM0"))
    with anyio.fail_after(5):
        async with Machine().hotplug() as events:
            await anext(events)
            fake.devices[:] = [device("1-1.2", "ttyACM1")]
            fake.monitors[0].ring(OSError("POLLERR"))
            assert shown(await anext(events)) == ("removed", "1-1.1")
            assert shown(await anext(events)) == ("added", "1-1.2")
    assert len(fake.monitors) == 2


async def test_what_came_before_an_error_is_told(fake: FakeUdev) -> None:
    with anyio.fail_after(5):
        async with Machine().hotplug() as events:
            with anyio.move_on_after(0.01):
                await anext(events)
            fake.devices.append(device("1-1.1", "ttyACM0"))
            fake.monitors[0].ring(device("1-1.1", "ttyACM0"), OSError("POLLERR"))
            assert shown(await anext(events)) == ("added", "1-1.1")
            with anyio.move_on_after(0.3) as quiet:
                await anext(events)
            assert quiet.cancelled_caught, "the new listing has nothing to add"
    assert len(fake.monitors) == 2


async def test_a_cancelled_wait_ends_nothing_and_the_context_does(fake: FakeUdev) -> None:
    async with Machine().hotplug() as events:
        for _ in range(2):
            with anyio.move_on_after(0.01) as patience:
                await anext(events)
            assert patience.cancelled_caught
        fake.monitors[0].ring(device("1-1.1", "ttyACM0"))
        with anyio.fail_after(5):
            assert shown(await anext(events)) == ("added", "1-1.1")
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_what_no_event_told_is_found_by_the_regular_comparison(
    fake: FakeUdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udev, "RECONCILE_S", 0.01)
    fake.devices.append(device("1-1.1", "ttyACM0"))
    with anyio.fail_after(5):
        async with Machine().hotplug() as events:
            await anext(events)
            fake.devices.clear()
            assert shown(await anext(events)) == ("removed", "1-1.1")
            assert len(fake.monitors) == 1


async def test_a_monitor_that_never_stops_talking_does_not_put_the_comparison_off(
    fake: FakeUdev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udev, "RECONCILE_S", 0.05)
    fake.devices.append(device("1-1.1", "ttyACM0"))

    async def chatter() -> None:
        while True:
            fake.monitors[0].ring(device("1-1.9", "ttyS0", "change", {}))
            await anyio.sleep(0.01)

    with anyio.fail_after(5):
        async with Machine().hotplug() as events, anyio.create_task_group() as tasks:
            await anext(events)
            fake.devices.clear()
            tasks.start_soon(chatter)
            assert shown(await anext(events)) == ("removed", "1-1.1")
            tasks.cancel_scope.cancel()


async def test_the_real_library_lists_this_machine() -> None:
    with anyio.move_on_after(0.3) as patience:
        async with Machine().hotplug() as events:
            async for event in events:
                assert event.port.startswith(("/dev/", "usb:"))
    assert patience.cancelled_caught, "the watch ends only with its context"
