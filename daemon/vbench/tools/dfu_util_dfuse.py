"""DfuSe as dfu-util 0.11 does it: memory layouts in names of settings, commands in blocks of number 0, leaving.

Left out: DfuSe files with several images, and the repairs for the GD32VF103.
"""

import re
from dataclasses import dataclass

from vbench.tools.dfu_util_file import DfuFile
from vbench.tools.dfu_util_session import DfuSession, State, Status
from vbench.tools.dfu_util_words import ExitCode, ExitError, read_number
from vbench.tools.machine import UnemulatedError
from vbench.tools.usb_host import UsbError, UsbFailureError

__all__ = ["DfuSe"]

_READABLE, _ERASABLE, _WRITEABLE = 1, 2, 4
_DFUSE_FILE = 0x011A
_DEFAULT_UPLOAD_BYTES = 0x4000
_MOST_ZERO_POLLS, _MOST_STALLS = 100, 3
_LYING_MASS_ERASE_S, _MASS_ERASE_S = 0.1, 35.0
_GIGADEVICE = (0x28E9, 0x0189)
_FIRST_BLOCK = 2
_UNITS = {"B": 1, "K": 1024, "M": 1024 * 1024}
_MODIFIERS = ("force", "leave", "unprotect", "mass-erase", "will-reset")


@dataclass(frozen=True, slots=True)
class _Segment:
    start: int
    end: int
    page_bytes: int
    rights: int


class DfuSe:
    """A device that is spoken to in DfuSe, and the ``-s`` argument."""

    def __init__(self, session: DfuSession, options: str | None) -> None:
        self._session = session
        self._process = session.process
        self._address: int | None = None
        self._length = 0
        self._modifiers: set[str] = set()
        self._segments: list[_Segment] = []
        self._last_erased = 1
        usb = session.interface.device.usb
        if (usb.vendor_id, usb.product_id) == _GIGADEVICE:
            raise UnemulatedError("dfu-util with a GD32VF103")
        if options is not None:
            self._read_options(options)

    def _read_options(self, options: str) -> None:
        first, *others = options.split(":")
        if first or not others:
            self._address, rest = read_number(first)
            if rest:
                raise self._session.fail(ExitCode.USAGE, f"Invalid dfuse address: {options}")
        for at, word in enumerate(others, start=1):
            if not word:
                continue
            modifier = next((known for known in _MODIFIERS if known.startswith(word)), None)
            if modifier is not None:
                self._modifiers.add(modifier)
                continue
            self._length, rest = read_number(word)
            if rest:
                whole = ":".join(options.split(":")[at:])
                raise self._session.fail(ExitCode.USAGE, f"Invalid dfuse modifier: {whole}")

    # -- downloads -------------------------------------------------------------------------------------------------

    async def download_all(self, transfer_bytes: int, file: DfuFile | None) -> None:
        """Carry out a download, or commands alone where there is no file. Raises ``ExitError``."""
        self._segments = self._layout(self._session.interface.name, self._session.interface.alternate)
        if "unprotect" in self._modifiers:
            if "force" not in self._modifiers:
                text = "The read unprotect command will erase the flash memoryand can only be used with force\n"
                raise self._session.fail(ExitCode.USAGE, text)
            await self._command("READ_UNPROTECT", bytes((0x92,)))
            self._process.out("Device disconnects, erases flash and resets now\n")
            return
        if "mass-erase" in self._modifiers:
            if "force" not in self._modifiers:
                raise self._session.fail(ExitCode.USAGE, "The mass erase command can only be used with force")
            self._process.out("Performing mass erase, this can take a moment\n")
            await self._command("MASS_ERASE", bytes((0x41,)))
        if file is None:
            self._process.out("DfuSe command mode\n")
        else:
            await self._download_file(transfer_bytes, file)
        if "will-reset" not in self._modifiers:
            await self._session.abort_to_idle()
        if "leave" in self._modifiers:
            await self._leave()

    async def _download_file(self, transfer_bytes: int, file: DfuFile) -> None:
        if self._address is None:
            if file.dfu_version == _DFUSE_FILE:
                raise UnemulatedError("dfu-util with a DfuSe file")
            self._session.warn("Only DfuSe file version 1.1a is supported")
            text = "(for raw binary download, use the --dfuse-address option)"
            raise self._session.fail(ExitCode.USAGE, text)
        if file.dfu_version == _DFUSE_FILE:
            raise self._session.fail(ExitCode.USAGE, "This is a DfuSe file, not meant for raw download")
        content = file.content[file.prefix_bytes :]
        self._process.out(f"Downloading element to address = 0x{self._address:08x}, size = {len(content)}\n")
        self._segment(self._address + len(content) - 1, _WRITEABLE, "Last page at", "writeable")
        await self._erase_pages(self._address, len(content), transfer_bytes)
        await self._write(self._address, content, transfer_bytes)
        self._process.out("File downloaded successfully\n")

    async def _erase_pages(self, base: int, size: int, transfer_bytes: int) -> None:
        bar = self._session.bar
        bar.draw("Erase   ", 0, 1)
        for start in range(0, size, transfer_bytes):
            address = base + start
            segment = self._segment(address, _WRITEABLE, "Page at", "writeable")
            if segment is None:
                continue
            end = min(address + transfer_bytes, base + size)
            if segment.rights & _ERASABLE and "mass-erase" not in self._modifiers:
                for erase_at in [*range(address, end, segment.page_bytes), end - 1]:
                    if erase_at & ~(segment.page_bytes - 1) != self._last_erased:
                        await self._erase_page(erase_at)
                bar.draw("Erase   ", start, size)
        bar.draw("Erase   ", size, size)

    async def _erase_page(self, address: int) -> None:
        segment = self._find(address)
        if segment is None or not segment.rights & _ERASABLE:
            raise self._session.fail(ExitCode.USAGE, f"Page at 0x{address:08x} can not be erased")
        self._last_erased = address & ~(segment.page_bytes - 1)
        await self._command("ERASE_PAGE", bytes((0x41,)) + address.to_bytes(4, "little"))

    async def _write(self, base: int, content: bytes, transfer_bytes: int) -> None:
        bar = self._session.bar
        bar.draw("Download", 0, 1)
        for start in range(0, len(content), transfer_bytes):
            bar.draw("Download", start, len(content))
            piece = content[start : start + transfer_bytes]
            await self._set_address(base + start)
            if not await self._chunk(piece):
                text = f"Failed to write whole chunk: -1 of {len(piece)} bytes"
                raise self._session.fail(ExitCode.IO, text)
        bar.draw("Download", len(content), len(content))

    async def _chunk(self, piece: bytes) -> bool:
        """Send a block of data, or the empty one that leaves; False where the device found fault with it."""
        try:
            await self._session.download(piece, _FIRST_BLOCK)
        except UsbFailureError as failure:
            self._complain("download", failure)
            raise self._session.fail(ExitCode.IO, "Error during download") from None
        ends = {State.DNLOAD_IDLE, State.ERROR, State.MANIFEST}
        if "will-reset" in self._modifiers:
            ends.add(State.DNBUSY)
        while True:
            try:
                found = await self._session.status()
            except UsbFailureError:
                raise self._session.fail(ExitCode.IO, "Error during download get_status") from None
            await self._process.bench.sleep(found.poll_s)
            if found.state in ends:
                break
        if found.state == State.MANIFEST:
            self._process.out("Transitioning to dfuMANIFEST state\n")
        if found.status:
            self._process.out(" failed!\n")
            self._process.err(f"{found}\n")
        return not found.status

    async def _leave(self) -> None:
        if self._address is not None:
            await self._set_address(self._address)
        self._process.out("Submitting leave request...\n")
        await self._chunk(b"")

    # -- uploads ---------------------------------------------------------------------------------------------------

    async def upload_all(self, transfer_bytes: int) -> tuple[bytes, bool]:
        """Fetch what the options say; return it and whether it ended well. Raises ``ExitError``."""
        limit = await self._upload_limit()
        bar = self._session.bar
        bar.draw("Upload", 0, 1)
        content = bytearray()
        block = _FIRST_BLOCK
        while True:
            wanted = min(transfer_bytes, limit - len(content))
            try:
                piece = await self._session.upload(wanted, block)
            except UsbFailureError as failure:
                self._complain("upload", failure)
                return bytes(content), False
            block += 1
            content += piece
            if len(piece) < wanted or len(content) >= limit:
                break
            bar.draw("Upload", len(content), limit)
        bar.draw("Upload", len(content), len(content))
        await self._session.abort_to_idle()
        if "leave" in self._modifiers:
            await self._leave()
        return bytes(content), True

    async def _upload_limit(self) -> int:
        """Return how much to fetch; the address pointer is set where one was given."""
        if self._address is None:
            if not self._length:
                self._session.warn("Unbound upload not supported on DfuSe devices")
            limit = self._length or _DEFAULT_UPLOAD_BYTES
            self._process.out(f"Limiting default upload to {limit} bytes\n")
            return limit
        self._segments = self._layout(self._session.interface.name, None)
        segment = self._segment(self._address, _READABLE, "Page at", "readable")
        limit = self._length
        if not limit and segment is not None:
            limit = segment.end - self._address + 1
            self._process.out(f"Limiting upload to end of memory segment, {limit} bytes\n")
        elif not limit:
            limit = _DEFAULT_UPLOAD_BYTES
            self._process.out(f"Limiting upload to {limit} bytes\n")
        await self._set_address(self._address)
        await self._session.abort_to_idle()
        return limit

    # -- commands --------------------------------------------------------------------------------------------------

    async def _set_address(self, address: int) -> None:
        await self._command("SET_ADDRESS", bytes((0x21,)) + address.to_bytes(4, "little"))

    async def _command(self, name: str, payload: bytes) -> None:
        """Carry out a command: the status has to say busy first, and idle later. Raises ``ExitError``."""
        try:
            await self._session.download(payload, 0)
        except UsbFailureError as failure:
            self._complain("download", failure)
            raise self._session.fail(ExitCode.IO, f'Error during special command "{name}" download') from None
        found = await self._polled(name)
        if found.state != State.DNBUSY:
            self._process.err(f"{found}\n")
            raise self._session.fail(ExitCode.PROTOCOL, f'Wrong state after command "{name}" download')
        poll_s, zero_polls, stalls = found.poll_s, 0, 0
        if name == "MASS_ERASE" and poll_s == _LYING_MASS_ERASE_S:
            poll_s = _MASS_ERASE_S
            self._process.out("Setting timeout to 35 seconds\n")
        while True:
            await self._process.bench.sleep(poll_s)
            if name == "READ_UNPROTECT":
                return
            zero_polls = 0 if found.poll_s else zero_polls + 1
            if zero_polls == _MOST_ZERO_POLLS:
                raise self._session.fail(ExitCode.IO, "Device stuck after special command request")
            if found.state != State.DNBUSY:
                break
            may_stall = bool(poll_s) and stalls < _MOST_STALLS
            if (answer := await self._polled_again(name, may_stall=may_stall)) is None:
                stalls += 1  # and the last answer counts once more
            else:
                found, poll_s = answer, answer.poll_s
        if found.status:
            raise self._session.fail(ExitCode.IO, f"{name} not correctly executed")

    async def _polled(self, name: str) -> Status:
        try:
            return await self._session.status()
        except UsbFailureError:
            raise self._session.fail(ExitCode.IO, f'Error during special command "{name}" get_status') from None

    async def _polled_again(self, name: str, *, may_stall: bool) -> Status | None:
        """Ask again; None for a stall of an STM32L4, which is asked too early by its own word."""
        try:
            return await self._session.status()
        except UsbFailureError as failure:
            if failure.code is UsbError.PIPE and may_stall:
                return None
            raise self._session.fail(ExitCode.IO, f'Error during special command "{name}" get_status') from None

    def _complain(self, what: str, failure: UsbFailureError) -> None:
        self._session.warn(f"dfuse_{what}: libusb_control_transfer returned {failure.code.value} ({failure})")

    # -- memory ----------------------------------------------------------------------------------------------------

    def _find(self, address: int) -> _Segment | None:
        return next((part for part in self._segments if part.start <= address <= part.end), None)

    def _segment(self, address: int, right: int, what: str, adjective: str) -> _Segment | None:
        """Return the segment an address is in; None outside all, by force only. Raises ``ExitError``."""
        segment = self._find(address)
        if "force" not in self._modifiers and (segment is None or not segment.rights & right):
            raise self._session.fail(ExitCode.USAGE, f"{what} 0x{address:08x} is not {adjective}")
        return segment

    def _layout(self, name: str, alternate: int | None) -> list[_Segment]:
        """Read a memory layout (ST UM0424, 4.3.2), such as ``@Internal Flash  /0x08000000/064*0002Kg``."""
        found = re.match("@([^/]+)", name)
        if found is None:
            self._session.warn(f"Could not read name, sscanf returned {0 if name else -1}")
            raise self._no_layout(alternate)
        self._process.out(f'DfuSe interface name: "{found.group(1)}"\n')
        segments: list[_Segment] = []
        rest = name[found.end() :]
        while at := re.match(r"/0x([0-9a-fA-F]+)/", rest):
            address, rest = int(at.group(1), 16), rest[at.end() :]
            while part := re.match(r"\s*(\d+)\*\s*(\d+)(.)([^,/])", rest):
                sectors, size = int(part.group(1)), int(part.group(2)) * _UNITS.get(part.group(3), 1)
                rights = 2 if found.group(1) == "Device Feature" else 0
                rights = ord("e") & 7 if rights else ord(part.group(4)) & 7
                segments.append(_Segment(address, address + sectors * size - 1, size, rights))
                address += sectors * size
                rest = rest[part.end() :]
                if not rest.startswith(","):
                    break
                rest = rest[1:]
        if not segments:
            raise self._no_layout(alternate)
        return segments

    def _no_layout(self, alternate: int | None) -> ExitError:
        text = "Failed to parse memory layout"
        if alternate is not None:
            text += f" for alternate interface {alternate}"
        return self._session.fail(ExitCode.IO, text)
