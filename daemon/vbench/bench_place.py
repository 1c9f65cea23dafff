"""Places of programmers on the bench, and the turns of a watch of its ports."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import (
    TURN_S,
    USB_PORT_PREFIX,
    PortChange,
    PortEvent,
    PortKind,
    UsbDeviceAt,
    UsbIdentity,
)
from vbench.bench_port import BenchPort
from vbench.bench_usb import BenchUsbLink
from vbench.emulated import EmulatedBoard, EmulatedProgrammer
from vbench.header import put_on_header
from vbench.swd import SwdSocket, SwdTarget
from vbench.target import AvrTarget

__all__ = ["Place", "free_place", "turning"]


@dataclass(slots=True, kw_only=True)
class Place:
    """A port of the bench: the programmer plugged in there, and how the host sees it."""

    name: str
    programmer: EmulatedProgrammer
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
    board_usb: str | None = None
    """Path of the port for its board's own USB cable."""

    @property
    def address(self) -> str:
        """What opens it: its device node, or its place in the USB tree."""
        return self.node if self.programmer.port_kind is PortKind.SERIAL else USB_PORT_PREFIX + self.path

    @property
    def chip(self) -> AvrTarget | SwdTarget | None:
        """The chip on its header, None for none."""
        return self.programmer.socket.target

    @property
    def holds_reset(self) -> bool:
        """Whether the programmer drives the reset line of what is on its header."""
        socket = self.programmer.socket
        return socket.nrst_low and socket.wiring.has_nrst if isinstance(socket, SwdSocket) else socket.reset_active

    def put(self, board: AvrTarget | EmulatedBoard, at: float) -> None:
        """Put a board on the header. Raises ``ValueError`` where one is, and for a board with another kind of header."""
        put_on_header(self.programmer, board, at, name=self.name)

    def take(self, at: float) -> AvrTarget | SwdTarget:
        """Take the board off the header and return its chip; raises ``ValueError`` where there is none."""
        return self.programmer.socket.remove(at)

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


def free_place(name: str, place: Place | None) -> Place:
    """Return a place that can be opened now. Raises ``TransportError`` saying why it cannot."""
    if place is None or not place.plugged:
        raise TransportError(ErrorCode.PORT_NOT_FOUND, f"there is no port {name}")
    if place.refusal is not None:
        raise TransportError(place.refusal, f"port {name} cannot be opened: {place.refusal}")
    if place.port is not None:
        raise TransportError(ErrorCode.PORT_BUSY, f"port {name} is in use")
    return place


async def turning(
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
