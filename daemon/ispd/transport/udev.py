"""Hotplug of serial ports and USB devices through udev. The only module that knows pyudev."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

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
    async with aclosing(_events(on_turn)) as events:
        yield events


async def _events(on_turn: Callable[[], object]) -> AsyncGenerator[PortEvent, None]:
    """Follow one monitor after the other: an error of the netlink socket means that events may have been lost."""
    context = pyudev.Context()
    table = PortTable()
    monitor: pyudev.Monitor | None = None
    while True:
        on_turn()
        try:
            if monitor is None:
                monitor = _start_monitor(context)
                changes = table.reconcile(await anyio.to_thread.run_sync(_list_ports, context))
            else:
                changes = await _next_changes(context, monitor, table)
        except OSError:
            # pyudev raises it for POLLERR even with events waiting; only a new socket and a full listing are safe
            monitor, changes = None, []
            await anyio.sleep(_RESTART_S)
        for event in changes:
            yield event


async def _next_changes(context: pyudev.Context, monitor: pyudev.Monitor, table: PortTable) -> list[PortEvent]:
    """Wait for what the monitor tells, or for the regular comparison."""
    with anyio.move_on_after(RECONCILE_S) as quiet:
        await anyio.wait_readable(monitor.fileno())
    if quiet.cancelled_caught:
        return table.reconcile(await anyio.to_thread.run_sync(_list_ports, context))
    return _read_changes(monitor, table)


def _start_monitor(context: pyudev.Context) -> pyudev.Monitor:
    """Return a monitor that already collects: started before the listing, so that nothing falls between."""
    monitor = pyudev.Monitor.from_netlink(context, source="udev")
    monitor.filter_by("tty")
    monitor.filter_by(*_USB_DEVICE)
    monitor.start()
    return monitor


def _read_changes(monitor: pyudev.Monitor, table: PortTable) -> list[PortEvent]:
    """Return the changes behind all events that wait in the socket."""
    changes: list[PortEvent] = []
    while (device := monitor.poll(timeout=0)) is not None:
        if device.action in _GONE:
            changes += table.remove(device.device_path)
        elif (seen := _seen(device)) is not None:
            changes += table.add(seen)
    return changes


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
