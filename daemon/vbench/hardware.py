"""The virtual bench as hardware: named ports with emulated programmers behind them, plugged and pulled at will.

Nothing runs in the background for a port: an emulated programmer catches up with the clock whenever somebody looks at it,
and what it does has its own exact times. Timed bench events are the exception, and what boards show on ports of their own
as time goes by; they need ``async with``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectSendStream

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.parts import Parts, load_parts
from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import (
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
from vbench.bench_boards import BoardPorts
from vbench.bench_place import Place, free_place, turning
from vbench.bench_port import BenchPort, BenchTime
from vbench.bench_usb import BenchUsbLink
from vbench.benchfile import EventTable, read_bench
from vbench.board import Board
from vbench.emulated import EmulatedBoard, EmulatedFace, EmulatedProgrammer
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdTarget
from vbench.target import AvrTarget
from vbench.tools import run_emulated

__all__ = ["BenchHardware", "BenchPort", "Place", "open_bench"]

_MOST_ADDRESSES = 127
_PRESS_S = 0.1
_EVENT_BACKLOG = 1024
"""Port events a watcher may leave unread; a bench has at most some hundred ports."""


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
        self._boards = BoardPorts(
            self._time, publish=self._publish, next_number=self._next_number, is_taken=self._is_node
        )
        self._named_ports: dict[str, str] = {}
        self.tools: Mapping[str, str] = {}
        """Version of each outside program that is not Debian's, by name; empty for one that is not installed."""

    async def __aenter__(self) -> Self:
        self.now()
        self._boards.watch()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        for at, action in sorted(self._schedule, key=lambda entry: entry[0]):
            self._tasks.start_soon(self._run_at, at, action)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._boards.rest()
        if self._tasks is not None:
            tasks, self._tasks = self._tasks, None
            tasks.cancel_scope.cancel()
            await tasks.__aexit__(kind, error, trace)

    # -- time ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return bench seconds; they begin when the bench is first used inside an event loop."""
        return self._time.now()

    async def sleep(self, seconds: float) -> None:
        """Wait that many bench seconds."""
        await anyio.sleep(seconds / self._time.scale)

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

    def add(  # noqa: PLR0913 - all but two are keywords that seldom occur
        self,
        name: str,
        programmer: EmulatedProgrammer,
        *,
        path: str | None = None,
        usb: UsbIdentity | None = None,
        plugged: bool = True,
        refusal: ErrorCode | None = None,
        board_usb: str | None = None,
        board: EmulatedBoard | None = None,
    ) -> None:
        """Put a programmer on a new port.

        :param path: its USB topology path; made up where None.
        :param board_usb: path of the port for the own USB cable of boards on this programmer, None where they get none.
        :param board: the board that is on the programmer from the start; where None, and the programmer has an AVR on it
            already, a :class:`~vbench.board.Board` with that. Raises ``ValueError`` for a board with another kind of header.
        """
        self._check_new(name)
        place = Place(
            name=name,
            programmer=programmer,
            path=path or f"1-1.{len(self._places) + 1}",
            usb=usb or programmer.usb,
            plugged=plugged,
            node=name,
            refusal=refusal,
            number=self._next_number(),
            board_usb=board_usb,
        )
        if board is not None and place.chip is None:
            place.put(board, 0.0)
        self._places[name] = place
        if not plugged:
            programmer.power_off(0.0)
        if board_usb is not None:
            self._boards.add(board_usb)
            board = board or (_with_usb(place.chip) if isinstance(place.chip, AvrTarget) else None)
            if board is not None:
                self._boards.attach(board_usb, board, 0.0)

    def add_port(
        self, name: str, path: str, board: EmulatedBoard | None = None, *, refusal: ErrorCode | None = None
    ) -> None:
        """Make a port for boards that are on no programmer, perhaps with one in it.

        :param refusal: why what shows up there cannot be opened, None normally.
        """
        self._check_new(name)
        self._boards.add(path, refusal=refusal)
        self._named_ports[name] = path
        if board is not None:
            self._boards.attach(path, board, 0.0)

    def _check_new(self, name: str) -> None:
        if name in self._places or name in self._named_ports:
            raise ValueError(f"the bench has a port {name} already")

    def _next_number(self) -> int:
        """Return the address that the next device gets: 1 to 127, round and round (USB 2.0, chapter 9.4.6)."""
        self._number = self._number % _MOST_ADDRESSES + 1
        return self._number

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all ports, plugged or not."""
        return tuple(self._places)

    def programmer(self, name: str) -> EmulatedProgrammer:
        """Return the emulated programmer on a port, to look inside."""
        return self._place(name).programmer

    def target(self, name: str) -> AvrTarget | None:
        """Return the AVR on a programmer, or None; it has caught up with the clock.

        Raises ``ValueError`` for a debug probe, whose boards have no AVR: see :meth:`chip`.
        """
        found = self._chip_on(self._place(name))
        if found is not None and not isinstance(found, AvrTarget):
            raise ValueError(f"{name} is a debug probe: its board has no AVR")
        return found

    def chip(self, name: str) -> Stm32F1 | None:
        """Return the STM32 on a debug probe, or in a port, None where there is none; it has caught up with the clock."""
        board = self.board(name) if name in self._named_ports else None
        found = self._chip_on(self._places[name]) if name in self._places else None if board is None else board.swd
        return found if isinstance(found, Stm32F1) else None

    def _chip_on(self, place: Place) -> AvrTarget | SwdTarget | None:
        place.programmer.run(self.now())
        return place.chip

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

    def insert(self, name: str, board: AvrTarget | EmulatedBoard) -> None:
        """Put a board on a programmer, with its own USB cable where the programmer's place has a port for it; or into a port.

        Raises ``ValueError`` where there is one.
        """
        now = self.now()
        if name in self._named_ports:
            self._boards.attach(self._named_ports[name], _with_usb(board), now)
            return
        place = self._place(name)
        place.programmer.run(now)
        place.put(board, now)
        if place.board_usb is not None:
            self._boards.attach(place.board_usb, _with_usb(board), now)

    def remove(self, name: str) -> AvrTarget | SwdTarget | None:
        """Take the board off a programmer, or out of a port, and return its chip; None where no header leads to that.

        Raises ``ValueError`` where there is no board.
        """
        now = self.now()
        if name in self._named_ports:
            board = self._boards.detach(self._named_ports[name], now)
            if board is None:
                raise ValueError(f"no board is in {name}")
            return board.target or board.swd
        place = self._place(name)
        place.programmer.run(now)
        if place.board_usb is not None:
            self._boards.detach(place.board_usb, now)
        return place.take(now)

    def press(self, name: str) -> None:
        """Press the reset button of a board on a programmer, or in a port, for a tenth of a second; harmless where none is.

        While the programmer holds the reset line itself, the button changes nothing.
        """
        target = self._chip_in(name)
        if isinstance(target, AvrTarget):
            if target.powered and not target.in_reset:
                target.set_reset(True, self.now())
                asyncio.get_running_loop().call_later(_PRESS_S / self._time.scale, self._let_go, name, target)
        elif target is not None:
            target.press_reset(self.now())

    def _let_go(self, name: str, target: AvrTarget) -> None:
        is_held = name in self._places and self._places[name].holds_reset
        if self._chip_in(name) is target and not is_held:
            target.set_reset(False, self.now())

    def _chip_in(self, name: str) -> AvrTarget | SwdTarget | None:
        if name in self._places:
            return self._chip_on(self._places[name])
        board = self.board(name) if name in self._named_ports else None
        return None if board is None else board.target or board.swd

    def holds_board(self, name: str) -> bool:
        """Tell whether a board is on a programmer, or in a port."""
        return (self.board(name) if name in self._named_ports else self._chip_on(self._place(name))) is not None

    def board(self, name: str) -> EmulatedBoard | None:
        """Return the USB side of the board on a programmer, or in a port; None where there is none."""
        path = self._named_ports.get(name) or self._place(name).board_usb
        port = None if path is None else self._boards.at(path)
        return None if port is None else port.board

    def face(self, path: str) -> EmulatedFace | None:
        """Return what a board shows at a place of the USB tree now, to look inside."""
        port = self._boards.at(path)
        return None if port is None else port.shown

    def devices(self) -> list[UsbDeviceAt]:
        """Return all USB devices that are there now, in the order of their addresses, as the kernel lists them."""
        self._boards.settle()
        return sorted(self._devices(), key=lambda device: device.address)

    def _devices(self) -> Iterator[UsbDeviceAt]:
        yield from (place.device() for place in self._places.values() if place.plugged)
        yield from filter(None, (port.device() for port in self._boards))

    def _is_node(self, node: str) -> bool:
        return any(place.plugged and place.node == node for place in self._places.values())

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
        if (of_board := self._boards.open_serial(settings)) is not None:
            return of_board
        by_node = (place for place in self._places.values() if place.plugged and place.node == settings.port)
        place = free_place(settings.port, next(by_node, None))
        if settings.path not in (None, place.path):
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"{settings.port} is not at {settings.path}")
        programmer = place.programmer
        if programmer.port_kind is not PortKind.SERIAL:
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"{settings.port} is no serial port")
        programmer.take(self.now())  # what came while the port was closed is lost
        programmer.opened(self.now(), baud=settings.baud)
        port = place.port = BenchPort(
            place.name,
            programmer,
            self._time,
            lambda: self._port_ended(place),
            hangs_up_from=settings.baud if settings.hangs_up else None,
        )
        return port

    async def open_usb(self, port: str) -> BenchUsbLink:
        """Open a USB device for one user, by its name or by ``usb:`` and its topology path.

        Raises ``TransportError`` with ``port-not-found``, ``port-busy`` or the refusal the bench was told.
        """
        await anyio.lowlevel.checkpoint()
        if (of_board := self._boards.open_usb(port)) is not None:
            return of_board
        by_path = (place for place in self._places.values() if place.plugged and USB_PORT_PREFIX + place.path == port)
        place = free_place(port, next(by_path, self._places.get(port)))
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
        return next((device for device in self.devices() if device.path == path), None)

    async def run_tool(self, run: ToolRun, on_output: Callable[[bytes], object] = lambda _: None) -> ToolOutcome:
        """Run one of the programs that the bench emulates; see the contract."""
        await anyio.lowlevel.checkpoint()
        return await run_emulated(run, on_output, self)

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
        self._boards.settle()
        for port in self._boards:
            for event in port.events(PortChange.ADDED):
                sender.send_nowait(event)
        self._watchers.add(sender)
        try:
            async with receiver, aclosing(turning(receiver, on_turn)) as changes:
                yield changes
        finally:
            self._watchers.discard(sender)
            sender.close()


def _with_usb(board: AvrTarget | EmulatedBoard) -> EmulatedBoard:
    """Return a board's USB side: the one that its chip has already, or a plain one."""
    if not isinstance(board, AvrTarget):
        return board
    return board.follower if isinstance(board.follower, Board) else Board(board)


def open_bench(file: Path) -> BenchHardware:
    """Build the bench a file describes; the daemon's ``bench`` hardware.

    Use the result as an async context manager: its timed events run inside. Bench time begins on entry. Raises
    ``ConfigError`` naming what is wrong with the file.
    """
    parts = load_parts()
    described = read_bench(file, parts)
    bootloaders = load_bootloaders(parts)
    bench = BenchHardware(time_scale=described.time_scale)
    bench.tools = described.tools
    for table in described.programmer:
        programmer = table.build(parts)
        target = programmer.socket.target
        made = target if isinstance(target, AvrTarget) else None
        board = table.board.build_board(parts, bootloaders, made, name=table.name) if table.board else None
        bench.add(
            table.name,
            programmer,
            path=table.path,
            plugged=table.plugged,
            refusal=table.refusal,
            board_usb=table.board_usb,
            board=board,
        )
    for port in described.port:
        board = port.board.build_board(parts, bootloaders, name=port.name) if port.board else None
        bench.add_port(port.name, port.path, board, refusal=port.refusal)
    for event in described.event:
        bench.at(event.at, _action(bench, event, parts, bootloaders))
    return bench


def _action(bench: BenchHardware, event: EventTable, parts: Parts, bootloaders: Bootloaders) -> Callable[[], object]:
    if event.plug is not None:
        return partial(bench.plug, event.plug)
    if event.unplug is not None:
        return partial(bench.unplug, event.unplug)
    if event.press is not None:
        return partial(bench.press, event.press)
    if event.board is not None:
        name = f"{event.subject} at {event.at}"
        return partial(_swap, bench, event.subject, event.board.build_board(parts, bootloaders, name=name))
    return partial(_take_off, bench, event.subject)


def _take_off(bench: BenchHardware, name: str) -> None:
    """Remove a board if there is one: a bench file cannot know what happened until then."""
    if bench.holds_board(name):
        bench.remove(name)


def _swap(bench: BenchHardware, name: str, board: EmulatedBoard) -> None:
    _take_off(bench, name)
    bench.insert(name, board)
