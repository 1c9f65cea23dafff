"""What the bench asks of an emulated programmer, whatever its firmware: two kinds, by how a host reaches it.

All times are bench seconds and given by the caller; nothing in an emulated programmer waits or looks at a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ispd.transport.contract import ControlTransfer, PortKind, UsbIdentity
from vbench.isp_socket import IspSocket
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket
from vbench.target import AvrTarget
from vbench.usb_descriptors import Descriptors

__all__ = [
    "BulkEnd",
    "BulkReply",
    "ControlReply",
    "Emulated",
    "EmulatedBoard",
    "EmulatedBulk",
    "EmulatedFace",
    "EmulatedProgrammer",
    "EmulatedSerial",
    "EmulatedUsb",
    "SerialEnd",
    "UsbEnd",
]


class Emulated(Protocol):
    """A programmer on a cable: an identity, a supply, and a header for a board."""

    usb: UsbIdentity
    socket: IspSocket
    power_lost_at: float | None
    """When it left the bus by itself (a fault took its supply away); cleared by the next :meth:`power_on`."""

    def power_on(self, at: float) -> None:
        """Plug it in: its firmware starts, and the board on the header gets its supply."""

    def power_off(self, at: float) -> None:
        """Pull the plug."""

    def run(self, now: float) -> None:
        """Catch up with the clock."""


class SerialEnd(Protocol):
    """The device's end of a serial port, whatever it is part of."""

    usb: UsbIdentity
    baud: int
    """Rate it talks at after power-up; of no importance on native USB."""
    power_lost_at: float | None
    """When it left the bus by itself."""

    def opened(self, at: float, *, baud: int, dtr: bool = True, rts: bool = True) -> None:
        """The host opened the port."""

    def set_baud(self, baud: int) -> None:
        """The host changed the port's rate."""

    def feed(self, data: bytes, at: float) -> None:
        """Take bytes the host hands to its port at ``at``."""

    def take(self, now: float) -> bytes:
        """Run up to ``now`` and return what the host has received by then and not taken yet."""

    def held(self, now: float) -> int:
        """Return how many bytes of the host have not got past the USB side: unread ones on native USB, unsent ones of a bridge."""

    def next_time(self) -> float:
        """Return when :meth:`take` should be called next though nothing was fed, infinity for never."""


class EmulatedSerial(Emulated, SerialEnd, Protocol):
    """A programmer behind a serial port."""

    port_kind: Literal[PortKind.SERIAL]

    @property
    def powered(self) -> bool:
        """Whether it is plugged in."""

    @property
    def lost(self) -> int:
        """Bytes from the host that found the firmware's buffer full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlReply:
    """How the device answered a control transfer. ``ends_at`` is when the host sees its status stage, infinity for never.

    ``data`` is what an IN transfer brought; ``stalled``: the device refused the request.
    """

    ends_at: float
    data: bytes = b""
    stalled: bool = False


class UsbEnd(Protocol):
    """The device's end of control transfers, whatever it is part of."""

    power_lost_at: float | None
    """When it left the bus by itself."""

    def run(self, now: float) -> None:
        """Catch up with the clock."""

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out one transfer that the host begins at ``at``; never called before the one before has ended."""


class EmulatedUsb(Emulated, UsbEnd, Protocol):
    """A programmer that is a USB device of its own, spoken to by control transfers."""

    port_kind: Literal[PortKind.USB]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReply:
    """How a bulk transfer went. ``ends_at`` is when the host sees its end, infinity for never.

    ``data`` is what an IN transfer brought; ``stalled``: the endpoint is halted.
    """

    ends_at: float
    data: bytes = b""
    stalled: bool = False


@runtime_checkable
class BulkEnd(Protocol):
    """The device's end of its bulk endpoints.

    Transfers of one endpoint come one after the other; an IN transfer may be begun before the OUT transfer that causes its data.
    """

    def bulk_out(self, endpoint: int, data: bytes, at: float) -> BulkReply:
        """Take a transfer of the host. ``endpoint`` is its address: 02."""

    def bulk_in(self, endpoint: int, length: int, at: float) -> BulkReply | None:
        """Return what is sent on an endpoint (81), at most ``length`` bytes; None where nothing is there until the host does
        something else: a bed asks again after the next OUT transfer."""


class EmulatedBulk(UsbEnd, BulkEnd, Protocol):
    """A debug probe: a USB device with bulk endpoints besides endpoint 0, and a header for a board."""

    port_kind: Literal[PortKind.USB]
    usb: UsbIdentity
    descriptors: Descriptors
    socket: SwdSocket

    def power_on(self, at: float) -> None:
        """Plug it in."""

    def power_off(self, at: float) -> None:
        """Pull the plug."""


EmulatedProgrammer = EmulatedSerial | EmulatedUsb | EmulatedBulk
"""Whatever a board can be put on; its ``socket`` says what it speaks to it."""


class EmulatedFace(Protocol):
    """What a board shows on its port: a bootloader, or its firmware. By its ``port_kind`` it is a :class:`UsbEnd` too, or a
    :class:`SerialEnd`. A face that has left the bus has ``power_lost_at`` set, for good."""

    usb: UsbIdentity
    version: int
    """bcdDevice."""
    power_lost_at: float | None
    """When it left the bus, None while it is there."""

    @property
    def port_kind(self) -> PortKind:
        """How it is spoken to."""


class EmulatedBoard(Protocol):
    """A board with a USB port of its own: what it shows there follows from its flash, its fuses and its reset line."""

    on_change: Callable[[], object] | None
    """Called when :meth:`next_change` may have come nearer by something else than a call of this board: reset, supply, a transfer."""

    @property
    def target(self) -> AvrTarget | None:
        """The AVR that the programmer's header sees; None for a board without one."""

    @property
    def swd(self) -> Stm32F1 | None:
        """The STM32 that the probe's header sees; None for a board without one."""

    def attach(self, at: float) -> None:
        """Plug its USB cable in: it has its supply from there, and starts."""

    def detach(self, at: float) -> None:
        """Pull its USB cable."""

    def face(self, now: float) -> EmulatedFace | None:
        """Return who is on the board's port at ``now``, None for nobody. A new enumeration is a new object, even of the same kind."""

    def next_change(self) -> float:
        """Return when :meth:`face` should be asked next though nothing was sent to it, infinity for never."""
