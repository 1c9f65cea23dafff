"""Hotplug of serial ports and USB devices through udev. The only module that knows pyudev."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import anyio
import anyio.to_thread
import pyudev

from ispd.transport.contract import TURN_S, PortEvent, PortKind
from ispd.transport.port_table import PortTable, SeenPort

__all__ = ["RECONCILE_S", "watch_ports"]

RECONCILE_S = TURN_S
"""How often the table is compared with what is really there, whatever the events said."""

_RESTART_S = 0.2
"""Pause before a new monitor after an error, so that a lasting error does not spin."""

_USB_DEVICE = ("usb", "usb_device")
"""Subsystem and device type of a whole device; its interfaces are of no interest."""

_GONE = frozenset({"remove", "unbind", "offline"})


@asynccontextmanager
async def watch_ports(on_turn: Callable[[], object] = lambda: None) -> AsyncIterator[AsyncIterator[PortEvent]]:
    """Watch ports on USB: those present first, then changes; see ``Hardware.hotplug``."""
    watch = _Watch(on_turn)
    try:
        yield watch
    finally:
        watch.close()


class _Watch:
    """Follows one monitor after the other. Cancelling ``anext`` loses nothing."""

    def __init__(self, on_turn: Callable[[], object]) -> None:
        self._on_turn = on_turn
        self._context = pyudev.Context()
        self._table = PortTable()
        self._monitor: pyudev.Monitor | None = None
        """None where events may have been lost: before the first listing, and after an error of the netlink socket."""
        self._compare_at = 0.0
        """When the next regular comparison is due, however much the monitor tells until then."""
        self._changes: deque[PortEvent] = deque()
        self._limiter = anyio.CapacityLimiter(1)
        self._is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PortEvent:
        while not self._changes:
            if self._is_closed:
                raise StopAsyncIteration
            self._on_turn()
            try:
                await self._look()
            except OSError:
                # pyudev raises it for POLLERR even with events waiting; only a new socket and a full listing are safe
                self._monitor = None
                await anyio.sleep(_RESTART_S)
        return self._changes.popleft()

    def close(self) -> None:
        """Give up the monitor; whoever asks for more gets the end."""
        self._is_closed, self._monitor = True, None
        self._changes.clear()

    async def _look(self) -> None:
        """Wait for what the monitor tells, or for the regular comparison."""
        if self._monitor is None:
            # it collects before the listing begins, so that nothing falls between
            monitor = _start_monitor(self._context)
            await self._compare()
            self._monitor = monitor
            return
        with anyio.move_on_after(self._compare_at - anyio.current_time()) as patience:
            await anyio.wait_readable(self._monitor.fileno())
            self._read(self._monitor)
        if patience.cancelled_caught:
            await self._compare()

    async def _compare(self) -> None:
        listing = await anyio.to_thread.run_sync(_list_ports, self._context, limiter=self._limiter)
        self._changes.extend(self._table.reconcile(listing))
        self._compare_at = anyio.current_time() + RECONCILE_S

    def _read(self, monitor: pyudev.Monitor) -> None:
        """Take events that wait in the socket up to the first that changes something; the next look takes the others.

        So a port is told of at once in the middle of a storm. What came before an error counts.
        """
        while not self._changes and (device := monitor.poll(timeout=0)) is not None:
            if device.action in _GONE:
                self._changes.extend(self._table.remove(device.device_path))
            elif (seen := _seen(device)) is not None:
                self._changes.extend(self._table.add(seen))


def _start_monitor(context: pyudev.Context) -> pyudev.Monitor:
    """Return a monitor that collects already."""
    monitor = pyudev.Monitor.from_netlink(context, source="udev")
    monitor.filter_by("tty")
    monitor.filter_by(*_USB_DEVICE)
    monitor.start()
    return monitor


def _list_ports(context: pyudev.Context) -> list[SeenPort]:
    """Return every tty and every USB device; runs in a worker thread, for it reads much of sysfs."""
    subsystem, device_type = _USB_DEVICE
    devices = [
        *context.list_devices(subsystem="tty"),
        *context.list_devices(subsystem=subsystem, DEVTYPE=device_type),
    ]
    return [seen for seen in map(_seen, devices) if seen is not None]


def _seen(device: pyudev.Device) -> SeenPort | None:
    """Return a tty or USB device as a value, None where it has no device node."""
    if device.device_node is None:
        return None
    return SeenPort(
        kind=PortKind.SERIAL if device.subsystem == "tty" else PortKind.USB,
        sysfs_path=device.device_path,
        node=device.device_node,
        properties=dict(device.properties),
    )
