"""A whole emulated serial programmer: USB identity, microcontroller, firmware, and the header for a board."""

import math
from collections.abc import Sequence
from typing import Literal

from ispd.transport.contract import PortKind, UsbIdentity
from vbench.arduino_isp import ArduinoIsp
from vbench.faults import CorruptReply, DropReply, LineNoise, Mute, PowerLoss, ProgrammerFault
from vbench.isp_socket import IspSocket
from vbench.line import Flavour
from vbench.mcu import Mcu, Program
from vbench.optiboot import Optiboot
from vbench.target import AvrTarget

__all__ = ["SerialProgrammer", "usb_identity_of"]


_USB = {
    Flavour.UART: UsbIdentity(vendor_id=0x1A86, product_id=0x7523, product="USB Serial"),
    Flavour.UNO: UsbIdentity(vendor_id=0x2341, product_id=0x0043, manufacturer="Arduino (www.arduino.cc)"),
    Flavour.LEONARDO: UsbIdentity(
        vendor_id=0x2341, product_id=0x8036, manufacturer="Arduino LLC", product="Arduino Leonardo"
    ),
    # QMK's ISP flasher images: one serial number for all of them
    Flavour.TEENSYDUINO: UsbIdentity(
        vendor_id=0x16C0, product_id=0x0483, manufacturer="Teensyduino", product="USB Serial", serial="12345"
    ),
}


def usb_identity_of(flavour: Flavour) -> UsbIdentity:
    """Return how a board of this flavour presents itself on USB."""
    return _USB[flavour]


class SerialProgrammer:
    """ArduinoISP on a board, seen from the host's port. All times are bench seconds.

    :param flavour: what the line looks like.
    :param baud: rate the sketch was built for; of no importance on native USB.
    :param target: board on the header, or None.
    :param auto_reset: an Uno resets when DTR is asserted (a capacitor on RESET prevents it).
    :param stuck_in_bootloader: an Uno without a sketch: only Optiboot answers.
    :param booted: the board was on long before the bench starts; otherwise it boots at time 0.
    """

    port_kind: Literal[PortKind.SERIAL] = PortKind.SERIAL

    def __init__(
        self,
        flavour: Flavour = Flavour.UART,
        *,
        baud: int = 19200,
        target: AvrTarget | None = None,
        auto_reset: bool = True,
        stuck_in_bootloader: bool = False,
        booted: bool = True,
        faults: Sequence[ProgrammerFault] = (),
    ) -> None:
        self.flavour = flavour
        self.baud = baud
        self.usb = usb_identity_of(flavour)
        self.socket = IspSocket(target)
        self.optiboot = Optiboot(stuck=stuck_in_bootloader)
        self.mcu = Mcu(flavour, self._firmware)
        self.replies = 0
        self._auto_reset = auto_reset and flavour is Flavour.UNO
        self._stuck_in_bootloader = stuck_in_bootloader
        self._resets_into_bootloader = stuck_in_bootloader
        self._booted = booted and not stuck_in_bootloader
        self._dtr = False
        self.power_lost_at: float | None = None
        """When a :class:`PowerLoss` struck; cleared by the next :meth:`power_on`."""
        self._loss_at = math.inf
        self._take_faults(faults)
        self.sketch = self._new_sketch()
        self.power_on(0.0)
        self._booted = False

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

    # -- power and lines -------------------------------------------------------------------------------------------

    def power_on(self, at: float) -> None:
        """Plug the programmer in: its firmware starts, and the board on the header gets its supply."""
        self.power_lost_at = None
        self.socket.cut_at = None
        self.socket.power_on(at)
        self.mcu.restart(at)

    def power_off(self, at: float) -> None:
        """Unplug the programmer."""
        self.mcu.power_off(at)
        self.socket.power_off(at)
        self._dtr = False

    @property
    def lost(self) -> int:
        """Bytes from the host that found the receive ring full."""
        return self.mcu.lost

    def run(self, now: float) -> None:
        """Catch up with the clock."""
        self.mcu.run(now)

    def opened(self, at: float, *, baud: int, dtr: bool = True, rts: bool = True) -> None:
        """The host opened the port. A rising DTR resets an Uno, into its bootloader first."""
        rising, self._dtr = dtr and not self._dtr, dtr
        self.mcu.run(at)
        self.mcu.set_line(baud=baud, asserted=dtr or rts)
        if rising and self._auto_reset and self.mcu.powered:
            self._resets_into_bootloader = True
            self.socket.set_reset(False, at)
            self.mcu.restart(at)

    def _firmware(self, mcu: Mcu) -> Program:
        through_bootloader = self._resets_into_bootloader
        self._resets_into_bootloader = self._stuck_in_bootloader
        return self._run_firmware(mcu, through_bootloader=through_bootloader, booted=self._booted)

    def _run_firmware(self, mcu: Mcu, *, through_bootloader: bool, booted: bool) -> Program:
        if through_bootloader:
            yield from self.optiboot.main(mcu)
        self.sketch = self._new_sketch()
        yield from self.sketch.main(booted=booted)

    def _new_sketch(self) -> ArduinoIsp:
        return ArduinoIsp(self.mcu, self.socket, baud=self.baud)

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

    def next_time(self) -> float:
        """Return when :meth:`take` should be called next though nothing was fed, infinity for never."""
        return min(self.mcu.next_time(), self._loss_at)

    def set_baud(self, baud: int) -> None:
        """The host changed the port's baud rate."""
        self.mcu.set_line(baud=baud, asserted=True)

    def _lose_power(self, now: float) -> None:
        """Carry out a power loss that is due."""
        if self.socket.cut_at is not None and self.power_lost_at is None:
            self.power_lost_at = self.socket.cut_at
            self.mcu.halt()
        elif self._loss_at <= now:
            self.power_lost_at, self._loss_at = self._loss_at, math.inf
            self.power_off(self.power_lost_at)
