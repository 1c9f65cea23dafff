"""What every face of a board that is spoken to by control transfers shares: time on the bus, standard requests.

Full speed moves 8 to 64 bytes per transaction on endpoint 0. The chip that is flashed is the one that answers: while it
erases or writes, the status stage waits (NAK).
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

from ispd.transport.contract import ControlTransfer, PortKind, UsbIdentity
from vbench.board_face import Departure
from vbench.emulated import ControlReply, EmulatedFace
from vbench.usb_descriptors import Descriptors
from vbench.usb_device import TAU_S, HungError, StallError

__all__ = ["ControlFace"]

_TYPE_MASK = 0x60


class ControlFace(ABC):
    """A board's USB device on endpoint 0, and a program in itself. All times are bench seconds.

    A derived class sets ``departure`` when it means to leave.

    :param descriptors: what it answers to standard requests; vendor-specific without endpoints where not given.
    :param packet_bytes: size of endpoint 0.
    """

    port_kind: Literal[PortKind.USB] = PortKind.USB

    def __init__(
        self,
        usb: UsbIdentity,
        *,
        version: int,
        at: float,
        descriptors: Descriptors | None = None,
        packet_bytes: int = 64,
        tau_s: float = TAU_S,
    ) -> None:
        self.usb = usb
        self.version = version
        self.descriptors = descriptors or Descriptors(usb, version=version, packet_bytes=packet_bytes)
        self.packet_bytes = packet_bytes
        self.tau_s = tau_s
        self.now = at
        """How far the firmware has got."""
        self.power_lost_at: float | None = None
        self.departure: Departure | None = None

    @property
    def face(self) -> EmulatedFace | None:
        """Itself."""
        return self

    def run(self, now: float) -> None:
        """Catch up with the clock."""
        self.now = max(self.now, now)

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out one transfer that the host begins at ``at``."""
        self.now = max(self.now, at) + self.tau_s
        try:
            data = self._answer(transfer)
        except StallError:
            self.now += self.tau_s
            return ControlReply(ends_at=self.now, stalled=True)
        except HungError:
            return ControlReply(ends_at=math.inf)
        self.now += self.tau_s
        return ControlReply(ends_at=self.now, data=data)

    def _answer(self, transfer: ControlTransfer) -> bytes:
        self.now += math.ceil(len(transfer.data) / self.packet_bytes) * self.tau_s
        if transfer.request_type & _TYPE_MASK:
            data = self._request(transfer)
        else:
            answer = self._standard(transfer)
            if answer is None:
                raise StallError
            data = answer
        if not transfer.is_in:
            return b""
        data = data[: transfer.length]
        self.now += math.ceil(len(data) / self.packet_bytes) * self.tau_s
        return data

    def _standard(self, transfer: ControlTransfer) -> bytes | None:
        """Answer a standard request; None where it is refused."""
        return self.descriptors.answer(transfer)

    @abstractmethod
    def _request(self, transfer: ControlTransfer) -> bytes:
        """Carry out a request of class or vendor and return the data of its answer; moves ``now`` on by the work it takes.

        The bus time of data is not its business. Raises ``StallError`` and ``HungError``.
        """
