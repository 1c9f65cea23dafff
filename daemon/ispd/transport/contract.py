"""What the floors above may ask of hardware. Real ports and the virtual bench both answer to these."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

__all__ = [
    "GET_STATUS",
    "TURN_S",
    "USB_PORT_PREFIX",
    "BulkTransfer",
    "BytePort",
    "ControlTransfer",
    "Hardware",
    "Opener",
    "PortChange",
    "PortEvent",
    "PortKind",
    "SerialSettings",
    "ToolOutcome",
    "ToolRun",
    "Tooling",
    "UsbDeviceAt",
    "UsbIdentity",
    "UsbLink",
    "UsbTransfer",
]

TURN_S = 30.0
"""A watch of ports comes round at least this often."""

USB_PORT_PREFIX = "usb:"
"""Ports of USB devices without a tty are named after their place: ``usb:1-1.4``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialSettings:
    """How to open a serial port; 8N1 without flow control is meant throughout.

    :param path: USB topology path the port must have, None for wherever it is. Device nodes are given away anew at each
        re-plug: what was ``/dev/ttyACM0`` a moment ago may be another programmer now.
    :param hangs_up: drop DTR when the port is closed, which resets an Uno and, at 1200 baud, wakes a sketch's bootloader.
    """

    port: str
    baud: int
    path: str | None = None
    hangs_up: bool = False


class BytePort(Protocol):
    """A full-duplex byte stream with modem lines. One reader and one writer at a time."""

    @property
    def name(self) -> str:
        """Path of the port, for messages."""

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the port, in order. Raises ``LinkClosedError`` once the port is gone."""

    async def receive(self) -> bytes:
        """Return the next bytes, at least one. Raises ``LinkClosedError`` once the port is gone.

        Cancelling loses nothing: bytes that had arrived are returned by the next call.
        """

    def take(self) -> bytes:
        """Return what has arrived and was not received yet, without waiting; possibly nothing."""

    async def set_baud(self, baud: int) -> None:
        """Change the rate of both directions; call it while nothing is on its way.

        Raises ``LinkClosedError`` once the port is gone, ``TransportError`` where the port cannot do that rate.
        """

    async def aclose(self) -> None:
        """Close the port; never raises. Modem lines are left as they are (no reset of an Uno)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlTransfer:
    """One control transfer on endpoint 0 (USB 2.0, chapter 9.3).

    :param request_type: bmRequestType; bit 7 set means that the device answers with data.
    :param data: bytes for the device, where bit 7 is clear.
    :param length: most bytes to take from the device, where bit 7 is set.
    :param timeout_s: how long the device may hold it up, by NAK.
    """

    request_type: int
    request: int
    value: int = 0
    index: int = 0
    data: bytes = b""
    length: int = 0
    timeout_s: float = 5.0

    @property
    def is_in(self) -> bool:
        """True where the device sends the data."""
        return bool(self.request_type & 0x80)


GET_STATUS = ControlTransfer(request_type=0x80, request=0x00, length=2, timeout_s=0.25)
"""The one request every device must answer in every state; it changes nothing in any (USB 2.0, 9.4.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkTransfer:
    """One transfer on a bulk endpoint (USB 2.0, chapter 5.8) of the active configuration.

    :param endpoint: bEndpointAddress; bit 7 set means that the device sends.
    :param data: bytes for the device, where bit 7 is clear.
    :param length: most bytes to take from the device, where bit 7 is set; a short packet ends the transfer earlier.
    :param timeout_s: how long the device may hold it up, by NAK.
    :param good_heads: for an answer that begins with a status: the first bytes after which the rest of a batch makes sense; None
        where whatever comes is fine.
    """

    endpoint: int
    data: bytes = b""
    length: int = 0
    timeout_s: float = 5.0
    good_heads: frozenset[int] | None = None

    @property
    def is_in(self) -> bool:
        """True where the device sends the data."""
        return bool(self.endpoint & 0x80)

    def ends_batch(self, reply: bytes) -> bool:
        """Tell whether nothing more of the batch is to be begun after this answer: too short, or with a head that is not good."""
        return self.good_heads is not None and (len(reply) < self.length or reply[0] not in self.good_heads)


UsbTransfer = ControlTransfer | BulkTransfer
"""What a USB link carries."""


class PortKind(StrEnum):
    """How a port is spoken to."""

    SERIAL = "serial"
    """A tty: opened with ``open_serial``."""
    USB = "usb"
    """A whole USB device: opened with ``open_usb``."""


class PortChange(StrEnum):
    """What happened to a port."""

    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsbIdentity:
    """How a USB device presents itself. Serial numbers are shown and never relied on: clones share them."""

    vendor_id: int
    product_id: int
    manufacturer: str = ""
    product: str = ""
    serial: str = ""

    def __str__(self) -> str:
        return f"{self.vendor_id:04X}:{self.product_id:04X}"


class UsbLink(Protocol):
    """An open USB device, used by one task at a time."""

    @property
    def name(self) -> str:
        """Port the device was opened by (``usb:1-1.4``), for messages."""

    @property
    def identity(self) -> UsbIdentity:
        """Identity read from the device itself when it was opened; its texts are verbatim."""

    async def submit(self, transfers: Sequence[UsbTransfer]) -> list[bytes]:
        """Carry out transfers back to back and return what each brought; ``b""`` for those that send data.

        Fewer replies than transfers come back where the last of them ended the batch (``BulkTransfer.good_heads``): nothing after it
        was begun then.
        The interface of a bulk endpoint is taken by its first transfer, until the device is closed. An answer may be shorter
        than asked. When cancelled, the transfer that is under way is finished, no further one is begun, and then the
        cancellation goes on.

        Raises ``LinkClosedError`` once the device is gone, ``LinkTimeoutError`` where a transfer took longer than its
        ``timeout_s``, ``RemoteProtocolError`` where the device refused it (a stall) or took only part of the data,
        ``LocalProtocolError`` where the device has no such endpoint, ``TransportError`` (port-busy, permission-denied) where another
        program has its interface. The transfers after the failed one were not begun. A
        stalled endpoint is ready for use again; what a late answer may still bring is the caller's to drop.
        """

    async def aclose(self) -> None:
        """Close the device; never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortEvent:
    """A port came or went. ``path`` is the USB topology path (``1-1.4.2``) and identifies the slot; ``port`` is what opens
    it: a device node (``/dev/ttyACM0``), meaningful only until the next event about the same path, or ``usb:`` and the path.

    A board with a tty gives two events of the same path, one of each kind; a driver is asked about its own kind only.
    """

    change: PortChange
    kind: PortKind
    path: str
    port: str
    usb: UsbIdentity
    properties: Mapping[str, str]

    @property
    def place(self) -> str:
        """Where the whole device is: the path of a device's second tty names its interface, too (``1-1.4:2``)."""
        return self.path.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsbDeviceAt:
    """What is at a place of the USB tree at this moment. ``bus`` and ``address`` hold until it leaves, and no longer.

    :param version: bcdDevice.
    :param tty: device node of its first serial port, None where it has none (yet).
    """

    path: str
    bus: int
    address: int
    usb: UsbIdentity
    version: int
    tty: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun:
    """An outside program to run. It works in a scratch folder of its own, which is gone afterwards.

    :param words: program and arguments; no shell is involved.
    :param inputs: files that lie in the folder when it starts, by name.
    :param outputs: names of files that it leaves there and that are wanted.
    :param deadline_s: its whole process group is killed then.
    :param output_is_data: its standard output is no text but what it read; nobody who listens to its words hears it.
    """

    words: tuple[str, ...]
    deadline_s: float
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    output_is_data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutcome:
    """How an outside program ended; all of this are claims of the program.

    :param exit_code: None where it was killed at its deadline; negative: the signal that ended it.
    :param output: its standard output.
    :param errors: its standard error.
    :param files: wanted files that are there, by name.
    """

    exit_code: int | None
    output: bytes
    errors: bytes
    files: Mapping[str, bytes]


class Opener(Protocol):
    """Where links come from."""

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Open a port for this process alone.

        DTR and RTS are asserted (a Leonardo sends nothing without them) and HUPCL is cleared (so that later opens do
        not reset an Uno). Raises ``TransportError`` with ``port-not-found`` (also where the port is not at the path
        that was asked for), ``permission-denied`` or ``port-busy``.
        """

    async def open_usb(self, port: str) -> UsbLink:
        """Open the USB device at a place in the USB tree (``usb:1-1.4``) for this process alone.

        Raises ``TransportError`` with ``port-not-found``, ``permission-denied`` or ``port-busy``.
        """


class Tooling(Protocol):
    """What a follow-up tool needs besides links."""

    async def device_at(self, path: str) -> UsbDeviceAt | None:
        """Look at a place of the USB tree (``1-1.4``) now, without opening what is there; None where nothing is."""

    async def run_tool(self, run: ToolRun, on_output: Callable[[bytes], object] = lambda _: None) -> ToolOutcome:
        """Run an outside program to its end, in a process group of its own.

        ``on_output`` gets each piece of either stream as it comes (not of an output that is data). Cancelling kills the
        group, and waits until it is dead. Raises ``TransportError`` with ``tool-missing`` where there is no such program or
        what has its name is none, ``permission-denied`` where it may not be run.
        """


class Hardware(Opener, Tooling, Protocol):
    """A machine: its own ports, or the virtual bench."""

    def hotplug(
        self, on_turn: Callable[[], object] = lambda: None
    ) -> AbstractAsyncContextManager[AsyncIterator[PortEvent]]:
        """Watch serial ports and USB devices. Ports already there come first, as ``added``; then changes as they happen.

        ``on_turn`` is called whenever the watch comes round, each :data:`TURN_S` at least, so that a watch that hangs can be
        told from a quiet one. The iterator ends only with its context. Lost events are made up for by comparing with what is really there.
        """
