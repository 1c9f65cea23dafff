"""What the floors above may ask of hardware. Real ports and the virtual bench both answer to these."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = ["BytePort", "Hardware", "PortChange", "PortEvent", "SerialSettings", "UsbIdentity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialSettings:
    """How to open a serial port; 8N1 without flow control is meant throughout."""

    port: str
    baud: int


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

    async def aclose(self) -> None:
        """Close the port; never raises. Modem lines are left as they are (no reset of an Uno)."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PortEvent:
    """A port came or went. ``path`` is the USB topology path (``1-1.4.2``) and identifies the slot; ``port`` is the
    device node (``/dev/ttyACM0``), meaningful only until the next event about the same path."""

    change: PortChange
    path: str
    port: str
    usb: UsbIdentity
    properties: Mapping[str, str]


class Hardware(Protocol):
    """Where links come from: the machine's own ports, or the virtual bench."""

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Open a port for this process alone.

        DTR and RTS are asserted (a Leonardo sends nothing without them) and HUPCL is cleared (so that later opens do
        not reset an Uno). Raises ``TransportError`` with ``port-not-found``, ``permission-denied`` or ``port-busy``.
        """

    def hotplug(self) -> AbstractAsyncContextManager[AsyncIterator[PortEvent]]:
        """Watch serial ports. Ports already there come first, as ``added``; then changes as they happen.

        The iterator ends only with its context. Lost events are made up for by comparing with what is really there.
        """
