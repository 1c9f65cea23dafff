"""What a running firmware shows on a board's port: a device that does nothing, and in an Arduino sketch a serial port.

Source of the touch: ArduinoCore-avr, cores/arduino/CDC.cpp: the port set to 1200 baud with DTR low writes the bootloader's
key into RAM and lets a watchdog of 120 ms bite; DTR high again takes both back.
"""

import math
from typing import Literal

from ispd.transport.contract import ControlTransfer, PortKind, UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import Departure, Exit
from vbench.board_usb import ControlFace
from vbench.emulated import EmulatedFace
from vbench.usb_device import StallError

__all__ = ["BOOT_KEY", "BOOT_KEY_AT", "Keyboard", "Sketch"]

BOOT_KEY, BOOT_KEY_AT = 0x77, 0x0800
"""Caterina's key, two equal bytes from this address of RAM on."""
_TOUCH_BAUD = 1200
_WATCHDOG_S = 0.120
_VERSION = 0x0001


class Keyboard(ControlFace):
    """A firmware with a USB device of its own that knows no request of its own."""

    def __init__(self, usb: UsbIdentity, *, at: float) -> None:
        super().__init__(usb, version=_VERSION, at=at)

    def _request(self, transfer: ControlTransfer) -> bytes:  # noqa: ARG002 - all are refused
        raise StallError


class Sketch:
    """A sketch with a serial port, which listens to nothing but the touch."""

    port_kind: Literal[PortKind.SERIAL] = PortKind.SERIAL

    def __init__(self, usb: UsbIdentity, *, chip: Chip) -> None:
        self.usb = usb
        self.version = 0x0100
        self.baud = 9600
        self.power_lost_at: float | None = None
        self.departure: Departure | None = None
        self._chip = chip

    @property
    def face(self) -> EmulatedFace | None:
        """Itself."""
        return self

    def opened(self, at: float, *, baud: int, dtr: bool = True, rts: bool = True) -> None:  # noqa: ARG002 - RTS means nothing
        """The host set rate and lines."""
        self.baud = baud
        key = (BOOT_KEY_AT, BOOT_KEY_AT + 1)
        if baud == _TOUCH_BAUD and not dtr:
            self._chip.ram.update(dict.fromkeys(key, BOOT_KEY))
            self.departure = self.departure or Departure(at=at + _WATCHDOG_S, exit=Exit.RESET)
        elif dtr and self.departure is not None:
            for address in key:
                self._chip.ram.pop(address, None)
            self.departure = None

    def set_baud(self, baud: int) -> None:
        """The host changed the rate; the lines are asserted."""
        self.baud = baud

    def feed(self, data: bytes, at: float) -> None:
        """Take bytes and forget them."""

    def take(self, now: float) -> bytes:  # noqa: ARG002 - it never sends anything
        """Return nothing."""
        return b""

    def held(self, now: float) -> int:  # noqa: ARG002 - everything was taken at once
        """Nothing is kept back."""
        return 0

    def next_time(self) -> float:
        """It never has anything to say."""
        return math.inf
