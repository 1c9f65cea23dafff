"""The STM32duino (Maple) bootloader of a Bluepill: DFU 1.1 that erases and programs inside GETSTATUS.

Source: dfu.c, main.c and usb.c of rogerclarkmelbourne/STM32duino-bootloader (generic_boot20_pc13). Any DFU request keeps it from
starting the application; a bus reset in any state but idle is a reset of the chip. vhci's host tells devices nothing of a bus
reset: it shows by the device descriptor, which the host reads anew after it and at no other time.
"""

from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.board_face import Departure, Exit
from vbench.board_usb import ControlFace
from vbench.dfu import DfuDescriptors, DfuFacts, Request, State, Status, status_reply
from vbench.emulated import ControlReply
from vbench.stm32 import APPLICATION, LEGACY_APPLICATION, Stm32Chip
from vbench.usb_device import StallError

__all__ = ["JUMP_NOW", "STAY", "USB", "WINDOW_S", "Stm32duino"]

USB = UsbIdentity(vendor_id=0x1EAF, product_id=0x0003, manufacturer="LeafLabs", product="Maple 003", serial="LLM 003")
"""The same serial number on every board."""
_VERSION = 0x0201
_TITLE = "STM32duino bootloader v1.0  "
_NAMES = (
    _TITLE + "ERROR. Upload to RAM not supported.",
    _TITLE + "Upload to Flash 0x8005000",
    _TITLE + "Upload to Flash 0x8002000",
)
STAY, JUMP_NOW = 0x424C, 0x424D
"""What the backup register DR10 says to the next start: wait for the host; the application has just been written."""
WINDOW_S = 1.35
"""Five fast and six slow blinks at 72 MHz, before it jumps to an application that is there."""
_BUFFER_BYTES = 2048
_PLACES = {1: LEGACY_APPLICATION, 2: APPLICATION}
"""Where an alternate setting writes, from the start of flash."""
_AFTER = {
    # what a request other than DNLOAD and UPLOAD leads to, by state; everything else is an error
    State.IDLE: {Request.ABORT: State.IDLE, Request.GETSTATUS: State.IDLE, Request.GETSTATE: State.IDLE},
    State.DNLOAD_SYNC: {Request.GETSTATUS: State.DNLOAD_IDLE, Request.GETSTATE: State.DNLOAD_SYNC},
    State.DNLOAD_IDLE: {Request.ABORT: State.IDLE, Request.GETSTATUS: State.IDLE, Request.GETSTATE: State.IDLE},
    State.MANIFEST_SYNC: {Request.GETSTATUS: State.MANIFEST_WAIT_RESET, Request.GETSTATE: State.MANIFEST_SYNC},
    State.MANIFEST_WAIT_RESET: dict.fromkeys(Request, State.MANIFEST_WAIT_RESET),
    State.UPLOAD_IDLE: {
        Request.ABORT: State.IDLE,
        Request.GETSTATUS: State.UPLOAD_IDLE,
        Request.GETSTATE: State.UPLOAD_IDLE,
    },
    State.ERROR: {Request.GETSTATUS: State.ERROR, Request.GETSTATE: State.ERROR, Request.CLRSTATUS: State.IDLE},
}


class Stm32duino(ControlFace):
    """A board in its STM32duino bootloader. All times are bench seconds.

    :param stays: no application is there, or something told it to wait: it does not leave by itself.
    """

    def __init__(self, chip: Stm32Chip, *, at: float, stays: bool, usb: UsbIdentity = USB) -> None:
        self.chip = chip
        self.state = State.IDLE
        self.alternate = 0
        self._status = Status.OK
        self._buffer = bytearray(_BUFFER_BYTES)
        self._block_bytes = 0
        self._place = 0
        self._offset = 0
        self._upload_bytes = 0
        facts = DfuFacts(
            version=_VERSION,
            usb_release=0x0100,
            release=0x0110,
            attributes=0x03,
            detach_ms=255,
            transfer_bytes=chip.page_bytes,
            names=_NAMES,
        )
        super().__init__(usb, version=_VERSION, at=at, descriptors=DfuDescriptors(usb, facts))
        if not stays:
            self.departure = Departure(at=at + WINDOW_S, exit=Exit.APPLICATION)

    # -- the bus -----------------------------------------------------------------------------------------------------

    def bus_reset(self, at: float) -> None:
        """The host reset the bus: from any state but idle that resets the chip, which is how a download ends."""
        if self.state is not State.IDLE and self.departure is None:
            self.departure = Departure(at=at, exit=Exit.RESET)

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out one transfer; see :class:`~vbench.board_usb.ControlFace`."""
        if (transfer.request_type, transfer.request, transfer.value) == (0x80, 0x06, 0x0100):
            self.bus_reset(at)
        return super().control(transfer, at)

    def _standard(self, transfer: ControlTransfer) -> bytes | None:
        match transfer.request:
            case 0x0B:  # SET_INTERFACE
                self.alternate = transfer.value
                return b"" if transfer.value < len(_NAMES) else None
            case 0x0A:  # GET_INTERFACE
                return bytes((self.alternate,))
        return super()._standard(transfer)

    # -- DFU ---------------------------------------------------------------------------------------------------------

    def _request(self, transfer: ControlTransfer) -> bytes:
        """``dfuUpdateByRequest``: the state moves on even where the request is refused."""
        if transfer.request_type & 0x7F != 0x21 or transfer.request > max(Request):
            raise StallError
        request = Request(transfer.request)
        self._stay()
        self._status = Status.OK
        was = self.state
        data = b""
        match was, request:
            case State.IDLE, Request.DNLOAD:
                self._begin_download(transfer)
            case State.IDLE | State.UPLOAD_IDLE, Request.UPLOAD:
                data = self._upload(transfer)
            case State.DNLOAD_IDLE, Request.DNLOAD:
                self.state = State.DNLOAD_SYNC if transfer.data else State.MANIFEST_SYNC
            case _:
                self.state = _AFTER[was].get(request, State.ERROR)
                if request not in _AFTER[was]:
                    self._status = Status.STALLEDPKT
        if self._status is not Status.OK:
            raise StallError
        return self._carry_out(request, was, transfer, data)

    def _carry_out(self, request: Request, was: State, transfer: ControlTransfer, data: bytes) -> bytes:
        """Do what follows an accepted request, and return the data of its answer."""
        if request is Request.DNLOAD and transfer.data:
            self._block_bytes = min(len(transfer.data), _BUFFER_BYTES)
            self._buffer[: self._block_bytes] = transfer.data[:_BUFFER_BYTES]
        elif request is Request.GETSTATUS:
            if was is State.DNLOAD_SYNC:
                self._write_block()
            data = status_reply(Status.OK, self.state)
        elif request is Request.GETSTATE:
            data = bytes((self.state,))
        return data

    def _stay(self) -> None:
        """The main loop never leaves once a request of the class was seen, whatever it was."""
        if self.departure is not None and self.departure.exit is Exit.APPLICATION:
            self.departure = None

    def _fail(self, status: Status) -> None:
        self.state, self._status = State.ERROR, status

    def _begin_download(self, transfer: ControlTransfer) -> None:
        if not transfer.data:
            self._fail(Status.NOTDONE)
        elif self.alternate not in _PLACES:
            self._fail(Status.WRITE)
        else:
            self.state = State.DNLOAD_SYNC
            self._place, self._offset = _PLACES[self.alternate], 0
            self.chip.dr10 = JUMP_NOW
            if self._place == LEGACY_APPLICATION:  # so that the next start sees which of the two is the newer
                self.now = self.chip.erase_page(APPLICATION, self.now)

    def _write_block(self) -> None:
        """``dfuCopyBufferToExec``: the page where the block begins is erased, then whole words are programmed."""
        start = self._place + self._offset
        if start + self._block_bytes > len(self.chip.flash):
            self.departure = Departure(at=self.now, exit=Exit.HANG)  # a bus fault
            return
        self.now = self.chip.erase_page(start, self.now)
        words = bytes(self._buffer[: self._block_bytes + 3 & ~3])
        self.now = self.chip.program(start, words, self.now)
        self._offset += self._block_bytes

    def _upload(self, transfer: ControlTransfer) -> bytes:
        is_first = self.state is State.IDLE
        if is_first:
            if self.alternate not in _PLACES:
                self._fail(Status.WRITE)
                return b""
            self._place, self._upload_bytes = _PLACES[self.alternate], transfer.length
        elif transfer.length == 0:
            self._fail(Status.NOTDONE)
            return b""
        offset = self._upload_bytes * transfer.value
        left = len(self.chip.flash) - self._place - offset
        count = self._upload_bytes
        self.state = State.UPLOAD_IDLE
        if not is_first and left < count:
            self.state = State.IDLE
            count = max(left, 0)
        start = self._place + offset
        return bytes(self.chip.flash[start : start + count])
