"""USBasp's requests: every one as a value.

Sources: the stock firmware ``main.c``, ``isp.c`` and ``usbasp.h`` (Thomas Fischl, releases 2005-04-21 to 2011-05-28), its
forks' (nerdralph, dioannidis), and avrdude's ``usbasp.c``. All are vendor requests to the device; a request that a firmware
does not know brings nothing and is not refused (V-USB answers with zero bytes).

Not here: TPI (11 to 16), WRITEEEPROM (8: it waits 9.6 ms for each byte; pages are faster), what forks added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.control import INSTRUCTION_BYTES, VENDOR_IN, VENDOR_OUT, ControlFields, require_range, spi_fields, take

__all__ = [
    "BLOCK_BYTES",
    "CAN_3_MHZ",
    "SCK_OPTIONS",
    "SLOW_BLOCK_BYTES",
    "Connect",
    "Disconnect",
    "EnableProg",
    "GetCapabilities",
    "ReadEeprom",
    "ReadFlash",
    "SetIspSck",
    "SetLongAddress",
    "Transmit",
    "WriteFlash",
    "can_3_mhz",
]

SCK_OPTIONS: Final[Mapping[int, int]] = MappingProxyType(
    {
        500: 1,
        1_000: 2,
        2_000: 3,
        4_000: 4,
        8_000: 5,
        16_000: 6,
        32_000: 7,
        93_750: 8,
        187_500: 9,
        375_000: 10,
        750_000: 11,
        1_500_000: 12,
        3_000_000: 13,
    }
)
"""SETISPSCK's option by SCK in Hz, slowest first (``usbasp.h``; 13 only in UsbAsp-flash and forks of it). Up to 32 kHz the
firmware moves the pins itself. Option 0, automatic, is never used: it means 375 kHz, or a search of the firmware's own."""

BLOCK_BYTES: Final = 200
"""Longest block read or written at once: avrdude's USBASP_READBLOCKSIZE; clones with buffers of 256 bytes exist."""

SLOW_BLOCK_BYTES: Final = 20
"""The same below 10 kHz, where a byte takes up to 64 ms."""

_ANSWER_BYTES: Final = 4
_ADDRESS_LIMIT: Final = 1 << 32
_PAGE_LIMIT: Final = 1 << 12
_FLAG_FIRST: Final = 0x01
"""PROG_BLOCKFLAG_FIRST: the firmware counts a page's bytes from here on."""

CAN_3_MHZ: Final = 1 << 24
"""USBASP_CAP_3MHZ of UsbAsp-flash; some forks set it without having the option."""


def can_3_mhz(capabilities: int | None) -> bool:
    """Tell whether the firmware says that it has SCK option 13."""
    return capabilities is not None and bool(capabilities & CAN_3_MHZ)


@dataclass(frozen=True, slots=True)
class Connect:
    """Function 1: apply SCK, pull reset low, forget the long address."""

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return ControlFields(request_type=VENDOR_IN, request=1, length=_ANSWER_BYTES)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "CONNECT")


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Function 2: let go of all the target's pins. A board running USBaspLoader starts its application."""

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return ControlFields(request_type=VENDOR_IN, request=2, length=_ANSWER_BYTES)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "DISCONNECT")


@dataclass(frozen=True, slots=True)
class Transmit:
    """Function 3: clock four bytes out, and four bytes in.

    Before the first CONNECT since power-up the firmware jumps to nowhere (its pointer to the SPI routine is empty).
    """

    instruction: bytes

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return spi_fields(3, self.instruction)

    def decode(self, reply: bytes) -> bytes:
        """Return the four bytes."""
        return take(reply, INSTRUCTION_BYTES, "TRANSMIT")


@dataclass(frozen=True, slots=True)
class ReadFlash:
    """Function 4: read bytes of flash, from the address of :class:`SetLongAddress` on, or from ``address`` without it."""

    address: ByteAddress
    length: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return _read(4, self.address, self.length)

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes."""
        return take(reply, self.length, "READFLASH")


@dataclass(frozen=True, slots=True)
class EnableProg:
    """Function 5: send the enabling instruction until its echo comes, 32 times or (forks) at ever lower SCK."""

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return ControlFields(request_type=VENDOR_IN, request=5, length=_ANSWER_BYTES)

    def decode(self, reply: bytes) -> bool:
        """Tell whether the target answered."""
        return take(reply, 1, "ENABLEPROG") == b"\x00"


@dataclass(frozen=True, slots=True)
class WriteFlash:
    """Function 6: load bytes into the page buffer; the firmware writes each page that is full, and waits for it.

    :param address: as with :class:`ReadFlash`.
    :param page_bytes: the part's page size.
    :param is_page_start: the first byte is the first of a page.
    """

    address: ByteAddress
    data: bytes
    page_bytes: int
    is_page_start: bool

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`.

        wIndex holds the lower 8 bits of the page size, the flags, and above them bits 11 to 8 of the page size.
        """
        require_range(self.page_bytes, _PAGE_LIMIT, "page size")
        if not 0 < len(self.data) <= BLOCK_BYTES or self.page_bytes == 0:
            raise LocalProtocolError(f"{len(self.data)} bytes of {self.page_bytes} byte pages are not written at once")
        flags = _FLAG_FIRST if self.is_page_start else 0
        index = self.page_bytes & 0xFF | flags << 8 | (self.page_bytes >> 8) << 12
        return ControlFields(
            request_type=VENDOR_OUT, request=6, value=self.address & 0xFFFF, index=index, data=self.data
        )

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "WRITEFLASH")


@dataclass(frozen=True, slots=True)
class ReadEeprom:
    """Function 7: read bytes of EEPROM; the address as with :class:`ReadFlash`."""

    address: ByteAddress
    length: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return _read(7, self.address, self.length)

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes."""
        return take(reply, self.length, "READEEPROM")


@dataclass(frozen=True, slots=True)
class SetLongAddress:
    """Function 9: where the next block begins. Until the next CONNECT the firmware counts on by itself from block to block.

    Firmware before 2007 does not know it and goes by the 16 bit address that comes with each block.
    """

    address: ByteAddress

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        address = require_range(self.address, _ADDRESS_LIMIT, "address")
        return ControlFields(
            request_type=VENDOR_IN, request=9, value=address & 0xFFFF, index=address >> 16, length=_ANSWER_BYTES
        )

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "SETLONGADDRESS")


@dataclass(frozen=True, slots=True)
class SetIspSck:
    """Function 10: choose the SCK that the next CONNECT applies, by its option."""

    option: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        if self.option not in SCK_OPTIONS.values():
            raise LocalProtocolError(f"there is no SCK option {self.option}")
        return ControlFields(request_type=VENDOR_IN, request=10, value=self.option, length=_ANSWER_BYTES)

    def decode(self, reply: bytes) -> bool:
        """Tell whether the firmware knows the request; before 2009 it does not."""
        if len(reply) > 1:
            raise RemoteProtocolError(f"SETISPSCK brought {len(reply)} bytes instead of 1", is_usb=True)
        return bool(reply)


@dataclass(frozen=True, slots=True)
class GetCapabilities:
    """Function 127: 32 bits of what a firmware can do, since 2011."""

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return ControlFields(request_type=VENDOR_IN, request=127, length=_ANSWER_BYTES)

    def decode(self, reply: bytes) -> int | None:
        """Return the bits, None where the firmware does not know the request."""
        return int.from_bytes(take(reply, _ANSWER_BYTES, "GETCAPABILITIES"), "little") if reply else None


def _read(function: int, address: ByteAddress, length: int) -> ControlFields:
    require_range(length, BLOCK_BYTES + 1, "length")
    return ControlFields(request_type=VENDOR_IN, request=function, value=address & 0xFFFF, length=length)
