"""What dfu-util 0.11 does with a device it has opened: DFU requests, and transfers of plain DFU."""

from dataclasses import dataclass

from vbench.tools.dfu_util_file import Bar, DfuFile
from vbench.tools.dfu_util_find import DfuInterface
from vbench.tools.dfu_util_words import ExitCode, ExitError
from vbench.tools.machine import Process
from vbench.tools.usb_host import UsbFailureError, UsbHandle

__all__ = ["DfuSession", "State", "Status"]

_OUT, _IN = 0x21, 0xA1
_DETACH, _DNLOAD, _UPLOAD, _GETSTATUS, _CLRSTATUS, _ABORT = 0, 1, 2, 3, 4, 6
_TIMEOUT_S = 5.0
_STATUS_BYTES = 6
_MANIFEST_S = 1.0
_STATES = (
    *("appIDLE", "appDETACH", "dfuIDLE", "dfuDNLOAD-SYNC", "dfuDNBUSY", "dfuDNLOAD-IDLE", "dfuMANIFEST-SYNC"),
    *("dfuMANIFEST", "dfuMANIFEST-WAIT-RESET", "dfuUPLOAD-IDLE", "dfuERROR"),
)
_STATUSES = (
    "No error condition is present",
    "File is not targeted for use by this device",
    "File is for this device but fails some vendor-specific test",
    "Device is unable to write memory",
    "Memory erase function failed",
    "Memory erase check failed",
    "Program memory function failed",
    "Programmed memory failed verification",
    "Cannot program memory due to received address that is out of range",
    "Received DFU_DNLOAD with wLength = 0, but device does not think that it has all data yet",
    "Device's firmware is corrupt. It cannot return to run-time (non-DFU) operations",
    "iString indicates a vendor specific error",
    "Device detected unexpected USB reset signalling",
    "Device detected unexpected power on reset",
    "Something went wrong, but the device does not know what it was",
    "Device stalled an unexpected request",
)


class State:
    """DFU states (USB DFU 1.1, A.1.2) that the program tells apart."""

    APP_IDLE, APP_DETACH, IDLE, DNBUSY, DNLOAD_IDLE = 0, 1, 2, 4, 5
    MANIFEST_SYNC, MANIFEST, MANIFEST_WAIT_RESET, UPLOAD_IDLE, ERROR = 6, 7, 8, 9, 10


@dataclass(frozen=True, slots=True)
class Status:
    """Answer to GETSTATUS."""

    status: int
    poll_s: float
    state: int

    def __str__(self) -> str:
        state = _STATES[self.state] if self.state < len(_STATES) else "(null)"
        status = _STATUSES[self.status] if self.status < len(_STATUSES) else "INVALID"
        return f"DFU state({self.state}) = {state}, status({self.status}) = {status}"

    @property
    def state_name(self) -> str:
        """Name of the state."""
        return _STATES[self.state] if self.state < len(_STATES) else "(null)"

    @property
    def status_name(self) -> str:
        """What the status means."""
        return _STATUSES[self.status] if self.status < len(_STATUSES) else "INVALID"


class DfuSession:
    """An open device."""

    def __init__(self, process: Process, interface: DfuInterface, handle: UsbHandle) -> None:
        self.process = process
        self.interface = interface
        self.handle = handle
        self.bar = Bar(process)

    # -- words -----------------------------------------------------------------------------------------------------

    def warn(self, text: str) -> None:
        """Say something on standard error."""
        self.process.err(f"dfu-util: {text}\n")

    def fail(self, code: int, text: str) -> ExitError:
        """Say something on standard error; return the error that ends the program."""
        self.warn(text)
        return ExitError(code)

    # -- requests --------------------------------------------------------------------------------------------------

    async def status(self) -> Status:
        """Ask for the status. Raises ``UsbFailureError``."""
        found = await self.handle.read(_IN, _GETSTATUS, 0, self.interface.interface, _STATUS_BYTES, _TIMEOUT_S)
        if len(found) != _STATUS_BYTES:
            return Status(14, 0.0, State.ERROR)
        return Status(found[0], int.from_bytes(found[1:4], "little") / 1000, found[4])

    async def download(self, data: bytes, block: int) -> None:
        """Send a block. Raises ``UsbFailureError``."""
        await self.handle.write(_OUT, _DNLOAD, block, self.interface.interface, data, _TIMEOUT_S)

    async def upload(self, length: int, block: int) -> bytes:
        """Fetch a block. Raises ``UsbFailureError``."""
        return await self.handle.read(_IN, _UPLOAD, block & 0xFFFF, self.interface.interface, length, _TIMEOUT_S)

    async def detach(self) -> bool:
        """Ask it to change its mode; False where it would not."""
        return await self._plain(_DETACH, 1000)

    async def clear_status(self) -> bool:
        """Clear an error; False where that failed."""
        return await self._plain(_CLRSTATUS)

    async def abort(self) -> bool:
        """Give up a transfer; False where that failed."""
        return await self._plain(_ABORT)

    async def abort_to_idle(self) -> None:
        """Give up a transfer and see that it is idle. Raises ``ExitError``."""
        if not await self.abort():
            raise self.fail(ExitCode.IO, "Error sending dfu abort request")
        try:
            found = await self.status()
        except UsbFailureError:
            raise self.fail(ExitCode.IO, "Error during abort get_status") from None
        if found.state != State.IDLE:
            raise self.fail(ExitCode.IO, "Failed to enter idle state on abort")
        await self.process.bench.sleep(found.poll_s)

    async def _plain(self, request: int, value: int = 0) -> bool:
        try:
            await self.handle.write(_OUT, request, value, self.interface.interface, b"", _TIMEOUT_S)
        except UsbFailureError:
            return False
        return True

    # -- plain DFU -------------------------------------------------------------------------------------------------

    async def upload_all(self, transfer_bytes: int, expected: int) -> tuple[bytes, bool]:
        """Fetch everything; return it and whether it ended well."""
        self.process.out("Copying data from DFU device to PC\n")
        content = bytearray()
        block, is_well = 0, True
        while True:
            self.bar.draw("Upload", len(content), expected)
            try:
                piece = await self.upload(transfer_bytes, block)
            except UsbFailureError as failure:
                self.warn(f"\nError during upload ({failure})")
                is_well = False
                break
            block += 1
            content += piece
            if len(piece) < transfer_bytes:
                break
        self.bar.draw("Upload", len(content), len(content) if is_well else expected)
        if not is_well:
            self.process.out("\n")
        self.process.out(f"Received a total of {len(content)} bytes\n" if content else "\nFailed.\n")
        if expected not in (0, len(content)):
            self.warn("Unexpected number of bytes uploaded from device")
        return bytes(content), is_well

    async def download_all(self, transfer_bytes: int, file: DfuFile) -> bool:
        """Send everything; return whether the program takes it for done. Raises ``ExitError``."""
        self.process.out("Copying data from PC to DFU device\n")
        content = file.content
        self.bar.draw("Download", 0, 1)
        block = 0
        for start in range(0, len(content), transfer_bytes):
            piece = content[start : start + transfer_bytes]
            if not await self._download_block(piece, block):
                return False
            block = (block + 1) & 0xFFFF
            self.bar.draw("Download", start + len(piece), start + len(piece) + len(content) - start)
        try:
            await self.download(b"", block)
        except UsbFailureError as failure:
            raise self.fail(ExitCode.IO, f"Error sending completion packet ({failure})") from None
        self.bar.draw("Download", len(content), len(content))
        return await self._manifest()

    async def _download_block(self, piece: bytes, block: int) -> bool:
        try:
            await self.download(piece, block)
        except UsbFailureError as failure:
            self.warn(f"Error during download ({failure})")
            return False
        while True:
            try:
                found = await self.status()
            except UsbFailureError as failure:
                raise self.fail(ExitCode.IO, f"Error during download get_status ({failure})") from None
            if found.state in (State.DNLOAD_IDLE, State.ERROR):
                break
            await self.process.bench.sleep(found.poll_s)
        if found.status:
            self.process.out(f" failed!\n{found}\n")
            return False
        return True

    async def _manifest(self) -> bool:
        """See the device through manifestation; False where it left before, or was reset and did not come back the same."""
        while True:
            try:
                found = await self.status()
            except UsbFailureError as failure:
                self.warn(f"unable to read DFU status after completion ({failure})")
                return False
            self.process.out(f"{found}\n")
            await self.process.bench.sleep(found.poll_s)
            if found.state not in (State.MANIFEST_SYNC, State.MANIFEST):
                break
            await self.process.bench.sleep(_MANIFEST_S)
        is_same = True
        if found.state == State.MANIFEST_WAIT_RESET:
            self.process.out("Resetting USB to switch back to runtime mode\n")
            try:
                await self.handle.reset()
            except UsbFailureError:
                is_same = False
        self.process.out("Done!\n")
        return is_same
