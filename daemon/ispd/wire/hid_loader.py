"""Requests of LUFA's HID bootloader and QMK's build of it, each as a value: output reports without an id.

Sources: ``Bootloaders/HID/BootloaderHID.c`` and ``HostLoaderApp/hid_bootloader_cli.c`` of LUFA. HalfKay's look the same, but it erases the
whole chip with the first one.
"""

from dataclasses import dataclass
from typing import Final

from ispd.errors import LocalProtocolError
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.control import ControlFields, require_range, take
from ispd.wire.hid import ReportKind, set_report

__all__ = ["StartApplication", "WritePage"]

_NEAR_BYTES: Final = 0x10000
"""On parts with more flash than this the address is that of 256 bytes (FLASHEND above 0xFFFF in the firmware)."""

_START: Final = 0xFFFF
"""In place of an address (COMMAND_STARTAPPLICATION)."""


@dataclass(frozen=True, slots=True)
class WritePage:
    """Erase and write one page.

    :param flash_bytes: size of the part's flash.
    :param data: the whole page; the firmware takes what it needs for its own page size, however much comes.
    """

    address: ByteAddress
    data: bytes
    flash_bytes: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        address = require_range(self.address, self.flash_bytes, "address")
        if not self.data or address % len(self.data):
            raise LocalProtocolError(f"{len(self.data)} bytes at 0x{address:04X} are no page")
        short = address >> 8 if self.flash_bytes > _NEAR_BYTES else address
        return set_report(ReportKind.OUTPUT, 0, short.to_bytes(2, "little") + self.data)

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "SET_REPORT")


@dataclass(frozen=True, slots=True)
class StartApplication:
    """Start the application, by a watchdog reset 250 ms later.

    :param page_bytes: as long a report as for a page: hosts that go by the report descriptor send no shorter one.
    """

    page_bytes: int

    def encode(self) -> ControlFields:
        """See :class:`~ispd.wire.control.ControlRequest`."""
        return set_report(ReportKind.OUTPUT, 0, _START.to_bytes(2, "little").ljust(2 + self.page_bytes, b"\x00"))

    def decode(self, reply: bytes) -> None:
        """Nothing comes back."""
        take(reply, 0, "SET_REPORT")
