"""Ports of the bench where boards' own USB cables go: who is there now, and what a watcher of ports is told about it."""

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import (
    USB_PORT_PREFIX,
    PortChange,
    PortEvent,
    PortKind,
    SerialSettings,
    UsbDeviceAt,
)
from vbench.bench_port import BenchPort, BenchTime
from vbench.bench_usb import BenchUsbLink
from vbench.emulated import EmulatedBoard, EmulatedFace, SerialEnd, UsbEnd

__all__ = ["BoardPort", "BoardPorts"]

_TTY_S = 0.03
"""From a device to its tty: the kernel's driver has to find it first, and udev to make the node."""
_LEAST_S = 1e-6
"""Shortest wait for a change: bench time is a difference of floats, and a change must be due when its timer fires."""


@dataclass(slots=True, kw_only=True)
class BoardPort:
    """A port of the USB tree with a board's cable in it, or none."""

    path: str
    refusal: ErrorCode | None = None
    """Why opening fails, None normally."""
    board: EmulatedBoard | None = None
    shown: EmulatedFace | None = None
    """Whom the host has been told of."""
    number: int = 0
    """Address on the bus, another one at each enumeration."""
    node: str | None = None
    """Device node of the face's serial port, once it has one."""
    node_at: float = math.inf
    """When it gets one."""
    link: BenchPort | BenchUsbLink | None = None
    """What holds it open."""

    def device(self) -> UsbDeviceAt | None:
        """Describe who is there."""
        if self.shown is None:
            return None
        face = self.shown
        return UsbDeviceAt(
            path=self.path, bus=1, address=self.number, usb=face.usb, version=face.version, tty=self.node
        )

    def events(self, change: PortChange) -> list[PortEvent]:
        """Describe the face as having come or gone: the device, and its serial port apart."""
        if self.shown is None:
            return []
        found = [self.event(change, PortKind.USB, USB_PORT_PREFIX + self.path, self.shown)]
        if self.node is not None:
            found.append(self.event(change, PortKind.SERIAL, self.node, self.shown))
        return found

    def event(self, change: PortChange, kind: PortKind, port: str, face: EmulatedFace) -> PortEvent:
        """Describe one port of the face."""
        properties = {
            "ID_PATH": self.path,
            "ID_VENDOR_ID": f"{face.usb.vendor_id:04x}",
            "ID_MODEL_ID": f"{face.usb.product_id:04x}",
            "ID_REVISION": f"{face.version:04x}",
        }
        return PortEvent(change=change, kind=kind, path=self.path, port=port, usb=face.usb, properties=properties)


class BoardPorts:
    """All ports for boards of a bench.

    Faces come and go by themselves: between :meth:`watch` and :meth:`rest` timers of the event loop see to it, otherwise
    whoever looks.

    :param publish: tells watchers of ports.
    :param next_number: gives addresses away.
    :param is_taken: whether a device node belongs to somebody else.
    """

    def __init__(
        self,
        time: BenchTime,
        *,
        publish: Callable[[PortEvent], object],
        next_number: Callable[[], int],
        is_taken: Callable[[str], bool],
    ) -> None:
        self._time = time
        self._publish = publish
        self._next_number = next_number
        self._is_taken = is_taken
        self._ports: dict[str, BoardPort] = {}
        self._is_watching = False
        self._timer: asyncio.Handle | None = None

    def __iter__(self) -> Iterator[BoardPort]:
        return iter(self._ports.values())

    def add(self, path: str, *, refusal: ErrorCode | None = None) -> None:
        """Make a port. Raises ``ValueError`` where there is one."""
        if path in self._ports:
            raise ValueError(f"the bench has a port for boards at {path} already")
        self._ports[path] = BoardPort(path=path, refusal=refusal)

    def attach(self, path: str, board: EmulatedBoard, at: float) -> None:
        """Plug a board's cable in; the host is told once the board was enumerated."""
        port = self._ports[path]
        if port.board is not None:
            raise ValueError(f"a board is at {path} already")
        port.board = board
        board.on_change = self._wake
        board.attach(at)
        self._wake()

    def detach(self, path: str, at: float) -> EmulatedBoard | None:
        """Pull the cable of the board that is there, and return it."""
        port = self._ports[path]
        board, port.board = port.board, None
        if board is not None:
            board.detach(at)
            board.on_change = None
            self._show(port, None)
        return board

    # -- changes -----------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Notice changes from now on without being asked."""
        self._is_watching = True
        self._wake()

    def rest(self) -> None:
        """Notice changes only when asked."""
        self._is_watching = False
        self._disarm()

    def settle(self) -> None:
        """Let faces come and go as far as it is time, and tell about it."""
        now = self._time.now()
        due = math.inf
        for port in self._ports.values():
            if port.board is not None:
                self._show(port, port.board.face(now))
                self._give_node(port, now)
                due = min(due, port.board.next_change(), port.node_at)
        self._disarm()
        if self._is_watching and due != math.inf:
            wait_s = max(_LEAST_S, (due - now) / self._time.scale)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.settle)

    def _wake(self) -> None:
        """Settle soon, but not in the middle of whatever a board or a programmer is doing."""
        if self._is_watching:
            self._disarm()
            self._timer = asyncio.get_running_loop().call_soon(self.settle)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show(self, port: BoardPort, face: EmulatedFace | None) -> None:
        if face is port.shown:
            return
        if port.shown is not None:
            gone = port.events(PortChange.REMOVED)
            port.shown = port.node = None
            port.node_at = math.inf
            if port.link is not None:
                port.link.lose()
            for event in reversed(gone):
                self._publish(event)
        if face is not None:
            port.shown = face
            port.number = self._next_number()
            port.node_at = self._time.now() + _TTY_S if face.port_kind is PortKind.SERIAL else math.inf
            for event in port.events(PortChange.ADDED):
                self._publish(event)

    def _give_node(self, port: BoardPort, now: float) -> None:
        if port.shown is not None and port.node_at <= now:
            port.node, port.node_at = self._free_node(), math.inf
            self._publish(port.event(PortChange.ADDED, PortKind.SERIAL, port.node, port.shown))

    def _free_node(self) -> str:
        """Return the node with the lowest number, as the kernel gives them."""
        used = {port.node for port in self._ports.values()}
        number = 0
        while (node := f"/dev/ttyACM{number}") in used or self._is_taken(node):
            number += 1
        return node

    # -- opening -----------------------------------------------------------------------------------------------------

    def at(self, path: str) -> BoardPort | None:
        """Return the port at a place, None where there is none."""
        self.settle()
        return self._ports.get(path)

    def open_serial(self, settings: SerialSettings) -> BenchPort | None:
        """Open a face's serial port; None where no face has this device node. Raises ``TransportError`` like the bench."""
        self.settle()
        port = next((port for port in self._ports.values() if port.node == settings.port), None)
        if port is None or port.shown is None:
            return None
        if settings.path not in (None, port.path):
            raise TransportError(ErrorCode.PORT_NOT_FOUND, f"{settings.port} is not at {settings.path}")
        self._check_free(port, settings.port)
        now = self._time.now()
        end = cast("SerialEnd", port.shown)
        end.take(now)  # what came while the port was closed is lost
        end.opened(now, baud=settings.baud)
        link = port.link = BenchPort(
            settings.port,
            end,
            self._time,
            lambda: self._ended(port),
            hangs_up_from=settings.baud if settings.hangs_up else None,
        )
        return link

    def open_usb(self, name: str) -> BenchUsbLink | None:
        """Open a face that is spoken to by control transfers; None where none is at this place."""
        self.settle()
        port = self._ports.get(name.removeprefix(USB_PORT_PREFIX))
        if port is None or port.shown is None or port.shown.port_kind is not PortKind.USB:
            return None
        self._check_free(port, name)
        end = cast("UsbEnd", port.shown)
        link = port.link = BenchUsbLink(name, port.shown.usb, end, self._time, lambda: self._ended(port))
        return link

    @staticmethod
    def _check_free(port: BoardPort, name: str) -> None:
        if port.refusal is not None:
            raise TransportError(port.refusal, f"port {name} cannot be opened: {port.refusal}")
        if port.link is not None:
            raise TransportError(ErrorCode.PORT_BUSY, f"port {name} is in use")

    def _ended(self, port: BoardPort) -> None:
        port.link = None
        self._wake()
