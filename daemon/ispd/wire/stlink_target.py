"""The commands of an ST-Link that read and write its target: core registers, words, memory."""

import struct
from dataclasses import dataclass
from typing import Final

from ispd.errors import LocalProtocolError
from ispd.wire.stlink_firmware import MAX_BLOCK_BYTES, Width
from ispd.wire.stlink_packet import DEBUG, STATUS_BYTES, Packet, check, field_bytes, packet, status_packet, take
from ispd.wire.stlink_status import check_status

__all__ = [
    "GetMemoryStatus",
    "ReadMemory",
    "ReadRegister",
    "ReadWord",
    "WriteMemory",
    "WriteRegister",
    "WriteWord",
]


@dataclass(frozen=True, slots=True)
class ReadRegister:
    """F2 33: read a register of the halted core, by its number (:class:`~ispd.wire.cortex_m.CoreRegister`)."""

    number: int

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x33, self.number, reply_bytes=8)

    def decode(self, reply: bytes) -> int:
        """Return its value."""
        return _value(reply, f"reading register {self.number}")


@dataclass(frozen=True, slots=True)
class WriteRegister:
    """F2 34: write a register of the halted core."""

    number: int
    value: int

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x34, self.number, *field_bytes("<I", self.value))

    def decode(self, reply: bytes) -> None:
        """Check the status."""
        check(reply, STATUS_BYTES, f"writing register {self.number}")


@dataclass(frozen=True, slots=True)
class ReadWord:
    """F2 36: read a word of 32 bits, of the core's registers or of any memory."""

    address: int

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        return status_packet(0x36, *_word_address(self.address), reply_bytes=8)

    def decode(self, reply: bytes) -> int:
        """Return the word."""
        return _value(reply, "reading a word", self.address)


@dataclass(frozen=True, slots=True)
class WriteWord:
    """F2 35: write a word of 32 bits."""

    address: int
    value: int

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        words = *_word_address(self.address), *field_bytes("<I", self.value)
        return status_packet(0x35, *words)

    def decode(self, reply: bytes) -> None:
        """Check the status."""
        check(reply, STATUS_BYTES, "writing a word", self.address)


_READ_CODES: Final = {Width.BYTE: 0x0C, Width.WORD: 0x07}
_WRITE_CODES: Final = {Width.BYTE: 0x0D, Width.WORD: 0x08}


@dataclass(frozen=True, slots=True)
class ReadMemory:
    """F2 07, 0C: read memory in units of 32 or 8 bits; :class:`GetMemoryStatus` tells whether that went well.

    :param byte_limit: most units of 8 bits; it depends on the firmware.
    """

    width: Width
    address: int
    length: int
    byte_limit: int = 64

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`. A single byte comes with another one behind it."""
        head = _memory_head(self.width, self.address, self.length, self.byte_limit)
        return packet(DEBUG, _READ_CODES[self.width], *head, reply_bytes=max(2, self.length))

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes, of which nothing is known before the status."""
        return take(reply, max(2, self.length), "reading memory")[: self.length]


@dataclass(frozen=True, slots=True)
class WriteMemory:
    """F2 08, 0D: write memory in units of 32 or 8 bits; else as with :class:`ReadMemory`."""

    width: Width
    address: int
    data: bytes
    byte_limit: int = 64

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        head = _memory_head(self.width, self.address, len(self.data), self.byte_limit)
        return packet(DEBUG, _WRITE_CODES[self.width], *head, data=self.data)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "writing memory")


@dataclass(frozen=True, slots=True)
class GetMemoryStatus:
    """F2 3E, before J15 F2 3B: how the last memory transfer went.

    :param has_address: ask for the failing address too (3E).
    :param what: what was done, for messages.
    :param address: where it began.
    """

    has_address: bool
    what: str
    address: int

    def encode(self) -> Packet:
        """See :class:`~ispd.wire.stlink_packet.StlinkCommand`."""
        if self.has_address:
            return status_packet(0x3E, reply_bytes=12)
        return status_packet(0x3B)

    def decode(self, reply: bytes) -> None:
        """Check the status."""
        if not self.has_address:
            check(reply, STATUS_BYTES, self.what, self.address)
            return
        (failed_at,) = struct.unpack_from("<I", take(reply, 12, self.what), 4)
        check_status(reply[0], self.what, address=failed_at or self.address)


def _word_address(address: int) -> bytes:
    if address % 4:
        raise LocalProtocolError(f"there is no word at 0x{address:08X}")
    return field_bytes("<I", address)


def _memory_head(width: Width, address: int, length: int, byte_limit: int) -> bytes:
    """Return address and length; the access port (0) and CSW (the usual one) are zero like all that follows."""
    limit = byte_limit if width is Width.BYTE else MAX_BLOCK_BYTES
    if not 0 < length <= limit or address % width.value or length % width.value:
        raise LocalProtocolError(f"{length} bytes at 0x{address:08X} are not moved at once in units of {width.value}")
    return field_bytes("<I", address) + field_bytes("<H", length)


def _value(reply: bytes, what: str, address: int | None = None) -> int:
    check(reply, 8, what, address)
    (found,) = struct.unpack_from("<I", reply, 4)
    return int(found)
