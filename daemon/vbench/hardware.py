"""The virtual bench as hardware: named ports with emulated programmers behind them, plugged and pulled at will.

Nothing runs in the background for a port: an emulated board catches up with the clock whenever somebody looks at it,
and what it does has its own exact times. Timed bench events are the exception; they need ``async with``.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ispd.catalog.parts import Parts, load_parts
from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import (
    TURN_S,
    USB_PORT_PREFIX,
    PortChange,
    PortEvent,
    PortKind,
    SerialSettings,
    ToolOutcome,
    ToolRun,
    UsbDeviceAt,
    UsbIdentity,
)
from vbench.bench_port import BenchPort, BenchTime
from vbench.bench_usb import BenchUsbLink
from vbench.benchfile import EventTable, read_bench
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.target import AvrTarget

__all__ = ["BenchHardware", "BenchPort", "Place", "open_bench"]

_MOST_ADDRESSES = 127
_EVENT_BACKLOG = 1024
"""Port events a watcher may leave unread; a bench has at most some hundred ports."""


@dataclass(slots=True, kw_only=True)
class Place:
    """A port of the bench: the programmer plugged in there, and how the host sees it."""

    name: str
    programmer: EmulatedSerial | EmulatedUsb
    path: str
    usb: UsbIdentity
    plugged: bool
    node: str
    """Device node of a serial programmer: its name at first, another one after a re-plug where the bench is told so."""
    refusal: ErrorCode | None = None
    """Why opening fails (``permission-denied``, ``port-busy``), None normally."""
    port: BenchPort | BenchUsbLink | None = None
    """What holds it open."""
    number: int = 1
    """Its address on the bus, another one at each plug."""

    @property
    def address(self) -> str:
        """What opens it: its device node, or its place in the USB tree."""
        return self.node if self.programmer.port_kind is PortKind.SERIAL else USB_PORT_PREFIX + self.path

    def device(self) -> UsbDeviceAt:
        """Describe what is at this place."""
        tty = self.node if self.programmer.port_kind is PortKind.SERIAL else None
        return UsbDeviceAt(path=self.path, bus=1, address=self.number, usb=self.usb, version=0x0100, tty=tty)

    def event(self, change: PortChange) -> PortEvent:
        """Describe this place as having come or gone."""
        properties = {
            "ID_PATH": self.path,
            "ID_VENDOR_ID": f"{self.usb.vendor_id:04x}",
            "ID_MODEL_ID": f"{self.usb.product_id:04x}",
        }
        return PortEvent(
            change=change,
            kind=self.programmer.port_kind,
            path=self.path,
            port=self.address,
            usb=self.usb,
            properties=properties,
        )


class BenchHardware:
    """Serial ports and USB devices of an emulated workstation, in process.

    Works on whatever clock the event loop has: virtual in tests, real in a demonstration.

    :param time_scale: bench seconds per second of the loop; above 1 the bench runs faster than life.
    :param hotplug_lag_s: bench seconds until a change is told, as a busy machine's udev takes; what was opened by then is
        whatever is there, not what was last heard of.
    """

    def __init__(self, *, time_scale: float = 1.0, hotplug_lag_s: float = 0.0) -> None:
        self._time = BenchTime(time_scale)
        self._lag_s = hotplug_lag_s / time_scale
        self._untold: list[PortEvent] = []
        self._places: dict[str, Place] = {}
        self._watchers: set[MemoryObjectSendStream[PortEvent]] = set()
        self._schedule: list[tuple[float, Callable[[], object]]] = []
        self._tasks: TaskGroup | None = None
        self._number = 0

    async def __aenter__(self) -> Self:
        self.now()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        for at, action in sorted(self._schedule, key=lambda entry: entry[0]):
            self._tasks.start_soon(self._run_at, at, action)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks is not None:
            tasks, self._tasks = self._tasks, None
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(kind, error, trace)

    # -- time ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return bench seconds; they begin when the bench is first used inside an event loop."""
        return self._time.now()

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Do something at a bench time. Needs ``async with``, entered before or after."""
        if self._tasks is None:
            self._schedule.append((when, action))
        else:
            self._tasks.start_soon(self._run_at, when, action)

    async def _run_at(self, when: float, action: Callable[[], object]) -> None:
        await anyio.sleep(max(0.0, when - self.now()) / self._time.scale)
        action()

    # -- what is on the bench --------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        programmer: EmulatedSerial | EmulatedUsb,
        *,
        path: str | None = None,
        usb: UsbIdentity | None = None,
        plugged: bool = True,
        refusal: ErrorCode | None = None,
    ) -> None:
        """Put a programmer on a new port. ``path`` is its USB topology path; made up where None."""
        if name in self._places:
            raise ValueError(f"the bench has a port {name} already")
        self._places[name] = Place(
            name=name,
            programmer=programmer,
            path=path or f"1-1.{len(self._places) + 1}",
            usb=usb or programmer.usb,
            plugged=plugged,
            node=name,
            refusal=refusal,
            number=self._next_number(),
        )
        if not plugged:
            programmer.power_off(0.0)

    def _next_number(self) -> int:
        """Return the address that the next device gets: 1 to 127, round and round (USB 2.0, chapter 9.4.6)."""
        self._number = self._number % _MOST_ADDRESSES + 1
        return self._number

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all ports, plugged or not."""
        return tuple(self._places)

    def programmer(self, name: str) -> EmulatedSerial | EmulatedUsb:
        """Return the emulated programmer on a port, to look inside."""
        return self._place(name).programmer

    def target(self, name: str) -> AvrTarget | None:
        """Return the board on a programmer, or None; it has caught up with the clock."""
        programmer = self._place(name).programmer
        programmer.run(self.now())
        return programmer.socket.target

    def plug(self, name: str, *, node: str | None = None, path: str | None = None) -> None:
        """Plug a programmer in; harmless where it is.

        :param node: device node it gets this time (serial ones), None for the same as before.
        :param path: where in the USB tree it is plugged in this time, None for the same place as before.
        """
        place = self._place(name)
        if not place.plugged:
            place.plugged = True
            place.node, place.path = node or place.node, path or place.path
            place.number = self._next_number()
            place.programmer.power_on(self.now())
            self._publish(place.event(PortChange.ADDED))

    def unplug(self, name: str) -> None:
        """Pull a programmer's plug; its open port is closed with ``LinkClosedError``. Harmless where it is out."""
        place = self._place(name)
        if place.plugged:
            place.plugged = False
            place.programmer.power_off(self.now())
            if place.port is not None:
                place.port.lose()
            self._publish(place.event(PortChange.REMOVED))

    def insert(self, name: str, target: AvrTarget) -> None:
        """Put a board on a programmer; raises ``ValueError`` where there is one."""
        programmer = self._place(name).programmer
        programmer.run(self.now())
        programmer.socket.insert(target, self.now())

    def remove(self, name: str) -> AvrTarget:
        """Take the board off a programmer and return it; raises ``ValueError`` where there is none."""
        programmer = self._place(name).programmer
        programmer.run(self.now())
        return programmer.socket.remove(self.now())

    def _place(self, name: str) -> Place:
        try:
            return self._places[name]
        except KeyError:
            raise ValueError(f"the bench has no port {name}") from None

    def _publish(self, event: PortEvent) -> None:
        self._untold.append(event)
        if self._lag_s > 0:
            asyncio.get_running_loop().call_later(self._lag_s, self._tell)
        else:
            self._tell()

    def _tell(self) -> None:
        """Tell the oldest change: timers of the same moment come in any order, events must not."""
        event = self._untold.pop(0)
        for watcher in list(self._watchers):
            watcher.send_nowait(event)

    # -- the hardware contract -------------------------------------------------------------------------------------

    async def open_serial(self, settings: SerialSettings) -> BenchPort:
        """Open a port for one user, DTR and RTS asserted.

        Raises ``TransportError`` with ``port-not-found``, ``port-busy`` or the refusal the bench was told.
        """
        await anyio.lowlevel.checkpoint()
        by_node = (place for place in self._places.values() if place.plugged and place.node == settings.port)
        place = self._free_place(settings.port, next(by_node, None))
        if settings.path not in (None, place.path):
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"{settings.port} is not at {settings.path}")
        programmer = place.programmer
        if programmer.port_kind is not PortKind.SERIAL:
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"{settings.port} is no serial port")
        programmer.take(self.now())  # what came while the port was closed is lost
        programmer.opened(self.now(), baud=settings.baud)
        port = place.port = BenchPort(place.name, programmer, self._time, lambda: self._port_ended(place))
        return port

    async def open_usb(self, port: str) -> BenchUsbLink:
        """Open a USB device for one user, by its name or by ``usb:`` and its topology path.

        Raises ``TransportError`` with ``port-not-found``, ``port-busy`` or the refusal the bench was told.
        """
        await anyio.lowlevel.checkpoint()
        by_path = (place for place in self._places.values() if place.plugged and USB_PORT_PREFIX + place.path == port)
        place = self._free_place(port, next(by_path, self._places.get(port)))
        programmer = place.programmer
        if programmer.port_kind is not PortKind.USB:
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"{port} is no USB device without a tty")
        link = place.port = BenchUsbLink(
            place.address, place.usb, programmer, self._time, lambda: self._port_ended(place)
        )
        return link

    async def device_at(self, path: str) -> UsbDeviceAt | None:
        """Look at a place of the emulated USB tree."""
        await anyio.lowlevel.checkpoint()
        place = next((place for place in self._places.values() if place.plugged and place.path == path), None)
        return None if place is None else place.device()

    async def run_tool(
        self,
        run: ToolRun,
        on_output: Callable[[bytes], object] = lambda _: None,  # noqa: ARG002 - what is missing prints nothing
    ) -> ToolOutcome:
        """Raise ``TransportError`` (tool-missing): a bench has no programs of its own."""
        await anyio.lowlevel.checkpoint()
        raise TransportError(ErrorCode.TOOL_MISSING, f"there is no program {run.words[0]} on the bench")

    @staticmethod
    def _free_place(name: str, place: Place | None) -> Place:
        if place is None or not place.plugged:
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is no port {name}")
        if place.refusal is not None:
            raise TransportError(place.refusal, f"port {name} cannot be opened: {place.refusal}")
        if place.port is not None:
            raise TransportError(ErrorCode.PORT_BUSY, f"port {name} is in use")
        return place

    def _port_ended(self, place: Place) -> None:
        place.port = None
        if place.programmer.power_lost_at is not None:
            self.unplug(place.name)

    @asynccontextmanager
    async def hotplug(self, on_turn: Callable[[], object] = lambda: None) -> AsyncIterator[AsyncIterator[PortEvent]]:
        """Watch ports: those plugged in come first, then changes as they happen."""
        sender, receiver = anyio.create_memory_object_stream[PortEvent](_EVENT_BACKLOG)
        for place in self._places.values():
            if place.plugged:
                sender.send_nowait(place.event(PortChange.ADDED))
        self._watchers.add(sender)
        try:
            async with receiver, aclosing(_turning(receiver, on_turn)) as changes:
                yield changes
        finally:
            self._watchers.discard(sender)
            sender.close()


async def _turning(
    receiver: MemoryObjectReceiveStream[PortEvent], on_turn: Callable[[], object]
) -> AsyncGenerator[PortEvent, None]:
    """Yield changes, and come round while there are none."""
    while True:
        on_turn()
        change: PortEvent | None = None
        with anyio.move_on_after(TURN_S):
            change = await receiver.receive()
        if change is not None:
            yield change


def open_bench(file: Path) -> BenchHardware:
    """Build the bench a file describes; the daemon's ``bench`` hardware.

    Use the result as an async context manager: its timed events run inside. Bench time begins on entry. Raises
    ``ConfigError`` naming what is wrong with the file.
    """
    parts = load_parts()
    described = read_bench(file, parts)
    bench = BenchHardware(time_scale=described.time_scale)
    for table in described.programmer:
        bench.add(table.name, table.build(parts), path=table.path, plugged=table.plugged, refusal=table.refusal)
    for event in described.event:
        bench.at(event.at, _action(bench, event, parts))
    return bench


def _action(bench: BenchHardware, event: EventTable, parts: Parts) -> Callable[[], object]:
    if event.plug is not None:
        return partial(bench.plug, event.plug)
    if event.unplug is not None:
        return partial(bench.unplug, event.unplug)
    if event.board is not None:
        return partial(_swap, bench, event.subject, event.board.build(parts))
    return partial(_take_off, bench, event.subject)


def _take_off(bench: BenchHardware, name: str) -> None:
    """Remove a board if there is one: a bench file cannot know what happened until then."""
    if bench.target(name) is not None:
        bench.remove(name)


def _swap(bench: BenchHardware, name: str, target: AvrTarget) -> None:
    _take_off(bench, name)
    bench.insert(name, target)
