"""HalfKay of the Teensy boards, and the HID bootloaders of LUFA and QMK that copied its reports: blocks of flash by SET_REPORT.

Sources: Bootloaders/HID of LUFA; HalfKay itself is closed, and known by what PJRC's teensy_loader_cli does with it: the first
block has it erase the chip, blocks of FF are left out, FFFF as the address starts the application. Its descriptors are guessed.
"""

from abc import abstractmethod

from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import Departure, Exit, Loader, LoaderStart, ResetFlag
from vbench.board_usb import ControlFace
from vbench.bypass import to_application
from vbench.hid import HidDescriptors, HidFacts
from vbench.usb_device import HungError, StallError

__all__ = ["HalfKay", "LufaHid", "start_loader"]

_ADDRESS_BYTES = 2
_START = 0xFFFF
"""In place of an address: leave."""
_LARGE_BYTES = 0x10000
"""Parts with more flash than this get the address in units of 256 bytes."""
_DETACH_S = 1e-3
_LUFA_PRODUCT = (0x03EB, 0x2067)
_QMK_VERSION = 0x0936
"""bcdDevice by which QMK's build is told from LUFA's own."""
_LUFA_KEY, _LUFA_KEY_AT = 0x42, -2
"""MAGIC_BOOT_KEY, left for the watchdog reset that starts the application; its place in RAM is the linker's choice."""


def start_loader(chip: Chip, start: LoaderStart) -> Loader:
    """Begin to run; HalfKay stays after an external reset or a jump, LUFA's unless it started that reset itself."""
    if (start.usb.vendor_id, start.usb.product_id) == _LUFA_PRODUCT:
        has_key = chip.ram.pop(_LUFA_KEY_AT, None) == _LUFA_KEY
        if has_key and ResetFlag.WATCHDOG in start.flags:
            return to_application(start.at)
        return LufaHid(chip, start.usb, version=_QMK_VERSION if start.variant == "qmk-hid" else 0x0001, at=start.at)
    is_asked = start.flags is ResetFlag.NONE or ResetFlag.EXTERNAL in start.flags
    if chip.has_application() and not is_asked:
        return to_application(start.at)
    return HalfKay(chip, start.usb, at=start.at)


class _BlockLoader(ControlFace):
    """What both have in common: one output report of an address and a page."""

    def __init__(self, chip: Chip, usb: UsbIdentity, facts: HidFacts, *, at: float) -> None:
        self.chip = chip
        super().__init__(
            usb, version=facts.version, at=at, descriptors=HidDescriptors(usb, facts), packet_bytes=facts.packet_bytes
        )

    def _request(self, transfer: ControlTransfer) -> bytes:
        if (transfer.request_type, transfer.request) != (0x21, 0x09):  # SET_REPORT is all they know
            raise StallError
        if len(transfer.data) < _ADDRESS_BYTES:
            raise HungError  # it waits for the rest
        word = int.from_bytes(transfer.data[:_ADDRESS_BYTES], "little")
        if word == _START:
            self._leave()
        else:
            is_large = self.chip.part.flash.size_bytes > _LARGE_BYTES
            self._write(word << 8 if is_large else word, transfer.data[_ADDRESS_BYTES:])
        return b""

    @abstractmethod
    def _leave(self) -> None:
        """Carry out the request to leave."""

    @abstractmethod
    def _write(self, address: int, data: bytes) -> None:
        """Carry out the request to write what follows the address."""

    def _is_page(self, address: int) -> bool:
        """Tell whether a page of the application begins there; it ends where the loader was built for, whatever BOOTSZ says."""
        return address < self.chip.start and address % self.chip.part.flash.page_bytes == 0


class HalfKay(_BlockLoader):
    """A Teensy in its HalfKay."""

    def __init__(self, chip: Chip, usb: UsbIdentity, *, at: float) -> None:
        block_bytes = _ADDRESS_BYTES + chip.part.flash.page_bytes
        facts = HidFacts(
            version=0x0100,
            release=0x0111,
            report=_report(0xFF9C, 0x1B, block_bytes),
            packet_bytes=32,
            endpoint_bytes=32,
            interval_ms=5,
        )
        self._is_erased = False
        super().__init__(chip, usb, facts, at=at)

    def _leave(self) -> None:
        self.departure = Departure(at=self.now + _DETACH_S, exit=Exit.APPLICATION)

    def _write(self, address: int, data: bytes) -> None:
        """Write a block; the first one since the loader began has it erase the application."""
        size = self.chip.part.flash.page_bytes
        if not self._is_erased:
            self._is_erased = True
            self.now = self.chip.erase_application(self.now)
            for page in range(self.chip.section.start, self.chip.start, size):
                self.now = self.chip.erase_page(page, self.now)
        if self._is_page(address):
            self.now = self.chip.write_page(address, data[:size].ljust(size, b"\xff"), self.now)


class LufaHid(_BlockLoader):
    """A board in LUFA's or QMK's HID bootloader. Pages that are not the application's are ignored."""

    def __init__(self, chip: Chip, usb: UsbIdentity, *, version: int, at: float) -> None:
        block_bytes = _ADDRESS_BYTES + chip.part.flash.page_bytes
        facts = HidFacts(
            version=version,
            release=0x0111,
            report=_report(0xFFDC, 0xFB, block_bytes),
            packet_bytes=8,
            endpoint_bytes=64,
            interval_ms=5,
        )
        super().__init__(chip, usb, facts, at=at)

    def _leave(self) -> None:
        """It leaves the bus, and 250 ms later its watchdog resets the chip; that wait is left out."""
        self.chip.ram[_LUFA_KEY_AT] = _LUFA_KEY
        self.departure = Departure(at=self.now + _DETACH_S, exit=Exit.RESET)

    def _write(self, address: int, data: bytes) -> None:
        size = self.chip.part.flash.page_bytes
        if not self._is_page(address):
            return
        if len(data) < size:
            raise HungError  # it reads a whole page, and waits for the rest
        self.now = self.chip.erase_page(address, self.now)
        self.now = self.chip.write_page(address, data[:size], self.now)


def _report(page: int, usage: int, count: int) -> bytes:
    """Return the descriptor of one output report of ``count`` bytes."""
    head = b"\x06" + page.to_bytes(2, "little") + bytes((0x09, usage, 0xA1, 0x01, 0x09, 0x02, 0x15, 0x00, 0x25, 0xFF))
    return head + b"\x75\x08\x96" + count.to_bytes(2, "little") + b"\x91\x02\xc0"
