"""The USB bootloader in the ROM of many STM32: DFU with ST's commands for addresses (DfuSe, bcdDFU 011A).

Sources: UM0424 (DfuSe), AN3156 (USB DFU protocol used in the STM32 bootloader), and dfu-util's dfuse.c. The first GETSTATUS after a
command or a block starts the work and says "busy"; the next one waits until it is done.
"""

from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.board_face import Departure, Exit
from vbench.board_usb import ControlFace
from vbench.dfu import DfuDescriptors, DfuFacts, Request, State, Status, status_reply
from vbench.stm32 import Stm32Chip
from vbench.usb_device import StallError

__all__ = ["ROM_USB", "DfuSe"]

ROM_USB = UsbIdentity(
    vendor_id=0x0483, product_id=0xDF11, manufacturer="STMicroelectronics", product="STM32  BOOTLOADER"
)
_VERSION = 0x2200
_FLASH_BASE = 0x0800_0000
_TRANSFER_BYTES = 2048
_SET_ADDRESS, _ERASE, _UNPROTECT = 0x21, 0x41, 0x92
_COMMANDS = bytes((0x00, _SET_ADDRESS, _ERASE, _UNPROTECT))
"""What UPLOAD of block 0 tells: Get and the others."""
_FIRST_DATA = 2
"""Number of the block that lies at the address pointer."""
_LEAVES_S = 5e-3
"""Between the last answer and the jump."""


class DfuSe(ControlFace):
    """A chip in its ROM's bootloader. All times are bench seconds."""

    def __init__(self, chip: Stm32Chip, usb: UsbIdentity, *, at: float) -> None:
        self.chip = chip
        self.state = State.IDLE
        self.pointer = _FLASH_BASE
        self._status = Status.OK
        self._alternate = 0
        self._pending: tuple[int, bytes] | None = None
        self._done_at = at
        pages = len(chip.flash) // chip.page_bytes
        facts = DfuFacts(
            version=_VERSION,
            usb_release=0x0200,
            release=0x011A,
            attributes=0x0B,
            detach_ms=255,
            transfer_bytes=_TRANSFER_BYTES,
            names=(
                f"@Internal Flash  /0x{_FLASH_BASE:08X}/{pages:03d}*{chip.page_bytes // 1024:04d}Kg",
                "@Option Bytes  /0x1FFFF800/01*016 e",
            ),
        )
        super().__init__(usb, version=_VERSION, at=at, descriptors=DfuDescriptors(usb, facts))

    def _standard(self, transfer: ControlTransfer) -> bytes | None:
        match transfer.request:
            case 0x0B:  # SET_INTERFACE
                self._alternate = transfer.value
                return b"" if transfer.value in (0, 1) else None
            case 0x0A:  # GET_INTERFACE
                return bytes((self._alternate,))
        return super()._standard(transfer)

    def _request(self, transfer: ControlTransfer) -> bytes:
        if transfer.request_type & 0x7F != 0x21 or transfer.request > max(Request):
            raise StallError
        match Request(transfer.request):
            case Request.GETSTATUS:
                return self._tell()
            case Request.GETSTATE:
                return bytes((self.state,))
            case Request.ABORT | Request.CLRSTATUS:
                self.state, self._status, self._pending = State.IDLE, Status.OK, None
                return b""
            case Request.DNLOAD if self.state in (State.IDLE, State.DNLOAD_IDLE):
                self._take(transfer)
                return b""
            case Request.UPLOAD if self.state in (State.IDLE, State.UPLOAD_IDLE):
                return self._upload(transfer)
        self.state, self._status = State.ERROR, Status.STALLEDPKT
        raise StallError

    def _take(self, transfer: ControlTransfer) -> None:
        """Keep a command or a block until the host asks for the status; nothing in it means to leave."""
        if transfer.data:
            self._pending = (transfer.value, transfer.data)
            self.state = State.DNLOAD_SYNC
        else:
            self.state = State.MANIFEST_SYNC

    def _tell(self) -> bytes:
        poll_ms = 0
        match self.state:
            case State.DNLOAD_SYNC:
                self._begin()
                poll_ms = round((self._done_at - self.now) * 1e3)
            case State.DNBUSY:
                self.now = max(self.now, self._done_at)
                self.state = State.DNLOAD_IDLE if self._status is Status.OK else State.ERROR
            case State.MANIFEST_SYNC:
                self.state = State.MANIFEST
                self.departure = Departure(at=self.now + _LEAVES_S, exit=Exit.APPLICATION)
        return status_reply(self._status if self.state is State.ERROR else Status.OK, self.state, poll_ms=poll_ms)

    # -- work --------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start what was asked for; whether it went well is told by the next answer."""
        number, data = self._pending or (0, b"")
        self._pending = None
        self.state = State.DNBUSY
        self._status = Status.OK
        self._done_at = self.now
        if self._alternate:
            self._status = Status.TARGET
        elif number:
            self._program(self.pointer + (number - _FIRST_DATA) * _TRANSFER_BYTES, data)
        else:
            self._command(data)

    def _command(self, data: bytes) -> None:
        argument = int.from_bytes(data[1:], "little")
        is_mapped = argument - _FLASH_BASE in range(len(self.chip.flash))
        match data[0], len(data) - 1:
            case 0x21, 4 if is_mapped:  # set the address pointer
                self.pointer = argument
            case 0x41, 4 if is_mapped:  # erase a page
                self._done_at = self.chip.erase_page(argument - _FLASH_BASE, self.now)
            case 0x41 | 0x92, 0:  # erase everything; read unprotect does that too, and resets the chip
                for start in range(0, len(self.chip.flash), self.chip.page_bytes):
                    done_at = self.chip.erase_page(start, self.now)
                    self._done_at = done_at  # all at once: it takes as long as one page
                if data[0] == _UNPROTECT:
                    self.departure = Departure(at=self._done_at, exit=Exit.RESET)
            case _:
                self._status = Status.TARGET

    def _program(self, address: int, data: bytes) -> None:
        start = address - _FLASH_BASE
        if start < 0 or start + len(data) > len(self.chip.flash):
            self._status = Status.TARGET
            return
        padded = data + b"\xff" * (len(data) % 2)
        self._done_at = self.chip.program(start, padded, self.now)

    def _upload(self, transfer: ControlTransfer) -> bytes:
        self.state = State.UPLOAD_IDLE
        if transfer.value == 0:
            return _COMMANDS
        start = self.pointer - _FLASH_BASE + (transfer.value - _FIRST_DATA) * _TRANSFER_BYTES
        if self._alternate or start not in range(len(self.chip.flash)):
            self.state, self._status = State.ERROR, Status.TARGET
            raise StallError
        data = bytes(self.chip.flash[start : start + transfer.length])
        if len(data) < transfer.length:
            self.state = State.IDLE
        return data
