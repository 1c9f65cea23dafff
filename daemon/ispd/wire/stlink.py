"""The commands of an ST-Link V2, V2-1 and V3 about itself and its way to a target: every one as a value that knows its bytes
and its answer. Those about what is in the target are in :mod:`ispd.wire.stlink_target`.

Not here: JTAG, SWIM, trace, the bridge of a V3.
"""

import struct
from dataclasses import dataclass
from enum import Enum, unique
from typing import ClassVar, Final

from ispd.errors import RemoteProtocolError
from ispd.wire.stlink_firmware import Firmware
from ispd.wire.stlink_packet import DEBUG, STATUS_BYTES, Packet, check, field_bytes, packet, status_packet, take

__all__ = [
    "DriveReset",
    "EnterSwd",
    "GetClocks",
    "GetExtendedVersion",
    "GetIdCode",
    "GetMode",
    "GetVersion",
    "GetVoltage",
    "LeaveDebug",
    "LeaveDfu",
    "LeaveSwim",
    "Mode",
    "OpenAccessPort",
    "ResetLine",
    "SetClock",
    "SetDivisor",
]


@dataclass(frozen=True, slots=True)
class GetVersion:
    """F1: what the firmware is."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return packet(0xF1, reply_bytes=6)

    def decode(self, reply: bytes) -> Firmware:
        """Return the version; of a V3 only the hardware is told here."""
        (word,) = struct.unpack(">H", take(reply, 6, "the version")[:2])
        (product,) = struct.unpack_from("<H", reply, 4)
        letter = "S" if product == 0x3748 else "M"
        return Firmware(hardware=word >> 12, jtag=word >> 6 & 0x3F, extra=word & 0x3F, extra_letter=letter)


@dataclass(frozen=True, slots=True)
class GetExtendedVersion:
    """FB: the same of a V3: hardware, SWIM, JTAG, mass storage, bridge, one byte each."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return packet(0xFB, reply_bytes=12)

    def decode(self, reply: bytes) -> Firmware:
        """Return the version, with that of mass storage where it has some, else of SWIM."""
        hardware, swim, jtag, storage = take(reply, 12, "the extended version")[:4]
        extra, letter = (storage, "M") if storage else (swim, "S")
        return Firmware(hardware=hardware, jtag=jtag, extra=extra, extra_letter=letter)


@unique
class Mode(Enum):
    """What an ST-Link is about (answer to F5)."""

    DFU = 0
    MASS_STORAGE = 1
    DEBUG = 2
    SWIM = 3
    LOADER = 4


@dataclass(frozen=True, slots=True)
class GetMode:
    """F5: the mode it is in."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return packet(0xF5, reply_bytes=2)

    def decode(self, reply: bytes) -> Mode:
        """Return the mode."""
        number = take(reply, 2, "the mode")[0]
        try:
            return Mode(number)
        except ValueError:
            raise RemoteProtocolError(f"the ST-Link is in mode {number}, which nobody knows", is_usb=True) from None


@dataclass(frozen=True, slots=True)
class GetVoltage:
    """F7: the target's supply."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return packet(0xF7, reply_bytes=8)

    def decode(self, reply: bytes) -> int | None:
        """Return millivolts, None where nothing was measured.

        Two readings: of its 1.2 V reference, and of half the target's supply.
        """
        reference, value = struct.unpack("<II", take(reply, 8, "the voltage"))
        return round(2400 * value / reference) if reference else None


@dataclass(frozen=True, slots=True)
class _Silent:
    """A command without an answer."""

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "a command without an answer")


@dataclass(frozen=True, slots=True)
class LeaveDfu(_Silent):
    """F3 07: start the firmware."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return packet(0xF3, 0x07)


@dataclass(frozen=True, slots=True)
class LeaveSwim(_Silent):
    """F4 01: be done with an STM8."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return packet(0xF4, 0x01)


@dataclass(frozen=True, slots=True)
class LeaveDebug(_Silent):
    """F2 21: let go of the target."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return packet(DEBUG, 0x21)


# -- the way to the target ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plain:
    """A command that brings nothing but its status. ``what`` is what it does, for messages."""

    what: ClassVar[str]

    def decode(self, reply: bytes) -> None:
        """Check the status."""
        check(reply, STATUS_BYTES, self.what)


@dataclass(frozen=True, slots=True)
class EnterSwd(_Plain):
    """F2 30 A3: speak SWD to the target."""

    what = "entering SWD"

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x30, 0xA3)


@dataclass(frozen=True, slots=True)
class GetIdCode:
    """F2 31: the id of the target's debug port."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x31, reply_bytes=12)

    def decode(self, reply: bytes) -> int:
        """Return DPIDR, or 0, which is nobody's."""
        check(reply, 12, "reading the id")
        (found,) = struct.unpack_from("<I", reply, 4)
        return int(found)


@unique
class ResetLine(Enum):
    """What becomes of NRST."""

    LOW = 0
    HIGH = 1


@dataclass(frozen=True, slots=True)
class DriveReset(_Plain):
    """F2 3C: move NRST."""

    what = "moving NRST"

    line: ResetLine

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x3C, self.line.value)


@dataclass(frozen=True, slots=True)
class SetDivisor(_Plain):
    """F2 43: set SWD's clock on a V2 (:data:`~ispd.wire.stlink_firmware.SWD_DIVISORS`)."""

    what = "setting the clock"

    divisor: int

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x43, *field_bytes("<H", self.divisor))


_MAX_CLOCKS: Final = 10
"""``STLINK_V3_MAX_FREQ_NB`` of OpenOCD."""


@dataclass(frozen=True, slots=True)
class GetClocks:
    """F2 62 00: the SWD clocks of a V3 (kHz: at 8 how many there are, at 12 each of them)."""

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x62, 0, reply_bytes=52)

    def decode(self, reply: bytes) -> tuple[int, ...]:
        """Return the clocks in Hz, slowest first."""
        check(reply, 52, "listing the clocks")
        count, *clocks = struct.unpack_from(f"<I{_MAX_CLOCKS}I", reply, 8)
        usable = sorted({khz * 1000 for khz in clocks[: count & 0xFF] if khz})
        if not usable:
            raise RemoteProtocolError("the ST-Link lists no SWD clock", is_usb=True)
        return tuple(usable)


@dataclass(frozen=True, slots=True)
class SetClock:
    """F2 61 00: set SWD's clock on a V3."""

    clock_hz: int

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x61, 0, 0, *field_bytes("<I", self.clock_hz // 1000), reply_bytes=8)

    def decode(self, reply: bytes) -> None:
        """Check the status."""
        check(reply, 8, "setting the clock")


@dataclass(frozen=True, slots=True)
class OpenAccessPort(_Plain):
    """F2 4B: open an access port, 0 being the core's."""

    what = "opening the access port"

    port: int = 0

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x4B, self.port)
