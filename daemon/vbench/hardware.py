"""The virtual bench as hardware: named ports with emulated programmers behind them, plugged and pulled at will.

Nothing runs in the background for a port: an emulated board catches up with the clock whenever somebody looks at it,
and what it does has its own exact times. Timed bench events are the exception; they need ``async with``.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from ispd.catalog.parts import Parts, load_parts
from ispd.errors import ErrorCode, LinkClosedError, TransportError
from ispd.transport.contract import PortChange, PortEvent, SerialSettings, UsbIdentity
from vbench.benchfile import EventTable, read_bench
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

__all__ = ["BenchHardware", "BenchPort", "Place", "open_bench"]

_EVENT_BACKLOG = 1024
"""Port events a watcher may leave unread; a bench has at most some hundred ports."""


@dataclass(slots=True, kw_only=True)
class Place:
    """A port of the bench: the programmer plugged in there, and how the host sees it."""

    name: str
    programmer: SerialProgrammer
    path: str
    usb: UsbIdentity
    plugged: bool
    refusal: ErrorCode | None = None
    """Why opening fails (``permission-denied``, ``port-busy``), None normally."""
    port: "BenchPort | None" = None

    def event(self, change: PortChange) -> PortEvent:
        """Describe this place as having come or gone."""
        properties = {
            "ID_PATH": self.path,
            "ID_VENDOR_ID": f"{self.usb.vendor_id:04x}",
            "ID_MODEL_ID": f"{self.usb.product_id:04x}",
        }
        return PortEvent(change=change, path=self.path, port=self.name, usb=self.usb, properties=properties)


class BenchHardware:
    """Serial ports of an emulated workstation, in process.

    Works on whatever clock the event loop has: virtual in tests, real in a demonstration.

    :param time_scale: bench seconds per second of the loop; above 1 the bench runs faster than life.
    """

    def __init__(self, *, time_scale: float = 1.0) -> None:
        self.time_scale = time_scale
        self._places: dict[str, Place] = {}
        self._watchers: set[MemoryObjectSendStream[PortEvent]] = set()
        self._origin: float | None = None
        self._schedule: list[tuple[float, Callable[[], object]]] = []
        self._tasks: TaskGroup | None = None

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
        real = asyncio.get_running_loop().time()
        if self._origin is None:
            self._origin = real
        return (real - self._origin) * self.time_scale

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Do something at a bench time. Needs ``async with``, entered before or after."""
        if self._tasks is None:
            self._schedule.append((when, action))
        else:
            self._tasks.start_soon(self._run_at, when, action)

    async def _run_at(self, when: float, action: Callable[[], object]) -> None:
        await anyio.sleep(max(0.0, when - self.now()) / self.time_scale)
        action()

    # -- what is on the bench --------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        programmer: SerialProgrammer,
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
            refusal=refusal,
        )
        if not plugged:
            programmer.power_off(0.0)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all ports, plugged or not."""
        return tuple(self._places)

    def programmer(self, name: str) -> SerialProgrammer:
        """Return the emulated programmer on a port, to look inside."""
        return self._place(name).programmer

    def target(self, name: str) -> AvrTarget | None:
        """Return the board on a programmer, or None; it has caught up with the clock."""
        programmer = self._place(name).programmer
        programmer.mcu.run(self.now())
        return programmer.socket.target

    def plug(self, name: str) -> None:
        """Plug a programmer in; harmless where it is."""
        place = self._place(name)
        if not place.plugged:
            place.plugged = True
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
        programmer.mcu.run(self.now())
        programmer.socket.insert(target, self.now())

    def remove(self, name: str) -> AvrTarget:
        """Take the board off a programmer and return it; raises ``ValueError`` where there is none."""
        programmer = self._place(name).programmer
        programmer.mcu.run(self.now())
        return programmer.socket.remove(self.now())

    def _place(self, name: str) -> Place:
        try:
            return self._places[name]
        except KeyError:
            raise ValueError(f"the bench has no port {name}") from None

    def _publish(self, event: PortEvent) -> None:
        for watcher in list(self._watchers):
            watcher.send_nowait(event)

    # -- the hardware contract -------------------------------------------------------------------------------------

    async def open_serial(self, settings: SerialSettings) -> "BenchPort":
        """Open a port for one user, DTR and RTS asserted.

        Raises ``TransportError`` with ``port-not-found``, ``port-busy`` or the refusal the bench was told.
        """
        await anyio.lowlevel.checkpoint()
        place = self._places.get(settings.port)
        if place is None or not place.plugged:
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is no port {settings.port}")
        if place.refusal is not None:
            raise TransportError(place.refusal, f"port {settings.port} cannot be opened: {place.refusal}")
        if place.port is not None:
            raise TransportError(ErrorCode.PORT_BUSY, f"port {settings.port} is in use")
        place.programmer.take(self.now())  # what came while the port was closed is lost
        place.programmer.opened(self.now(), baud=settings.baud)
        place.port = BenchPort(self, place)
        return place.port

    @asynccontextmanager
    async def hotplug(self) -> AsyncIterator[AsyncIterator[PortEvent]]:
        """Watch ports: those plugged in come first, then changes as they happen."""
        sender, receiver = anyio.create_memory_object_stream[PortEvent](_EVENT_BACKLOG)
        for place in self._places.values():
            if place.plugged:
                sender.send_nowait(place.event(PortChange.ADDED))
        self._watchers.add(sender)
        try:
            async with receiver:
                yield receiver
        finally:
            self._watchers.discard(sender)
            sender.close()


class BenchPort:
    """An open port of the bench; see ``BytePort`` in :mod:`ispd.transport.contract`."""

    def __init__(self, bench: BenchHardware, place: Place) -> None:
        self._bench = bench
        self._place = place
        self._programmer = place.programmer
        self._is_open = True
        self._kept = b""
        self._changed = anyio.Event()

    @property
    def name(self) -> str:
        """Name of the port."""
        return self._place.name

    async def send(self, data: bytes) -> None:
        """Hand bytes to the port. Raises ``LinkClosedError`` once it is gone."""
        await anyio.lowlevel.checkpoint()
        self._collect()
        self._check()
        self._programmer.feed(data, self._bench.now())
        self._wake()

    async def receive(self) -> bytes:
        """Return the next bytes, at least one. Raises ``LinkClosedError`` once the port is gone."""
        self._collect()
        if self._kept:
            await anyio.lowlevel.checkpoint()
        while not self._kept:
            self._check()
            await self._wait()
            self._collect()
        return self.take()

    def take(self) -> bytes:
        """Return what has arrived and was not received yet, possibly nothing."""
        self._collect()
        data, self._kept = self._kept, b""
        return data

    async def aclose(self) -> None:
        """Close the port; lines stay as they are."""
        self._is_open = False
        if self._place.port is self:
            self._place.port = None
        self._wake()

    def lose(self) -> None:
        """The plug was pulled: whoever waits gets ``LinkClosedError``."""
        self._is_open = False
        self._place.port = None
        self._wake()

    def _collect(self) -> None:
        if self._is_open:
            self._kept += self._programmer.take(self._bench.now())
            if self._programmer.power_lost_at is not None:
                self._bench.unplug(self.name)

    def _check(self) -> None:
        if not self._is_open:
            raise LinkClosedError(self.name)

    def _wake(self) -> None:
        self._changed.set()

    async def _wait(self) -> None:
        """Sleep until the board may have something to say, or the port changes.

        A bare timer of the loop: a board at full speed comes here some 20,000 times, and a cancel scope for each would
        cost more than the emulation.
        """
        due = self._programmer.next_time()
        changed = self._changed = anyio.Event()
        if due == math.inf:
            await changed.wait()
            return
        wait_s = max(0.0, due - self._bench.now()) / self._bench.time_scale
        timer = asyncio.get_running_loop().call_later(wait_s, changed.set)
        try:
            await changed.wait()
        finally:
            timer.cancel()


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
