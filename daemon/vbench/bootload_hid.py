"""BootloadHID: a low-speed HID device that takes flash pages as feature reports, on the cells of the board's own chip.

Source: firmware/main.c and usbconfig.h of Objective Development's BootloadHID (V-USB). It erases and writes whatever address
it is told, its own pages included: only lock bits keep it from that. What makes it stay is a pin that each board wires as it
likes; the boards of the bench stay while the chip is blank, and start the application otherwise.
"""

from dataclasses import replace

from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import Departure, Exit, Loader, LoaderStart
from vbench.board_usb import ControlFace
from vbench.bypass import to_application
from vbench.hid import HidDescriptors, HidFacts

__all__ = ["BootloadHid", "start_loader"]

_REPORTS = bytes.fromhex(
    "06 00 FF 09 01 A1 01 15 00 26 FF 00 75 08"  # vendor page, bytes
    "85 01 95 06 09 00 B2 02 01"  # feature 1: six bytes
    "85 02 95 83 09 00 B2 02 01"  # feature 2: 131 bytes
    "C0"
)
_FACTS = HidFacts(version=0x0100, release=0x0101, report=_REPORTS, packet_bytes=8, endpoint_bytes=8, interval_ms=200)
_TEXTS = ("obdev.at", "HIDBoot")
_INFO, _PAGE = 1, 2
"""Report numbers."""
_HEAD_BYTES = 4
"""Report number and address before the data of a page."""
_BLOCK_BYTES = 128
"""Data of one report; what comes behind it is not taken any more."""
_EXIT_S = 0.25
"""65536 turns of the main loop after the request to leave."""


def start_loader(chip: Chip, start: LoaderStart) -> Loader:
    """Begin to run: the application where there is one."""
    if chip.has_application():
        return to_application(start.at)
    manufacturer, product = _TEXTS
    return BootloadHid(chip, replace(start.usb, manufacturer=manufacturer, product=product), at=start.at)


class BootloadHid(ControlFace):
    """A board in its BootloadHID."""

    def __init__(self, chip: Chip, usb: UsbIdentity, *, at: float) -> None:
        self.chip = chip
        self._address = 0
        self._page = bytearray(b"\xff") * chip.part.flash.page_bytes
        super().__init__(
            usb,
            version=_FACTS.version,
            at=at,
            descriptors=HidDescriptors(usb, _FACTS),
            packet_bytes=_FACTS.packet_bytes,
        )

    def _request(self, transfer: ControlTransfer) -> bytes:
        """``usbFunctionSetup``: what it does not know is acknowledged without an answer."""
        part = self.chip.part
        match transfer.request:
            case 0x01:  # GET_REPORT
                sizes = part.flash.page_bytes.to_bytes(2, "little") + part.flash.size_bytes.to_bytes(4, "little")
                return bytes((_INFO,)) + sizes
            case 0x09 if transfer.value & 0xFF == _PAGE:  # SET_REPORT
                self._write(transfer.data)
            case 0x09:
                self.departure = Departure(at=self.now + _EXIT_S, exit=Exit.APPLICATION)
        return b""

    def _write(self, report: bytes) -> None:
        """``usbFunctionWrite``: erases where a page begins, writes where one ends."""
        size = len(self._page)
        data = report[_HEAD_BYTES : _HEAD_BYTES + _BLOCK_BYTES]
        if len(report) > _HEAD_BYTES:
            self._address = int.from_bytes(report[1:3], "little")  # the third byte counts on parts above 64 KiB alone
        for offset in range(0, len(data) & ~1, 2):
            place = self._address % size
            if place == 0:
                self._wait(self.chip.erase_page(self._address, self.now))
            self._page[place : place + 2] = data[offset : offset + 2]
            if place + 2 == size:
                self._wait(self.chip.write_page(self._address, bytes(self._page), self.now))
                self._page[:] = b"\xff" * size
            self._address += 2

    def _wait(self, until: float) -> None:
        """Busy until the page is done; one of its own that was changed is the end of it."""
        if until > self.now and self._address >= self.chip.section.start:
            self.departure = Departure(at=until, exit=Exit.HANG)
        self.now = max(self.now, until)
