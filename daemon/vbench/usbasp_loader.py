"""USBaspLoader: a bootloader that shows the ids and texts of a USBasp and flashes the very chip it runs on.

Source: baerwolf/USBaspLoader eae41bc, firmware/main.c. It answers a USBasp's requests out of its own knowledge: nothing is
clocked anywhere, so no reply holds an echo. A programmer's driver that writes to it writes into a keyboard.
"""

from collections.abc import Sequence

from ispd.model.part import MemoryKind, Part
from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.faults import UsbFault
from vbench.usb_device import TAU_S, HungError, UsbDevice

__all__ = ["UsbAspLoader"]

_LOADER_BYTES = 2048
"""The usual boot section; the loader refuses to write into it."""
_PAGE_WRITE_S = 9e-3
"""Erase and write of one page by the chip itself, 4.5 ms at most each."""
_EEPROM_WRITE_S = 9e-3
_ERASE_PAGE_S = 4.5e-3
_FLAG_LAST = 0x02
_FUSES = {
    (0x50, 0x00): MemoryKind.LFUSE,
    (0x58, 0x08): MemoryKind.HFUSE,
    (0x50, 0x08): MemoryKind.EFUSE,
    (0x58, 0x00): MemoryKind.LOCK,
}


class UsbAspLoader(UsbDevice):
    """A board in its USBaspLoader. Its header is empty: the chip that answers is the board's own.

    ``writes`` counts the requests that changed something: blocks of flash or EEPROM, single EEPROM bytes, erases.
    ``disconnects`` counts those after which the real thing may start its application.
    """

    def __init__(self, part: Part, *, tau_s: float = TAU_S, faults: Sequence[UsbFault] = ()) -> None:
        self.part = part
        self.flash = bytearray(b"\xff" * part.flash.size_bytes)
        self.eeprom = bytearray(b"\xff" * part.eeprom.size_bytes)
        self.writes = self.disconnects = 0
        self._page = bytearray(b"\xff" * part.flash.page_bytes)
        self._limit = part.flash.size_bytes - _LOADER_BYTES
        super().__init__(
            UsbIdentity(vendor_id=0x16C0, product_id=0x05DC, manufacturer="www.fischl.de", product="USBasp"),
            version=0x0102,
            target=None,
            tau_s=tau_s,
            faults=faults,
        )

    def _start(self) -> None:
        self._address = 0

    def _request(self, transfer: ControlTransfer) -> bytes:
        """``usbFunctionSetup``; CONNECT and whatever it does not know answer nothing."""
        value, index = transfer.value, transfer.index
        match transfer.request:
            case 2:  # DISCONNECT
                self.disconnects += 1
                answer = b""
            case 3:  # TRANSMIT
                value = self._pretend(value & 0xFF, value >> 8, index & 0xFF, index >> 8)
                answer = bytes((0, 0, 0, value))
            case 5 | 10:  # ENABLEPROG, SETISPSCK: always well
                answer = b"\x00"
            case 9:  # SETLONGADDRESS
                self._address = value | index << 16
                answer = b""
            case 4 | 7:
                self._take_address(value)
                return self._read(transfer)
            case 6 | 8:
                self._take_address(value)
                return self._write(transfer)
            case _:
                answer = b""
        return self._reply(transfer, answer)

    def _take_address(self, value: int) -> None:
        """Set the low 16 bits; the others come from SETLONGADDRESS, and parts up to 64 KiB have none."""
        high = self._address & ~0xFFFF if len(self.flash) > 0x10000 else 0
        self._address = high | value

    def _pretend(self, b1: int, b2: int, b3: int, b4: int) -> int:
        """Answer an ISP instruction as far as the loader knows it, 0 otherwise."""
        address = b2 << 8 | b3
        match b1:
            case 0x30:
                return bytes((*self.part.signature.value, 0))[b3 & 3]
            case 0x20 | 0x28:
                return self.flash[(address << 1 | b1 >> 3 & 1) % len(self.flash)]
            case 0x50 | 0x58:
                return self._fuse(_FUSES.get((b1, b2)))
            case 0xA0:
                return self.eeprom[address % len(self.eeprom)]
            case 0xC0:
                self.writes += 1
                self.eeprom[address % len(self.eeprom)] = b4
                self.now += _EEPROM_WRITE_S
            case 0xAC if b2 == 0x80:
                self.writes += 1
                self.flash[: self._limit] = b"\xff" * self._limit
                self.now += _ERASE_PAGE_S * self._limit / len(self._page)
        return 0

    def _fuse(self, memory: MemoryKind | None) -> int:
        """Fuse and lock bytes as the chip itself reads them; it has its factory's."""
        fuse = None if memory is None else self.part.fuse(memory)
        if fuse is not None:
            return fuse.default
        return 0xFF if memory is MemoryKind.LOCK else 0

    def _read(self, transfer: ControlTransfer) -> bytes:
        length = transfer.length & 0xFF
        if length == 0xFF:
            raise HungError  # V-USB's mark for "no message"
        cells = self.flash if transfer.request == 4 else self.eeprom
        data = bytes(cells[(self._address + offset) % len(cells)] for offset in range(length))
        self._address += length
        return self._reply(transfer, data)

    def _write(self, transfer: ControlTransfer) -> bytes:
        if not transfer.data:
            raise HungError  # it waits for data before it lets the status stage through
        self.writes += 1
        for packet in self._packets(transfer.data[: len(transfer.data) & 0xFF]):  # it counts in a byte
            for byte in packet:
                if transfer.request == 8:
                    self.eeprom[self._address % len(self.eeprom)] = byte
                    self._address += 1
                    self.now += _EEPROM_WRITE_S
                else:
                    self._fill(byte)
        pending = self._address % len(self._page) != 0
        if transfer.request == 6 and transfer.index >> 8 & _FLAG_LAST and pending:
            self._write_page(self._address - 1)
        return b""

    def _fill(self, byte: int) -> None:
        if self._address < self._limit:
            self._page[self._address % len(self._page)] = byte
            self._address += 1
            if self._address % len(self._page) == 0:
                self._write_page(self._address - 1)

    def _write_page(self, address: int) -> None:
        start = address // len(self._page) * len(self._page)
        self.flash[start : start + len(self._page)] = self._page
        self._page[:] = b"\xff" * len(self._page)
        self.now += _PAGE_WRITE_S
