"""How dfu-programmer finds a device and speaks DFU to it, the same in all versions.

Numbers: USB DFU 1.1, tables 3.2 and A.1.2. A GETSTATUS that fails is taken for an answer, errUNKNOWN in dfuERROR.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vbench.tools.dfu_programmer_targets import ATMEL
from vbench.tools.dfu_programmer_words import Words
from vbench.tools.machine import ToolBench
from vbench.tools.usb_host import UsbError, UsbFailureError, UsbHandle, listed, open_device

__all__ = ["DfuError", "DfuFlip", "DfuState", "DfuStatus", "find_device"]

_OUT, _IN = 0x21, 0xA1
_DNLOAD, _UPLOAD, _GETSTATUS, _CLRSTATUS, _ABORT = 1, 2, 3, 4, 6
_TIMEOUT_S = 20.0
_STATUS_BYTES = 6
_TRIES = 4


class DfuState:
    """States the program tells apart."""

    IDLE = 2
    DNBUSY = 4
    ERROR = 10


class DfuError:
    """Status codes the program tells apart."""

    NONE = 0
    FILE = 2
    CHECK_ERASED = 5
    NOTDONE = 9
    UNKNOWN = 14


@dataclass(frozen=True, slots=True)
class DfuStatus:
    """Answer to GETSTATUS."""

    status: int
    state: int


class DfuFlip:
    """DFU requests to interface 0, numbered one after another as the program does."""

    def __init__(self, handle: UsbHandle) -> None:
        self.handle = handle
        self._transaction = 0

    async def download(self, data: bytes) -> int:
        """Send a command; return how many bytes were taken, or libusb's error number."""
        try:
            await self.handle.write(_OUT, _DNLOAD, self._next(), 0, data, _TIMEOUT_S)
        except UsbFailureError as failure:
            return failure.code
        return len(data)

    async def upload(self, length: int) -> bytes | UsbError:
        """Fetch data; return it, or libusb's error number."""
        try:
            return await self.handle.read(_IN, _UPLOAD, self._next(), 0, length, _TIMEOUT_S)
        except UsbFailureError as failure:
            return failure.code

    async def status(self) -> DfuStatus | None:
        """Ask for the status; None only where the answer came short."""
        try:
            found = await self.handle.read(_IN, _GETSTATUS, 0, 0, _STATUS_BYTES, _TIMEOUT_S)
        except UsbFailureError:
            found = b""
        if len(found) == _STATUS_BYTES:
            return DfuStatus(found[0], found[4])
        return None if found else DfuStatus(DfuError.UNKNOWN, DfuState.ERROR)

    async def clear_status(self) -> None:
        """Leave an error behind, if that works."""
        await self._plain(_CLRSTATUS)

    async def abort(self) -> None:
        """Give up what is under way, if that works."""
        await self._plain(_ABORT)

    async def make_idle(self) -> bool:
        """Bring the device to dfuIDLE without an error; False where it would not."""
        await self.abort()
        tries = _TRIES
        while tries > 0:
            found = await self.status()
            if found is None:
                await self.clear_status()
                continue
            if found.state == DfuState.IDLE and found.status == DfuError.NONE:
                return True
            if found.state in (DfuState.IDLE, DfuState.ERROR):
                await self.clear_status()
            else:
                await self.abort()
            tries -= 1
        return False

    async def _plain(self, request: int) -> None:
        try:
            await self.handle.write(_OUT, request, 0, 0, b"", _TIMEOUT_S)
        except UsbFailureError:
            return

    def _next(self) -> int:
        number, self._transaction = self._transaction, (self._transaction + 1) & 0xFFFF
        return number


async def find_device(bench: ToolBench, words: Words, keep: Callable[[UsbHandle], object]) -> DfuFlip | None:
    """Return the first fitting device that can be had and becomes idle; None where there is none.

    :param keep: gets each opened device at once, for closing it whatever happens.
    """
    for device in listed(bench):
        if device.usb.vendor_id != ATMEL or device.usb.product_id != words.target.product_id:
            continue
        if words.place[0] and words.place != (device.bus, device.address):
            continue
        try:
            handle = await open_device(bench, device)
        except UsbFailureError:
            continue
        keep(handle)
        flip = DfuFlip(handle)
        if await flip.make_idle():
            return flip
        await handle.close()
    return None
