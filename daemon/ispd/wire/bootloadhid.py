"""BootloadHID's requests, each as a value: two feature reports.

Sources: ``firmware/main.c`` and ``commandline/main.c`` of bootloadHID (Objective Development, 2007 on).
"""

from dataclasses import dataclass
from typing import Final

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.control import ControlFields, require_range, take
from ispd.wire.hid import ReportKind, get_report, set_report

__all__ = ["BLOCK_BYTES", "GetInfo", "Leave", "LoaderInfo", "WriteBlock"]

BLOCK_BYTES: Final = 128
"""Data of one report, whatever the page size. The firmware erases a page with its first byte, and writes it with its last one."""

_ADDRESS_LIMIT: Final = 1 << 24
_INFO, _DATA = 1, 2
_INFO_BYTES: Final = 7


@dataclass(frozen=True, slots=True)
class LoaderInfo:
    """What the bootloader knows of its chip: size of a page, and of all flash, its own section included."""

    page_bytes: int
    flash_bytes: int


@dataclass(frozen=True, slots=True)
class GetInfo:
    """Report 1, read: the chip's sizes."""

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return get_report(ReportKind.FEATURE, _INFO, _INFO_BYTES)

    def decode(self, reply: bytes) -> LoaderInfo:
        """Return the sizes."""
        info = take(reply, _INFO_BYTES, "report 1")
        if info[0] != _INFO:
            raise RemoteProtocolError(f"report 1 was asked for, {info[0]} came", is_usb=True)
        return LoaderInfo(int.from_bytes(info[1:3], "little"), int.from_bytes(info[3:], "little"))


@dataclass(frozen=True, slots=True)
class WriteBlock:
    """Report 2: :data:`BLOCK_BYTES` of flash. Blocks of one page follow each other, the first one first."""

    address: ByteAddress
    data: bytes

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        address = require_range(self.address, _ADDRESS_LIMIT, "address")
        if len(self.data) != BLOCK_BYTES or address % BLOCK_BYTES:
            raise LocalProtocolError(f"{len(self.data)} bytes at 0x{address:04X} are no block of {BLOCK_BYTES}")
        return set_report(ReportKind.FEATURE, _DATA, bytes([_DATA]) + address.to_bytes(3, "little") + self.data)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "report 2")


@dataclass(frozen=True, slots=True)
class Leave:
    """Report 1, written: start the application; what it holds does not matter."""

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return set_report(ReportKind.FEATURE, _INFO, bytes([_INFO]).ljust(_INFO_BYTES, b"\x00"))

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "report 1")
