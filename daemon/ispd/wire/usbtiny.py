"""USBtiny's requests: every one as a value.

Sources: firmware ``usbtinyisp/main.c`` and ``usbtiny/usb.c`` (Dick Streefland's usbtiny, also on Adafruit's USBtinyISP
and SparkFun's Pocket AVR Programmer), and avrdude's ``usbtiny.c``. All are vendor requests to the device. Those that
need the target's pins answer nothing at all while the programmer is powered down.

Not here: requests 1 to 4 and 13 (bare port pins), 8 and 12 (EEPROM bytes polled by the firmware; pages are faster), 14.
"""

from dataclasses import dataclass
from typing import Final

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.control import INSTRUCTION_BYTES, VENDOR_IN, VENDOR_OUT, ControlFields, require_range, spi_fields, take

__all__ = [
    "BULK_REACH_BYTES",
    "MAX_READ_BYTES",
    "PERIODS",
    "Echo",
    "LoadFlash",
    "PowerDown",
    "PowerUp",
    "PoweredDownError",
    "ReadEeprom",
    "ReadFlash",
    "Spi",
    "sck_hz",
]

PERIODS: Final = range(1, 251)
"""What POWERUP takes as SCK parameter: one byte, avrdude's limits SCK_MIN and SCK_MAX."""

BULK_REACH_BYTES: Final = 0x10000
"""FLASH_READ forms a 15 bit word address from a 16 bit byte address (``spi_rw``): the lower half of each 128 KiB."""

MAX_READ_BYTES: Final = 254
"""The firmware counts an answer's bytes in one byte, and 255 means something else (``usb_receive``)."""

_MAX_WRITE_BYTES: Final = 256
"""No limit of the firmware: the largest page of flash."""

_ECHO_BYTES: Final = 8


class PoweredDownError(RemoteProtocolError):
    """The programmer answered a request for the target with nothing: it does not drive the target's pins."""


def sck_hz(period: int) -> int:
    """Return SCK for a SCK parameter: a bit lasts ``period`` + 1.9 us at the firmware's 12 MHz (its delay loop)."""
    return 10_000_000 // (10 * require_range(period, PERIODS.stop, "SCK parameter") + 19)


def _driven(reply: bytes, length: int, name: str) -> bytes:
    """Return the answer to a request that needs the pins driven."""
    if not reply:
        raise PoweredDownError(f"{name} brought nothing: the programmer does not drive the target", is_usb=True)
    return take(reply, length, name)


@dataclass(frozen=True, slots=True)
class Echo:
    """Request 0: the eight bytes of the setup packet come back. ``value`` and ``index`` may be anything."""

    value: int
    index: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return ControlFields(request_type=VENDOR_IN, request=0, value=self.value, index=self.index, length=_ECHO_BYTES)

    def decode(self, reply: bytes) -> bool:
        """Tell whether the answer is the setup packet; Little Wire puts 21 into its second byte (``main.c``)."""
        numbers = (self.value, self.index, _ECHO_BYTES)
        expected = b"".join(number.to_bytes(2, "little") for number in numbers)
        return (reply[:1], reply[2:]) == (bytes((VENDOR_IN,)), expected)


@dataclass(frozen=True, slots=True)
class PowerUp:
    """Request 5: drive the target's pins, SCK and MOSI low, reset as told; sets the SCK parameter."""

    period: int
    is_reset: bool

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        if self.period not in PERIODS:
            raise LocalProtocolError(f"SCK parameter {self.period} is not in 1..250")
        return ControlFields(request_type=VENDOR_IN, request=5, value=self.period, index=0 if self.is_reset else 1)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "POWERUP")


@dataclass(frozen=True, slots=True)
class PowerDown:
    """Request 6: let go of all the target's pins."""

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return ControlFields(request_type=VENDOR_IN, request=6)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "POWERDOWN")


@dataclass(frozen=True, slots=True)
class Spi:
    """Request 7: clock four bytes out, and four bytes in."""

    instruction: bytes

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return spi_fields(7, self.instruction)

    def decode(self, reply: bytes) -> bytes:
        """Return the four bytes. Raises ``PoweredDownError``."""
        return _driven(reply, INSTRUCTION_BYTES, "SPI")


@dataclass(frozen=True, slots=True)
class ReadFlash:
    """Request 9: read bytes of flash, in the 128 KiB that the target's extended address selects."""

    address: ByteAddress
    length: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return _bulk_read(9, self.address, self.length)

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes. Raises ``PoweredDownError``."""
        return _driven(reply, self.length, "FLASH_READ")


@dataclass(frozen=True, slots=True)
class ReadEeprom:
    """Request 11: read bytes of EEPROM."""

    address: ByteAddress
    length: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return _bulk_read(11, self.address, self.length)

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes. Raises ``PoweredDownError``."""
        return _driven(reply, self.length, "EEPROM_READ")


@dataclass(frozen=True, slots=True)
class LoadFlash:
    """Request 10: load bytes into the target's page buffer; nothing is written before instruction ``4C``.

    Only the address within the page counts, so that any flash address can be given modulo 64 KiB.
    """

    address: ByteAddress
    data: bytes

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`; wValue 0 means that the firmware does not poll."""
        if not 0 < len(self.data) <= _MAX_WRITE_BYTES:
            raise LocalProtocolError(f"{len(self.data)} bytes are not loaded at once")
        return ControlFields(request_type=VENDOR_OUT, request=10, index=self.address % BULK_REACH_BYTES, data=self.data)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "FLASH_WRITE")


def _bulk_read(request: int, address: ByteAddress, length: int) -> ControlFields:
    """Return the transfer that reads bytes up to the end of the reach."""
    require_range(length, MAX_READ_BYTES + 1, "length")
    require_range(address, BULK_REACH_BYTES, "address")
    require_range(address + length, BULK_REACH_BYTES + 1, "end")
    return ControlFields(request_type=VENDOR_IN, request=request, index=address, length=length)
