"""What every programmer on a low-speed USB device shares: time on the bus, standard requests, faults, a header.

Low-speed devices move 8 bytes per transaction, and firmware-only USB (V-USB, USBtiny) answers NAK while it works; a
control transfer therefore takes one transaction for SETUP, one per 8 bytes of data, one for its status, and the work between.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

from ispd.transport.contract import ControlTransfer, PortKind, UsbIdentity
from vbench.emulated import ControlReply
from vbench.faults import Mute, PowerLoss, ShortReply, StalledTransfer, UnpluggedAt, UsbFault
from vbench.isp_socket import IspSocket, PowerCutError
from vbench.target import AvrTarget
from vbench.usb_descriptors import Descriptors

__all__ = ["PACKET_BYTES", "TAU_S", "CrashedError", "HungError", "StallError", "UsbDevice"]

PACKET_BYTES = 8
"""Data bytes of one low-speed transaction on endpoint 0 (USB 2.0, chapter 5.5.3)."""
TAU_S = 0.2e-3
"""One low-speed transaction as seen by a host: 0.2 ms directly on xHCI or EHCI, up to 1.0 ms on UHCI and some hubs."""
_SETUP_BYTES = 8
_TYPE_MASK = 0x60
"""bmRequestType bits that tell standard requests (0) from the device's own."""


class StallError(Exception):
    """The firmware refuses a request."""


class HungError(Exception):
    """The firmware never answers this request: it says NAK for ever."""


class CrashedError(HungError):
    """The firmware is caught in a loop: nothing is answered any more until it is unplugged."""


class UsbDevice(ABC):
    """A low-speed USB device with a six-pin header. All times are bench seconds.

    :param usb: how it presents itself.
    :param version: bcdDevice, the firmware's release.
    :param target: board on the header, or None.
    :param tau_s: how long one low-speed transaction takes.
    """

    port_kind: Literal[PortKind.USB] = PortKind.USB

    def __init__(
        self, usb: UsbIdentity, *, version: int, target: AvrTarget | None, tau_s: float, faults: Sequence[UsbFault]
    ) -> None:
        self.usb = usb
        self.descriptors = Descriptors(usb, version=version)
        self.socket = IspSocket(target)
        self.tau_s = tau_s
        self.now = 0.0
        """How far the firmware has got."""
        self.transfers = 0
        """Control transfers begun since it was made, refused ones included."""
        self.received = 0
        """Bytes from the host so far, 8 of each SETUP included."""
        self.replies = 0
        """Bytes given to the host so far."""
        self.power_lost_at: float | None = None
        self._take_faults(faults)
        self.power_on(0.0)

    def _take_faults(self, faults: Sequence[UsbFault]) -> None:
        losses = [fault for fault in faults if isinstance(fault, PowerLoss)]
        self._loss_bytes = min((f.bytes for f in losses if f.bytes is not None), default=None)
        self.socket.cut_at_instruction = min(
            (f.instructions for f in losses if f.instructions is not None), default=None
        )
        self._unplugged_at = {fault.transfer for fault in faults if isinstance(fault, UnpluggedAt)}
        self._mute_after = min((f.after_replies for f in faults if isinstance(f, Mute)), default=math.inf)
        self._stalled = {fault.index for fault in faults if isinstance(fault, StalledTransfer)}
        self._short = {fault.index: fault.bytes for fault in faults if isinstance(fault, ShortReply)}

    # -- power -----------------------------------------------------------------------------------------------------

    def power_on(self, at: float) -> None:
        """Plug it in: the firmware starts, and the board on the header gets its supply."""
        self.power_lost_at = None
        self.socket.cut_at = None
        self.crashed = False
        self.now = at
        self.socket.power_on(at)
        self._start()

    def power_off(self, at: float) -> None:
        """Pull the plug."""
        self.socket.power_off(at)

    def run(self, now: float) -> None:
        """Catch up with the clock."""
        self.now = max(self.now, now)  # between transfers the firmware does nothing

    # -- transfers -------------------------------------------------------------------------------------------------

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out one transfer that the host begins at ``at``."""
        index, self.transfers = self.transfers, self.transfers + 1
        self.now = max(self.now, at) + self.tau_s
        self.received += _SETUP_BYTES + len(transfer.data)
        try:
            data = self._carry_out(transfer, index)
        except PowerCutError:
            self.power_lost_at = self.now if self.socket.cut_at is None else self.socket.cut_at
            self.power_off(self.now)
            return ControlReply(ends_at=self.now)
        except StallError:
            self.now += self.tau_s
            return ControlReply(ends_at=self.now, stalled=True)
        except HungError as error:
            self.crashed = self.crashed or isinstance(error, CrashedError)
            return ControlReply(ends_at=math.inf)
        self.now += self.tau_s
        self.replies += len(data)
        return ControlReply(ends_at=self.now, data=data)

    def _carry_out(self, transfer: ControlTransfer, index: int) -> bytes:
        """Let faults strike, then the firmware or the standard requests answer."""
        if self._loses_power(index):
            raise PowerCutError
        if self.crashed or self.replies >= self._mute_after:
            raise HungError
        if index in self._stalled:
            raise StallError
        data = self._answer(transfer)
        return data[: self._short.get(index, len(data))]

    def _loses_power(self, index: int) -> bool:
        if self._loss_bytes is not None and self.received >= self._loss_bytes:
            self._loss_bytes = None
            return True
        return index in self._unplugged_at

    def _answer(self, transfer: ControlTransfer) -> bytes:
        if transfer.request_type & _TYPE_MASK:
            return self._request(transfer)
        data = self.descriptors.answer(transfer)
        if data is None:
            raise StallError
        return self._reply(transfer, data)

    # -- what firmware needs ---------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> None:
        """Set the firmware's variables as they are after power-up."""

    @abstractmethod
    def _request(self, transfer: ControlTransfer) -> bytes:
        """Carry out one request of the firmware's own and return the data of its answer; moves ``now`` on.

        The transactions of SETUP and status are not its business, those of the data are. Raises ``StallError`` and ``HungError``.
        """

    def _reply(self, transfer: ControlTransfer, data: bytes) -> bytes:
        """Send data that is ready, no more than was asked for."""
        if not transfer.is_in:
            return b""
        data = data[: transfer.length]
        self.now += math.ceil(len(data) / PACKET_BYTES) * self.tau_s
        return data

    def _packets(self, data: bytes) -> Iterator[bytes]:
        """Yield the packets of the data stage as they arrive."""
        for start in range(0, len(data), PACKET_BYTES):
            self.now += self.tau_s
            yield data[start : start + PACKET_BYTES]
