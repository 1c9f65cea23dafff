"""A FLIP bootloader as small as it goes: only what programs are compared on, with the answers a test wants to see.

Its cells are what the loader sees: application flash and EEPROM. After Atmel's description of its USB loader and what LUFA's
does; the emulated board of the bench is another matter.
"""

import struct

from ispd.transport.contract import ControlTransfer, PortKind, UsbIdentity
from vbench.emulated import ControlReply
from vbench.usb_descriptors import Descriptors

__all__ = ["FlipDevice"]

IDLE, DNBUSY, ERROR = 2, 4, 10
OK, ERR_FILE, ERR_WRITE, ERR_CHECK_ERASED, ERR_ADDRESS, ERR_NOTDONE = 0, 2, 3, 5, 8, 9
_STAGE_S = 0.0002
_ERASE_S = 0.3


class FlipDevice:
    """One chip in its bootloader.

    :param keeps: bytes at the start of its flash that an erase leaves as they are, though it says that it went well.
    :param busy_polls: how often the status after an erase says that it is not done.
    :param erase_status: what the erase reports at last.
    :param is_protected: nothing but an erase and the version can be had before the first erase.
    :param is_unreadable: reading is refused.
    :param leaves: whether it is gone when the zero-length download of a start comes; else right after that.
    :param stuck: address of a cell that cannot be written.
    """

    port_kind = PortKind.USB

    def __init__(
        self,
        *,
        product_id: int = 0x2FF4,
        app_bytes: int = 0x7000,
        eeprom_bytes: int = 0x400,
        flash: bytes = b"",
        keeps: int = 0,
        busy_polls: int = 0,
        erase_status: int = OK,
        is_protected: bool = False,
        is_unreadable: bool = False,
        leaves: bool = True,
        stuck: int | None = None,
    ) -> None:
        self.usb = UsbIdentity(vendor_id=0x03EB, product_id=product_id, manufacturer="ATMEL", product="DFU")
        self.version = 0
        self.descriptors = Descriptors(self.usb, version=0)
        self.power_lost_at: float | None = None
        self.heard: list[ControlTransfer] = []
        """Requests of its class so far."""
        self.flash = bytearray(flash.ljust(app_bytes, b"\xff"))
        self.eeprom = bytearray(b"\xff" * eeprom_bytes)
        self.erases = 0
        self._keeps = keeps
        self._busy_polls = busy_polls
        self._erase_status = erase_status
        self._is_protected = is_protected
        self._is_unreadable = is_unreadable
        self._leaves = leaves
        self._stuck = stuck
        self._status, self._state = OK, IDLE
        self._page = 0
        self._upload = b""
        self._polls_left = 0
        self._is_starting = False

    def run(self, now: float) -> None:
        """Nothing happens between transfers."""

    def power_off(self, at: float) -> None:
        """The plug is pulled."""
        self.power_lost_at = at

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out one transfer."""
        if transfer.request_type & 0x60:
            self.heard.append(transfer)
        if transfer.request_type & 0x60 == 0:
            data = self.descriptors.answer(transfer)
            return ControlReply(ends_at=at + _STAGE_S, data=data or b"", stalled=data is None)
        match transfer.request:
            case 1:
                return self._download(transfer.data, at)
            case 2:
                return self._give(transfer.length, at)
            case 3:
                return ControlReply(ends_at=at + _STAGE_S, data=self._report())
            case 4 | 6:
                self._status, self._state = OK, IDLE
                return ControlReply(ends_at=at + _STAGE_S)
            case _:
                return ControlReply(ends_at=at + _STAGE_S, stalled=True)

    def _report(self) -> bytes:
        if self._polls_left > 0:
            self._polls_left -= 1
            return bytes((ERR_NOTDONE, 0, 0, 0, DNBUSY, 0))
        return bytes((self._status, 0, 0, 0, self._state, 0))

    def _refuse(self, status: int, at: float, *, stalled: bool = True) -> ControlReply:
        self._status, self._state = status, ERROR
        return ControlReply(ends_at=at + _STAGE_S, stalled=stalled)

    def _download(self, data: bytes, at: float) -> ControlReply:
        ends_at = at + _STAGE_S * (2 + len(data) // 32)
        if self._is_starting:
            self.power_lost_at = at
            return ControlReply(ends_at=ends_at)
        if self._is_forbidden(data):
            return self._refuse(ERR_WRITE, at)
        match data[:2]:
            case b"\x04\x00":
                self._erase()
                ends_at += _ERASE_S
            case b"\x04\x03":
                self._is_starting = self._leaves
            case b"\x06\x03":
                self._page = data[3]
            case b"\x03\x01":
                self._blank_check(*struct.unpack(">HH", data[2:6]))
            case b"\x03\x00" | b"\x03\x02":
                self._select(self.flash if data[1] == 0 else self.eeprom, *struct.unpack(">HH", data[2:6]))
            case b"\x01\x00" | b"\x01\x01":
                return ControlReply(ends_at=ends_at) if self._write(data) else self._refuse(ERR_ADDRESS, at)
            case _ if data[:1] == b"\x05":
                known = {(0, 0): 0x20, (0, 1): 0xDC, (0, 2): 0xFB, (1, 0x30): 0x58, (1, 0x31): 0x95}
                self._upload = bytes((known.get((data[1], data[2]), 0x87),))
        return ControlReply(ends_at=ends_at)

    def _is_forbidden(self, data: bytes) -> bool:
        """Whether a protected chip refuses a command: all but versions, pages, erasing, leaving."""
        return self._is_protected and data[:1] not in (b"\x05", b"\x06") and data[:2] not in (b"\x04\x00", b"\x04\x03")

    def _erase(self) -> None:
        self.erases += 1
        self._is_protected = False
        self.flash[self._keeps :] = b"\xff" * (len(self.flash) - self._keeps)
        self._status, self._state = self._erase_status, IDLE
        self._polls_left = self._busy_polls

    def _blank_check(self, start: int, end: int) -> None:
        base = self._page << 16
        section = self.flash[base + start : base + end + 1]
        first = next((at for at, cell in enumerate(section, start) if cell != 0xFF), None)
        if first is not None:
            self._status, self._state = ERR_CHECK_ERASED, IDLE
            self._upload = first.to_bytes(2)

    def _select(self, memory: bytearray, start: int, end: int) -> None:
        base = self._page << 16
        self._upload = bytes(memory[base + start : base + end + 1])

    def _write(self, data: bytes) -> bool:
        memory = self.flash if data[1] == 0 else self.eeprom
        start, end = struct.unpack(">HH", data[2:6])
        start, end = start + (self._page << 16), end + (self._page << 16)
        if end >= len(memory):
            return False
        for address, value in enumerate(data[32 : 32 + end - start + 1], start):
            if address != self._stuck:
                memory[address] = memory[address] & value if memory is self.flash else value
        return True

    def _give(self, length: int, at: float) -> ControlReply:
        if self._is_unreadable and len(self._upload) > 2:
            return self._refuse(ERR_FILE, at)
        data, self._upload = self._upload[:length], b""
        return ControlReply(ends_at=at + _STAGE_S * (2 + len(data) // 32), data=data)
