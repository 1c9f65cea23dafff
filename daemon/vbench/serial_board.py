"""What every emulated serial programmer is: a USB identity, a microcontroller on a line, a header for a board, faults.

Which firmware runs, and what opening the port does to it, is the business of the class that derives from this one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from ispd.transport.contract import PortKind, UsbIdentity
from vbench.faults import CorruptReply, DropReply, LineNoise, Mute, PowerLoss, ProgrammerFault
from vbench.isp_socket import IspSocket
from vbench.line import Line
from vbench.mcu import Mcu, Program

__all__ = ["SerialBoard"]


class SerialBoard(ABC):
    """A programmer seen from the host's port. All times are bench seconds.

    A derived class calls :meth:`power_on` at the end of its own ``__init__`` if it begins plugged in.

    :param line: what the line looks like.
    :param usb: how it presents itself.
    :param baud: rate it talks at after power-up; of no importance on native USB.
    :param socket: the header, with the board on it.
    """

    port_kind: Literal[PortKind.SERIAL] = PortKind.SERIAL

    def __init__(
        self, line: Line, *, usb: UsbIdentity, baud: int, socket: IspSocket, faults: Sequence[ProgrammerFault] = ()
    ) -> None:
        self.usb = usb
        self.baud = baud
        self.socket = socket
        self.mcu = Mcu(line, self._firmware)
        self.replies = 0
        self.power_lost_at: float | None = None
        """When a :class:`PowerLoss` struck; cleared by the next :meth:`power_on`."""
        self._loss_at = math.inf
        self._take_faults(faults)

    def _take_faults(self, faults: Sequence[ProgrammerFault]) -> None:
        losses = [fault for fault in faults if isinstance(fault, PowerLoss)]
        self._loss_bytes = min((f.bytes for f in losses if f.bytes is not None), default=None)
        self.socket.cut_at_instruction = min(
            (f.instructions for f in losses if f.instructions is not None), default=None
        )
        self._mute_after = min((f.after_replies for f in faults if isinstance(f, Mute)), default=math.inf)
        self._corrupt = {f.index: f.mask for f in faults if isinstance(f, CorruptReply)}
        self._drop = {f.index for f in faults if isinstance(f, DropReply)}
        self._noise = {f.index: f.data for f in faults if isinstance(f, LineNoise)}
        self._is_faulty_line = bool(self._corrupt or self._drop or self._noise) or self._mute_after != math.inf

    @abstractmethod
    def _firmware(self, mcu: Mcu) -> Program:
        """Make the firmware that runs after a power-up or reset."""

    # -- power and lines -------------------------------------------------------------------------------------------

    @property
    def powered(self) -> bool:
        """Whether it is plugged in."""
        return self.mcu.powered

    def power_on(self, at: float) -> None:
        """Plug the programmer in: its firmware starts, and the board on the header gets what supply it gives."""
        self.power_lost_at = None
        self.socket.cut_at = None
        self._supply(at)
        self.mcu.restart(at)

    def _supply(self, at: float) -> None:
        """Give the board on the header its supply."""
        self.socket.power_on(at)

    def power_off(self, at: float) -> None:
        """Unplug the programmer."""
        self.mcu.power_off(at)
        self.socket.power_off(at)

    @property
    def lost(self) -> int:
        """Bytes from the host that found the firmware's buffer full."""
        return self.mcu.lost

    def run(self, now: float) -> None:
        """Catch up with the clock."""
        self.mcu.run(now)

    def opened(self, at: float, *, baud: int, dtr: bool = True, rts: bool = True) -> None:
        """The host opened the port."""
        self.mcu.run(at)
        self.mcu.set_line(baud=baud, asserted=dtr or rts)

    def set_baud(self, baud: int) -> None:
        """The host changed the port's baud rate."""
        self.mcu.set_line(baud=baud, asserted=True)

    # -- bytes -----------------------------------------------------------------------------------------------------

    def feed(self, data: bytes, at: float) -> None:
        """Take bytes the host hands to its port at ``at``."""
        limit = self._loss_bytes
        if limit is not None and self.mcu.received + len(data) >= limit:
            data = data[: limit - self.mcu.received - 1]
            self._loss_bytes = None
            self._loss_at = self.mcu.feed(data, at)
            return
        self.mcu.feed(data, at)

    def take(self, now: float) -> bytes:
        """Run up to ``now`` and return what the host has received by then and not taken yet."""
        data = self.mcu.take(min(now, self._loss_at))
        self._lose_power(now)
        if not data or not self._is_faulty_line:
            self.replies += len(data)
            return data
        spoiled = bytearray()
        for byte in data:
            index, self.replies = self.replies, self.replies + 1
            spoiled += self._noise.get(index, b"")
            if index < self._mute_after and index not in self._drop:
                spoiled.append(byte ^ self._corrupt.get(index, 0))
        return bytes(spoiled)

    def held(self, now: float) -> int:
        """Return how many bytes of the host have not got past the USB side: unread ones on native USB, unsent ones of a bridge."""
        return self.mcu.held(now)

    def next_time(self) -> float:
        """Return when :meth:`take` should be called next though nothing was fed, infinity for never."""
        return min(self.mcu.next_time(), self._loss_at)

    def _lose_power(self, now: float) -> None:
        """Carry out a power loss that is due."""
        if self.socket.cut_at is not None and self.power_lost_at is None:
            self.power_lost_at = self.socket.cut_at
            self.mcu.halt()
        elif self._loss_at <= now:
            self.power_lost_at, self._loss_at = self._loss_at, math.inf
            self.power_off(self.power_lost_at)
