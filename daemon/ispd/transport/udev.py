"""Hotplug of serial ports and USB devices through udev. The only module that knows pyudev."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Thread
from typing import Self

import anyio
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


class _Listing:
    """A look at all ports that are there, taken by a thread: the kernel holds back who reads while a hub is busy, for seconds."""

    def __init__(self, context: pyudev.Context) -> None:
        self.over = anyio.Event()
        self.told: set[str] = set()
        """Ports that events were about meanwhile: of those the listing may know less."""
        self._context = context
        self._found: list[SeenPort] = []
        self._error: OSError | None = None
        self._loop = asyncio.get_running_loop()
        Thread(target=self._run, name="listing of ports", daemon=True).start()

    def found(self) -> list[SeenPort]:
        """Return the ports, once it is over. Raises ``OSError`` where they could not be read."""
        if self._error is not None:
            raise self._error
        return self._found

    def _run(self) -> None:
        try:
            self._found = _list_ports(self._context)
        except OSError as error:
            self._error = error
        try:
            self._loop.call_soon_threadsafe(self.over.set)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


class _Watch:
    """Follows one monitor after the other. Cancelling ``anext`` loses nothing."""

    def __init__(self, on_turn: Callable[[], object]) -> None:
        self._on_turn = on_turn
        self._context = pyudev.Context()
        self._table = PortTable()
        self._monitor: pyudev.Monitor | None = None
        """None where events may have been lost: before the first listing, and after an error of the netlink socket."""
        self._listing: _Listing | None = None
        self._compare_at = 0.0
        """When the next regular comparison is due, however much the monitor tells until then."""
        self._changes: deque[PortEvent] = deque()
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
                self._monitor = self._listing = None
                await anyio.sleep(_RESTART_S)
        return self._changes.popleft()

    def close(self) -> None:
        """Give up the monitor; whoever asks for more gets the end."""
        self._is_closed, self._monitor, self._listing = True, None, None
        self._changes.clear()

    async def _look(self) -> None:
        """Wait for what the monitor tells, or for the regular comparison; neither waits for the other."""
        if self._monitor is None:
            # it collects before the listing begins, so that nothing falls between
            self._monitor = _start_monitor(self._context)
            self._listing = _Listing(self._context)
        elif self._listing is None and anyio.current_time() >= self._compare_at:
            self._listing = _Listing(self._context)
        monitor, listing = self._monitor, self._listing
        await self._wait(monitor, listing)
        if listing is None or not listing.over.is_set():
            self._read(monitor, listing)
            return
        self._read(monitor, listing, is_all=True)
        self._listing = None
        self._compare_at = anyio.current_time() + RECONCILE_S
        self._changes.extend(self._table.reconcile(listing.found(), told=listing.told))

    async def _wait(self, monitor: pyudev.Monitor, listing: _Listing | None) -> None:
        """Return when the monitor has something to read, or a listing is over, or one is due."""
        async with anyio.create_task_group() as tasks:
            if listing is None:
                tasks.cancel_scope.deadline = self._compare_at
            else:
                tasks.start_soon(_end_after, listing.over, tasks.cancel_scope)
            await anyio.wait_readable(monitor.fileno())
            tasks.cancel_scope.cancel()

    def _read(self, monitor: pyudev.Monitor, listing: _Listing | None, *, is_all: bool = False) -> None:
        """Take events that wait in the socket, up to the first that changes something unless ``is_all``.

        So a port is told of at once in the middle of a storm. What came before an error counts.
        """
        while (is_all or not self._changes) and (device := monitor.poll(timeout=0)) is not None:
            if listing is not None:
                listing.told.add(device.device_path)
            if device.action in _GONE:
                self._changes.extend(self._table.remove(device.device_path))
            elif (seen := _seen(device)) is not None:
                self._changes.extend(self._table.add(seen))


async def _end_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


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
