"""An ST-Link with its four-wire header: V2 dongles, V2-1 and V3 on boards. A V1 shows itself and answers nothing.

One transaction is a command of 16 bytes on the OUT endpoint, then at most one transfer of data either way.
"""

import math
from collections.abc import Sequence
from typing import Literal

from ispd.transport.contract import ControlTransfer, PortKind
from vbench.emulated import BulkReply, ControlReply
from vbench.faults import Mute, PowerLoss, ShortReply, StalledTransfer, UnpluggedAt, UsbFault
from vbench.isp_socket import PowerCutError
from vbench.stlink_commands import Answer, Debugger, WriteExpected
from vbench.stlink_firmware import StLinkFirmware
from vbench.swd import SwdSocket

__all__ = ["StLink"]

_SERIAL = "2C1219002B135937334D4E00"
"""Of the QMK guide's example."""
_COMMAND_BYTES = 16
_PACKET_BYTES = 64
_TRANSFER_S, _PACKET_S = 125e-6, 55e-6
"""A full-speed bulk transfer: its turn within the frame as xHCI schedules it, and 64 bytes of 1216 per ms."""
_IN = 0x80


class StLink:
    """See :class:`~vbench.emulated.EmulatedBulk`. All times are bench seconds.

    :param serial: text of its serial number; :func:`~vbench.stlink_firmware.odd_serial` makes that of old firmware.
    :param socket: the header with its wiring and its board.
    :param faults: transfers are counted over both bulk endpoints, from 0 since it was made.
    """

    port_kind: Literal[PortKind.USB] = PortKind.USB

    def __init__(
        self,
        firmware: StLinkFirmware | None = None,
        *,
        socket: SwdSocket | None = None,
        serial: str = _SERIAL,
        faults: Sequence[UsbFault] = (),
    ) -> None:
        self.firmware = firmware or StLinkFirmware()
        self.socket = socket or SwdSocket()
        self.usb = self.firmware.identity(serial)
        self.descriptors = self.firmware.descriptors(self.usb)
        self.transfers = 0
        """Bulk transfers begun since it was made, refused ones included; not those that found nothing to read."""
        self.power_lost_at: float | None = None
        losses = [fault for fault in faults if isinstance(fault, PowerLoss)]
        self._loss_bytes = min((f.bytes for f in losses if f.bytes is not None), default=math.inf)
        self.socket.cut_at_access = min((f.instructions for f in losses if f.instructions is not None), default=None)
        self._unplugged_at = {fault.transfer for fault in faults if isinstance(fault, UnpluggedAt)}
        self._mute_after = min((f.after_replies for f in faults if isinstance(f, Mute)), default=math.inf)
        self._stalled = {fault.index for fault in faults if isinstance(fault, StalledTransfer)}
        self._short = {fault.index: fault.bytes for fault in faults if isinstance(fault, ShortReply)}
        self._received = self._replied = 0
        self._is_on = False
        self.power_on(0.0)

    # -- power -------------------------------------------------------------------------------------------------------

    def power_on(self, at: float) -> None:
        """Plug it in: the board on the header gets its supply from it, where that is wired."""
        self.power_lost_at = None
        self._is_on = True
        self.debugger = Debugger(self.firmware, self.socket, at)
        self._answer: bytes | None = None
        self._expected: WriteExpected | None = None
        self._halted: set[int] = set()
        self.socket.power(True, at)

    def power_off(self, at: float) -> None:
        """Pull the plug."""
        if self._is_on:
            self._is_on = False
            self.socket.power(False, at)

    def run(self, now: float) -> None:
        """Catch up with the clock."""
        self.debugger.now = max(self.debugger.now, now)
        if self.socket.target is not None:
            self.socket.target.run(now)

    # -- endpoint 0 --------------------------------------------------------------------------------------------------

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Answer a standard request; there are no others."""
        self._halted -= {transfer.index} if transfer.request == 0x01 else set()  # CLEAR_FEATURE
        data = self.descriptors.answer(transfer) if not transfer.request_type & 0x60 else None
        ends_at = at + 2 * _TRANSFER_S
        if data is None:
            return ControlReply(ends_at=ends_at, stalled=True)
        return ControlReply(ends_at=ends_at, data=data[: transfer.length] if transfer.is_in else b"")

    # -- bulk --------------------------------------------------------------------------------------------------------

    def bulk_out(self, endpoint: int, data: bytes, at: float) -> BulkReply:
        """Take a command, or the data of the command before."""
        index, self.transfers = self.transfers, self.transfers + 1
        self._received += len(data)
        self.debugger.now = max(self.debugger.now, at) + _bus_s(len(data))
        if (refusal := self._strike(index, endpoint)) is not None:
            return refusal
        if endpoint != self.firmware.out_endpoint:
            return BulkReply(ends_at=self.debugger.now, stalled=True)
        if self.firmware.generation == 1:
            return BulkReply(ends_at=self.debugger.now)  # a mass storage device to whom these are no commands
        ends_at = self.debugger.now
        try:
            self._take(data)
        except PowerCutError:
            return self._lose_power()
        return BulkReply(ends_at=ends_at)

    def bulk_in(self, endpoint: int, length: int, at: float) -> BulkReply | None:
        """Give the answer of the command before; what the host leaves of it is lost."""
        if endpoint != 0x81 or self._answer is None:
            return None
        index, self.transfers = self.transfers, self.transfers + 1
        self.debugger.now = max(self.debugger.now, at)
        if (refusal := self._strike(index, endpoint)) is not None:
            return refusal
        data, self._answer = self._answer[:length], None
        data = data[: self._short.get(index, len(data))]
        self.debugger.now += _bus_s(len(data))
        self._replied += len(data)
        return BulkReply(ends_at=self.debugger.now, data=data)

    def _take(self, data: bytes) -> None:
        if self._expected is not None:
            expected, self._expected = self._expected, None
            self.debugger.write(expected, data)
            return
        self._answer = None
        result = self.debugger.command(data[:_COMMAND_BYTES].ljust(_COMMAND_BYTES, b"\0"))
        if isinstance(result, Answer):
            self._answer = result.data or None
        else:
            self._expected = result

    def _strike(self, index: int, endpoint: int) -> BulkReply | None:
        """Let faults strike: what the host sees of the transfer then, None for none."""
        if index in self._unplugged_at or self._received >= self._loss_bytes:
            self._loss_bytes = math.inf
            return self._lose_power()
        if self._replied >= self._mute_after:
            return BulkReply(ends_at=math.inf)
        if index in self._stalled:
            self._halted.add(endpoint)
        return BulkReply(ends_at=self.debugger.now, stalled=True) if endpoint in self._halted else None

    def _lose_power(self) -> BulkReply:
        self.power_lost_at = self.debugger.now
        self.power_off(self.debugger.now)
        return BulkReply(ends_at=self.debugger.now)


def _bus_s(size: int) -> float:
    return _TRANSFER_S + math.ceil(size / _PACKET_BYTES) * _PACKET_S
