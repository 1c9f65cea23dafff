"""USBaspLoader: a bootloader that shows the ids and texts of a USBasp and flashes the very chip it runs on.

Source: baerwolf/USBaspLoader eae41bc, firmware/main.c. It answers a USBasp's requests out of its own knowledge: nothing is
clocked anywhere, so no reply holds an echo. A programmer's driver that writes to it writes into a keyboard. It stays while a
button is held at a reset; the boards of the bench hold it while the chip is blank.
"""

from collections.abc import Sequence
from dataclasses import replace

from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import Departure, Exit, Loader, LoaderStart
from vbench.board_usb import ControlFace
from vbench.bypass import to_application
from vbench.faults import UsbFault
from vbench.target import AvrTarget
from vbench.usb_descriptors import Descriptors
from vbench.usb_device import PACKET_BYTES, TAU_S, HungError, UsbDevice

__all__ = ["UsbAspLoader", "UsbAspLoaderFace", "start_loader"]

_LOADER_BYTES = 2048
"""The usual boot section; the loader refuses to write into it."""
_VERSION = 0x0102
"""bcdDevice."""
_MANUFACTURER, _PRODUCT = "www.fischl.de", "USBasp"
_FLAG_LAST = 0x02
_FUSES = {
    (0x50, 0x00): MemoryKind.LFUSE,
    (0x58, 0x08): MemoryKind.HFUSE,
    (0x50, 0x08): MemoryKind.EFUSE,
    (0x58, 0x00): MemoryKind.LOCK,
}


def start_loader(chip: Chip, start: LoaderStart) -> Loader:
    """Begin to run: the application where there is one."""
    if chip.has_application():
        return to_application(start.at)
    return UsbAspLoaderFace(chip, replace(start.usb, manufacturer=_MANUFACTURER, product=_PRODUCT), at=start.at)


class UsbAspLoader(UsbDevice):
    """A device on a USB port that is a board in its USBaspLoader, taken for a programmer by its identity.

    Its header is empty: the chip that answers is the board's own. ``writes`` counts the requests that changed something: blocks
    of flash or EEPROM, single EEPROM bytes, erases. ``disconnects`` counts those after which the real thing may start its application.
    """

    def __init__(self, part: AvrPart, *, tau_s: float = TAU_S, faults: Sequence[UsbFault] = ()) -> None:
        size = part.flash.size_bytes
        section = Span(size - _LOADER_BYTES, size)
        self.chip = Chip(AvrTarget(part), section=section, start=section.start, ram={})
        self._requests = _Requests(self.chip)
        usb = UsbIdentity(vendor_id=0x16C0, product_id=0x05DC, manufacturer=_MANUFACTURER, product=_PRODUCT)
        super().__init__(usb, version=_VERSION, target=None, tau_s=tau_s, faults=faults)

    @property
    def flash(self) -> bytearray:
        """Cells of the board's own flash."""
        return self.chip.target.flash

    @property
    def eeprom(self) -> bytearray:
        """Cells of the board's own EEPROM."""
        return self.chip.target.eeprom

    @property
    def writes(self) -> int:
        """Requests that changed something."""
        return self._requests.writes

    @property
    def disconnects(self) -> int:
        """Requests to disconnect."""
        return self._requests.disconnects

    def _start(self) -> None:
        self._requests.start()

    def _request(self, transfer: ControlTransfer) -> bytes:
        for _ in self._packets(transfer.data):
            pass  # the work comes between them, and takes as long when it comes after
        data, self.now = self._requests.carry_out(transfer, self.now)
        return self._reply(transfer, data)


class UsbAspLoaderFace(ControlFace):
    """A board in its USBaspLoader, on the cells that its programmer sees."""

    def __init__(self, chip: Chip, usb: UsbIdentity, *, at: float) -> None:
        self._requests = _Requests(chip)
        super().__init__(
            usb,
            version=_VERSION,
            at=at,
            descriptors=Descriptors(usb, version=_VERSION),
            packet_bytes=PACKET_BYTES,
        )

    def _request(self, transfer: ControlTransfer) -> bytes:
        data, self.now = self._requests.carry_out(transfer, self.now)
        if self._requests.is_over:
            self.departure = Departure(at=self.now + 2 * self.tau_s, exit=Exit.APPLICATION)
        return data


class _Requests:
    """What the firmware does with the requests of a host, on whatever bus they came."""

    def __init__(self, chip: Chip) -> None:
        self.writes = self.disconnects = 0
        self.is_over = False
        """Whether it is about to start the application."""
        self._chip = chip
        self._limit = chip.section.start
        self._page = bytearray(b"\xff") * chip.part.flash.page_bytes
        self.start()

    def start(self) -> None:
        """Begin anew, as after a reset."""
        self._now = 0.0
        self._address = 0
        self._is_asked_to_leave = False

    def carry_out(self, transfer: ControlTransfer, now: float) -> tuple[bytes, float]:
        """``usbFunctionSetup``; CONNECT and whatever it does not know answer nothing. Returns the answer, and when its work is done."""
        self._now = now
        value, index = transfer.value, transfer.index
        answer = b""
        match transfer.request:
            case 2:  # DISCONNECT
                self.disconnects += 1
                self.is_over = self._is_asked_to_leave
            case 3:  # TRANSMIT
                told = self._pretend(value & 0xFF, value >> 8, index & 0xFF, index >> 8)
                answer = bytes((0, 0, 0, told))
            case 5 | 10:  # ENABLEPROG, SETISPSCK: always well
                answer = b"\x00"
            case 9:  # SETLONGADDRESS
                self._address = value | index << 16
            case 4 | 7:
                self._take_address(value)
                answer = self._read(transfer)
            case 6 | 8:
                self._take_address(value)
                self._write(transfer)
        return answer, self._now

    def _take_address(self, value: int) -> None:
        """Set the low 16 bits; the others come from SETLONGADDRESS, and parts up to 64 KiB have none."""
        high = self._address & ~0xFFFF if self._chip.part.flash.size_bytes > 0x10000 else 0
        self._address = high | value

    def _pretend(self, b1: int, b2: int, b3: int, b4: int) -> int:
        """Answer an ISP instruction as far as the loader knows it, 0 otherwise."""
        address = b2 << 8 | b3
        match b1:
            case 0x30:
                return bytes((*self._chip.part.signature.value, 0))[b3 & 3]
            case 0x20 | 0x28:
                cell = address << 1 | b1 >> 3 & 1
                return self._chip.read_flash(Span(cell, cell + 1))[0]
            case 0x50 | 0x58:
                return self._fuse(_FUSES.get((b1, b2)))
            case 0xA0:
                return self._chip.read_eeprom(Span(address, address + 1))[0]
            case 0xC0:
                self.writes += 1
                self._now = self._chip.write_eeprom(address, bytes((b4,)), self._now)
            case 0xAC if b2 == 0x80:
                self.writes += 1
                self._now = self._chip.erase_application(self._now)
            case 0xFF:  # HAVE_BOOTLOADER_HIDDENEXITCOMMAND: a disconnect ends the loader from now on
                self._is_asked_to_leave = True
        return 0

    def _fuse(self, memory: MemoryKind | None) -> int:
        """Fuse and lock bytes as the chip itself reads them."""
        if memory is MemoryKind.LOCK:
            return self._chip.lock
        if memory is None or self._chip.part.fuse(memory) is None:
            return 0
        return self._chip.fuse(memory)

    def _read(self, transfer: ControlTransfer) -> bytes:
        length = transfer.length & 0xFF
        if length == 0xFF:
            raise HungError  # V-USB's mark for "no message"
        span = Span(self._address, self._address + length)
        self._address += length
        return self._chip.read_flash(span) if transfer.request == 4 else self._chip.read_eeprom(span)

    def _write(self, transfer: ControlTransfer) -> None:
        if not transfer.data:
            raise HungError  # it waits for data before it lets the status stage through
        self.writes += 1
        data = transfer.data[: len(transfer.data) & 0xFF]  # it counts in a byte
        if transfer.request == 8:
            self._now = self._chip.write_eeprom(self._address, data, self._now)
            self._address += len(data)
            return
        for byte in data:
            self._fill(byte)
        if transfer.index >> 8 & _FLAG_LAST and self._address % len(self._page) != 0:
            self._write_page(self._address - 1)

    def _fill(self, byte: int) -> None:
        if self._address < self._limit:
            self._page[self._address % len(self._page)] = byte
            self._address += 1
            if self._address % len(self._page) == 0:
                self._write_page(self._address - 1)

    def _write_page(self, address: int) -> None:
        self._now = self._chip.erase_page(address, self._now)
        self._now = self._chip.write_page(address, bytes(self._page), self._now)
        self._page[:] = b"\xff" * len(self._page)
