"""Atmel's USB bootloaders for AVR: FLIP commands in DFU downloads, as the factory loader and LUFA's rebuild understand them.

Sources: Atmel 7618 (AVR USB DFU bootloader) and the exchanges of dfu-programmer with both; for LUFA and QMK
Bootloaders/DFU/BootloaderDFU.c and Descriptors.c. They differ where this module says so: protection after power-up, byte
order of a blank check's answer, unaligned blocks, descriptors, and a start by jump, which LUFA's only follows when there is
nothing to jump to.
"""

import struct
from enum import IntEnum

from ispd.model.span import Span
from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.board_chip import Chip
from vbench.board_face import Departure, Exit, Loader, LoaderStart, ResetFlag
from vbench.board_usb import ControlFace
from vbench.emulated import EmulatedFace
from vbench.usb_descriptors import Descriptors
from vbench.usb_device import StallError

__all__ = ["FlipDfu", "LufaDfu", "start_loader"]

_PACKET_BYTES = 32
_HEAD_BYTES = 32
"""Command of 6 bytes and 26 of filler in front of data."""
_CLASS_TO_INTERFACE = 0x21
_KIND_MASK = 0x7F
_SEGMENT_BYTES = 0x10000
_BLANK = 0xFF
_BLANK_CHECK_S_PER_BYTE = 1e-6
_WATCHDOG_S = 0.250
"""WDTO_250MS."""
_JUMP_S = 1e-3
"""The loader lets the bus settle before it leaves it."""
_DFU_FUNCTIONAL = 0x21
_PARTS = {
    "atmega16u4": "ATm16U4DFU",
    "atmega32u4": "ATm32U4DFU",
    "at90usb1286": "AT90USB128 DFU",
    "at90usb1287": "AT90USB128 DFU",
    "at90usb646": "AT90USB64 DFU",
    "at90usb647": "AT90USB64 DFU",
}
_KEY_AT, _KEY = 0x0100, 0xDC
"""LUFA's MagicBootKey in RAM; its real place is the linker's affair."""


class _State(IntEnum):
    """DFU states (USB DFU 1.1, chapter 6.1.2)."""

    IDLE = 2
    DOWNLOAD_IDLE = 5
    UPLOAD_IDLE = 9
    ERROR = 10


class _Status(IntEnum):
    """DFU status codes."""

    OK = 0
    WRITE = 3
    CHECK_ERASED = 5
    ADDRESS = 8


class FlipDfu(ControlFace):
    """The factory loader of a board; all times are bench seconds.

    After power-up it refuses everything but reads of its version and an erase, until an erase was carried out.
    """

    def __init__(self, chip: Chip, usb: UsbIdentity, *, at: float) -> None:
        self.chip = chip
        descriptors = self._describe(usb)
        super().__init__(usb, version=self._version(), at=at, descriptors=descriptors, packet_bytes=_PACKET_BYTES)
        self.is_protected = self._starts_protected()
        self.state = _State.IDLE
        self.status = _Status.OK
        self._segment = 0
        self._command = b""
        self._is_leaving = False
        self._answer_byte = 0
        self._not_blank = 0
        self._wanted = Span(0, 0)
        """What UPLOAD brings next, in the memory that was selected."""
        self._wants_eeprom = False

    # -- identity: what LUFA's has otherwise ---------------------------------------------------------------------------

    def _version(self) -> int:
        """Return bcdDevice."""
        return 0x0000

    def _describe(self, usb: UsbIdentity) -> Descriptors:
        interface = struct.pack("<9B", 9, 4, 0, 0, 0, 0, 0, 0, 0)
        return Descriptors(
            usb,
            version=self._version(),
            release=0x0100,
            usb_class=(0xFE, 0x01, 0),
            packet_bytes=_PACKET_BYTES,
            interfaces=interface,
        )

    @staticmethod
    def _starts_protected() -> bool:
        return True

    def _info(self) -> bytes:
        """Return the bootloader's version and its two id bytes."""
        return bytes((0x00, 0xDC, 0xFB))

    # -- DFU ---------------------------------------------------------------------------------------------------------

    def _request(self, transfer: ControlTransfer) -> bytes:
        if transfer.request_type & _KIND_MASK != _CLASS_TO_INTERFACE:
            raise StallError
        match transfer.request:
            case 1:
                self._download(transfer.data)
            case 2:
                return self._upload(transfer.length)
            case 3:
                return bytes((self.status, 0, 0, 0, self.state, 0))
            case 4:
                self._clear_status()
            case 5:
                return bytes((self.state,))
            case 6:
                self.state = _State.IDLE
            case _:
                raise StallError
        return b""

    def _clear_status(self) -> None:
        self.status = _Status.OK
        if self.state is _State.ERROR:
            self.state = _State.IDLE

    def _fail(self, status: _Status) -> None:
        self.status, self.state = status, _State.ERROR

    def _download(self, data: bytes) -> None:
        if not data:
            self._end_of_data()
            return
        self._command = data[:6].ljust(6, b"\0")
        if self.is_protected and not (data[0] == 5 or data[:3] == b"\x04\x00\xff"):
            self._fail(_Status.WRITE)
            raise StallError
        if self.state is _State.DOWNLOAD_IDLE:
            self.state = _State.IDLE
        match data[0]:
            case 1:
                self._write(data)
            case 3:
                self._select()
            case 4:
                self._carry_out()
            case 5:
                self._read_info()
            case 6 if self._command[1:3] == b"\x03\x00":
                self._segment = self._command[3]

    def _end_of_data(self) -> None:
        """An empty download ends a series of them, or starts what was asked to be started."""
        if self._is_leaving:
            self._leave()
        elif self.state is _State.DOWNLOAD_IDLE:
            self.state = _State.IDLE

    def _upload(self, length: int) -> bytes:
        if self.state is _State.UPLOAD_IDLE:
            span = Span(self._wanted.start, min(self._wanted.stop, self._wanted.start + length))
            self._wanted = Span(span.stop, self._wanted.stop)
            if not len(self._wanted):
                self.state = _State.IDLE
            return self.chip.read_eeprom(span) if self._wants_eeprom else self.chip.read_flash(span)
        if self.status is _Status.CHECK_ERASED:
            return self._first_not_blank()
        return bytes((self._answer_byte,))

    def _first_not_blank(self) -> bytes:
        return self._not_blank.to_bytes(2, "big")

    # -- FLIP commands -----------------------------------------------------------------------------------------------

    def _range(self) -> Span:
        """Return the addresses of a command, end included there, within the selected 64 KiB."""
        start, end = struct.unpack(">HH", self._command[2:6])
        return Span(start, max(start, end + 1))

    def _in_flash(self, span: Span) -> Span:
        base = self._segment * _SEGMENT_BYTES
        return Span(base + span.start, base + span.stop)

    def _select(self) -> None:
        span, memory = self._range(), self._command[1]
        match memory:
            case 0 | 2:
                self._wants_eeprom = memory == 2
                self._wanted = span if self._wants_eeprom else self._in_flash(span)
                self.state = _State.UPLOAD_IDLE
            case 1:
                self._check_blank(self._in_flash(span))

    def _check_blank(self, span: Span) -> None:
        cells = self.chip.read_flash(span)
        self.now += len(cells) * _BLANK_CHECK_S_PER_BYTE
        left = cells.lstrip(b"\xff")
        if left:
            self._not_blank = (span.stop - len(left)) % _SEGMENT_BYTES
            self._fail(_Status.CHECK_ERASED)

    def _write(self, data: bytes) -> None:
        span = self._range()
        filler = span.start % _PACKET_BYTES
        content = data[_HEAD_BYTES + filler : _HEAD_BYTES + filler + len(span)]
        if self._command[1] == 1:
            self.now = self.chip.write_eeprom(span.start, content, self.now)
        else:
            self._write_flash(self._in_flash(span).start, content)
        self.state = _State.DOWNLOAD_IDLE

    def _write_flash(self, start: int, content: bytes) -> None:
        """Write bytes; what lies around them in their pages stays. The loader's own section is refused."""
        if start + len(content) > self.chip.section.start:
            self._fail(_Status.ADDRESS)
            raise StallError
        size = self.chip.part.flash.page_bytes
        first = start // size * size
        stop = -(-(start + len(content)) // size) * size
        pages = bytearray(self.chip.read_flash(Span(first, stop)))
        pages[start - first : start - first + len(content)] = content
        for offset in range(0, len(pages), size):
            self.now = self.chip.erase_page(first + offset, self.now)
            self.now = self.chip.write_page(first + offset, bytes(pages[offset : offset + size]), self.now)

    def _carry_out(self) -> None:
        match self._command[1], self._command[2]:
            case 0, 0xFF:
                self.now = self.chip.erase_application(self.now)
                self.is_protected = False
            case 3, _:
                self._is_leaving = True

    def _leave(self) -> None:
        """Start the application, by the watchdog or by a jump; the device is gone before this transfer ends."""
        self.departure = Departure(at=self.now, exit=Exit.APPLICATION if self._command[2] == 1 else Exit.RESET)

    def _read_info(self) -> None:
        signature = self.chip.part.signature.value
        ids = dict(zip((0x30, 0x31, 0x60, 0x61), (0x58, *signature), strict=True))
        kind, index = self._command[1], self._command[2]
        info = dict(enumerate(self._info()))
        found = {0: info, 1: ids}.get(kind, {}).get(index)
        if found is None:
            self._fail(_Status.ADDRESS)
        else:
            self._answer_byte = found


class LufaDfu(FlipDfu):
    """LUFA's rebuild, and QMK's of that.

    :param is_qmk: QMK's: another bcdDevice, other texts.
    """

    def __init__(self, chip: Chip, usb: UsbIdentity, *, at: float, is_qmk: bool) -> None:
        self._is_qmk = is_qmk
        super().__init__(chip, usb, at=at)

    def _version(self) -> int:
        return 0x0936 if self._is_qmk else 0x0000

    def _describe(self, usb: UsbIdentity) -> Descriptors:
        interface = struct.pack("<9B", 9, 4, 0, 0, 0, 0xFE, 0x01, 0x02, 0)
        functional = struct.pack("<BBBHHH", 9, _DFU_FUNCTIONAL, 0x03, 0, 0x0C00, 0x0110)
        return Descriptors(
            usb,
            version=self._version(),
            usb_class=(0, 0, 0),
            packet_bytes=_PACKET_BYTES,
            interfaces=interface + functional,
        )

    @staticmethod
    def _starts_protected() -> bool:
        return False  # SECURE_MODE of its AppConfig.h

    def _info(self) -> bytes:
        return bytes((0x20, 0xDC, 0xFB))

    def _clear_status(self) -> None:
        self.status = _Status.OK  # the state is left to ABORT

    def _first_not_blank(self) -> bytes:
        return self._not_blank.to_bytes(2, "little")

    def _check_blank(self, span: Span) -> None:  # noqa: ARG002 - it looks at the whole application section
        super()._check_blank(Span(0, self.chip.section.start))

    def _write_flash(self, start: int, content: bytes) -> None:
        """Write page after page from ``start`` on, wherever in a page that is, and without a look at where its own section begins."""
        size = self.chip.part.flash.page_bytes
        for offset in range(0, len(content) & ~1, size):
            piece = content[offset : (offset + size) & ~1]
            buffer = bytearray([_BLANK]) * size
            for index, byte in enumerate(piece[: len(piece) & ~1]):
                buffer[(start + offset + index) % size] = byte
            self.now = self.chip.erase_page(start + offset, self.now)
            self.now = self.chip.write_page(start + offset, bytes(buffer), self.now)

    def _leave(self) -> None:
        if self._command[2] == 0:
            self.chip.ram[_KEY_AT] = _KEY
            self.departure = Departure(at=self.now + _WATCHDOG_S, exit=Exit.RESET)
        elif not self.chip.has_application():
            self.departure = Departure(at=self.now + _JUMP_S, exit=Exit.APPLICATION)
        self._is_leaving = False


class _Passing:
    """A loader that found the key of its last life: it goes on to the application at once."""

    face: EmulatedFace | None = None

    def __init__(self, at: float) -> None:
        self.departure = Departure(at=at, exit=Exit.APPLICATION)


def start_loader(chip: Chip, start: LoaderStart) -> Loader:
    """Begin to run: the factory loader for the variant ``atmel-dfu``, LUFA's for others."""
    usb = start.usb
    if start.variant == "atmel-dfu":
        product = _PARTS.get(chip.part.id, f"{chip.part.name} DFU")
        return FlipDfu(chip, _named(usb, "ATMEL", product, "1.0.0"), at=start.at)
    if chip.ram.pop(_KEY_AT, None) == _KEY and ResetFlag.WATCHDOG in start.flags:
        return _Passing(start.at)
    is_qmk = start.variant == "qmk-dfu"
    texts = ("QMK", "KB") if is_qmk else ("Dean Camera", f"{chip.part.name} DFU")
    return LufaDfu(chip, _named(usb, *texts, ""), at=start.at, is_qmk=is_qmk)


def _named(usb: UsbIdentity, manufacturer: str, product: str, serial: str) -> UsbIdentity:
    return UsbIdentity(
        vendor_id=usb.vendor_id,
        product_id=usb.product_id,
        manufacturer=manufacturer,
        product=product,
        serial=serial,
    )
