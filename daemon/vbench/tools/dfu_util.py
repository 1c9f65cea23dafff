"""dfu-util 0.11 as Debian has it, lies included.

Written after what that release does, compared with the program itself. Left out: ``-v``, DfuSe files, the GD32VF103, and of the
help and the banner all but their first lines.
"""

from vbench.tools.dfu_util_dfuse import DfuSe
from vbench.tools.dfu_util_file import ANY_ID, DfuFile, load_file
from vbench.tools.dfu_util_find import DfuInterface, probe
from vbench.tools.dfu_util_session import DfuSession, State, Status
from vbench.tools.dfu_util_words import ANY, IMPOSSIBLE, ExitCode, ExitError, Ids, Mode, Words, read_words, usage
from vbench.tools.machine import Process
from vbench.tools.usb_host import UsbError, UsbFailureError, UsbHandle, open_device

__all__ = ["VERSIONS", "run"]

VERSIONS = ("0.11",)
_DFUSE = 0x011A
_WILL_DETACH = 8
_MOST_TRANSFER_BYTES, _PACKET_BYTES = 4096, 64
_WAIT_S = 0.02
_SET_INTERFACE = 0x0B
_TIMEOUT_S = 1.0
_TOO_MANY = (
    "More than one DFU capable USB device found! Try `--list' and specify the serial number "
    "or disconnect all but one device"
)


async def run(process: Process, version: str) -> int:
    """Run the program and return what its ``main`` returns."""
    process.is_buffered = False
    program = _Program(process, version)
    try:
        return await program.main()
    except ExitError as end:
        return end.code
    finally:
        await program.close()


class _Program:
    def __init__(self, process: Process, version: str) -> None:
        self._process = process
        self._version = version
        self._handle: UsbHandle | None = None
        self._found: list[DfuInterface] = []

    async def close(self) -> None:
        """Close the device that is open, if any."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            await handle.close()

    def _fail(self, code: int, text: str) -> ExitError:
        self._process.err(f"dfu-util: {text}\n")
        return ExitError(code)

    async def main(self) -> int:
        """Go through everything. Raises ``ExitError``."""
        process = self._process
        words = read_words(process)
        process.out(f"dfu-util {self._version}\n\n")
        if words.mode is Mode.VERSION:
            return 0
        if words.mode is Mode.NONE and words.dfuse is None:
            process.err("You need to specify one of -D or -U\n")
            raise usage(process)
        words.configuration = words.configuration or ANY
        file = self._load(words)
        await self._find(words)
        if words.mode is Mode.LIST:
            for interface in self._found:
                process.out(interface.line())
            return 0
        if len(self._found) > 1 and not self._is_for_all(file):
            raise self._fail(ExitCode.IO, _TOO_MANY + "\n")
        session = await self._to_dfu_mode(await self._open(), words)
        if session is None:
            return 0
        await self._claim(session)
        await self._make_idle(session)
        return await self._work(session, words, file)

    async def _find(self, words: Words) -> None:
        """Look for devices, as often as it takes where it was told to wait. Raises ``ExitError``."""
        if words.is_waiting:
            self._process.out("Waiting for device, exit with ctrl-C\n")
        self._found = await probe(self._process, words)
        while not self._found and words.mode is not Mode.LIST:
            if not words.is_waiting:
                raise self._fail(ExitCode.IO, "No DFU capable USB device available")
            await self._process.bench.sleep(_WAIT_S)
            self._found = await probe(self._process, words)

    def _load(self, words: Words) -> DfuFile | None:
        """Read the file of a download; its ids count where none were given."""
        if words.mode is not Mode.DOWNLOAD:
            words.mode = Mode.DOWNLOAD if words.mode is Mode.NONE else words.mode
            return None
        file = load_file(self._process, words.file)
        if words.runtime.vendor == ANY and file.vendor_id != ANY_ID:
            words.runtime.vendor = file.vendor_id
            self._process.out(f"Match vendor ID from file: {file.vendor_id:04x}\n")
        if words.runtime.product == ANY and file.product_id != ANY_ID:
            words.runtime.product = file.product_id
            self._process.out(f"Match product ID from file: {file.product_id:04x}\n")
        return file

    def _is_for_all(self, file: DfuFile | None) -> bool:
        """Whether several settings are no matter: a DfuSe file, and all are of one interface."""
        if file is None or file.dfu_version != _DFUSE:
            return False
        first = self._found[0]
        ours = (first.device, first.configuration, first.interface)
        if any((other.device, other.configuration, other.interface) != ours for other in self._found):
            return False
        self._process.out("Multiple alternate interfaces for DfuSe file\n")
        return True

    # -- opening ---------------------------------------------------------------------------------------------------

    async def _open(self) -> DfuSession:
        interface = self._found[0]
        self._process.out("Opening DFU capable USB device...\n")
        session = await self._session(interface)
        usb = interface.device.usb
        self._process.out(f"Device ID {usb.vendor_id:04x}:{usb.product_id:04x}\n")
        kind = "Run-Time device" if interface.interface > 0 else "Device"
        self._process.out(f"{kind} DFU version {interface.dfu_version:04x}\n")
        return session

    async def _session(self, interface: DfuInterface) -> DfuSession:
        try:
            self._handle = await open_device(self._process.bench, interface.device)
        except UsbFailureError as failure:
            raise self._fail(ExitCode.IO, f"Cannot open device: {failure}") from None
        return DfuSession(self._process, interface, self._handle)

    async def _set_alternate(self, session: DfuSession, alternate: int, complaint: str) -> None:
        try:
            await session.handle.write(1, _SET_INTERFACE, alternate, session.interface.interface, b"", _TIMEOUT_S)
        except UsbFailureError as failure:
            if failure.code is not UsbError.PIPE:  # the kernel forgives devices with one setting that refuse this
                raise self._fail(ExitCode.IO, f"{complaint}: {failure}") from None

    async def _to_dfu_mode(self, session: DfuSession, words: Words) -> DfuSession | None:
        """Bring a device out of run-time mode, if it is in that; return its session, None where that was all."""
        process = self._process
        if session.interface.is_dfu_mode:
            return session
        process.out("Claiming USB DFU (Run-Time) Interface...\nSetting Alternate Interface zero...\n")
        await self._set_alternate(session, 0, "Cannot set alternate interface zero")
        found = await self._runtime_status(session)
        await process.bench.sleep(found.poll_s)
        if found.state not in (State.APP_IDLE, State.APP_DETACH):
            if found.state == State.ERROR:
                process.out("dfuERROR, clearing status\n")
                if not await session.clear_status():
                    raise self._fail(ExitCode.IO, "error clear_status")
            session.warn(f"WARNING: Device already in DFU mode? (bState={found.state} {found.state_name})")
            return session
        process.out("Device really in Run-Time Mode, send DFU detach request...\n")
        if not await session.detach():
            session.warn("error detaching")
        if session.interface.attributes & _WILL_DETACH:
            process.out("Device will detach and reattach...\n")
        else:
            process.out("Resetting USB...\n")
            await self._reset(session)
        await self.close()
        if words.mode is Mode.DETACH:
            return None
        await process.bench.sleep(words.detach_delay_s)
        words.runtime = Ids(IMPOSSIBLE, IMPOSSIBLE)
        self._found = await probe(process, words)
        if not self._found:
            raise self._fail(ExitCode.IO, "Lost device after RESET?")
        if len(self._found) > 1:
            raise self._fail(ExitCode.IO, _TOO_MANY)
        process.out("Opening DFU USB Device...\n")
        return await self._session(self._found[0])

    async def _runtime_status(self, session: DfuSession) -> Status:
        self._process.out("Determining device status...\n")
        try:
            found = await session.status()
        except UsbFailureError as failure:
            if failure.code is not UsbError.PIPE:
                raise self._fail(ExitCode.IO, f"error get_status: {failure}") from None
            self._process.out("Device does not implement get_status, assuming appIDLE\n")
            return Status(0, 0.0, State.APP_IDLE)
        self._process.out(f"{found}\n")
        return found

    async def _reset(self, session: DfuSession) -> bool:
        """Reset the device; False where it is another one afterwards."""
        try:
            await session.handle.reset()
        except UsbFailureError:
            return False
        return True

    async def _claim(self, session: DfuSession) -> None:
        alternate = session.interface.alternate
        self._process.out(f"Claiming USB DFU Interface...\nSetting Alternate Interface #{alternate} ...\n")
        await self._set_alternate(session, alternate, "Cannot set alternate interface")

    async def _make_idle(self, session: DfuSession) -> None:
        while True:
            self._process.out("Determining device status...\n")
            try:
                found = await session.status()
            except UsbFailureError as failure:
                raise self._fail(ExitCode.IO, f"error get_status: {failure}") from None
            self._process.out(f"{found}\n")
            await self._process.bench.sleep(found.poll_s)
            if found.state in (State.APP_IDLE, State.APP_DETACH):
                raise self._fail(ExitCode.PROTOCOL, "Device still in Run-Time Mode!")
            if found.state == State.ERROR:
                self._process.out("Clearing status\n")
                if not await session.clear_status():
                    raise self._fail(ExitCode.IO, "error clear_status")
            elif found.state in (State.DNLOAD_IDLE, State.UPLOAD_IDLE):
                self._process.out("Aborting previous incomplete transfer\n")
                if not await session.abort():
                    raise self._fail(ExitCode.IO, "can't send DFU_ABORT")
            else:
                break
        if found.status:
            await self._clear(session, found)

    async def _clear(self, session: DfuSession, found: Status) -> None:
        self._process.out(f"WARNING: DFU Status: '{found.status_name}'\n")
        try:
            if not await session.clear_status():
                raise self._fail(ExitCode.IO, "USB communication error")
            found = await session.status()
        except UsbFailureError:
            raise self._fail(ExitCode.IO, "USB communication error") from None
        if found.status:
            raise self._fail(ExitCode.PROTOCOL, f"Status is not OK: {found.status}")
        await self._process.bench.sleep(found.poll_s)

    # -- working ---------------------------------------------------------------------------------------------------

    def _transfer_bytes(self, session: DfuSession, words: Words) -> int:
        interface = session.interface
        size = words.transfer_bytes
        if interface.transfer_bytes:
            self._process.out(f"Device returned transfer size {interface.transfer_bytes}\n")
            if size:
                self._process.out("Warning: Overriding device-reported transfer size\n")
            size = size or interface.transfer_bytes
        elif not size:
            raise self._fail(ExitCode.USAGE, "Transfer size must be specified")
        if size > _MOST_TRANSFER_BYTES:
            size = _MOST_TRANSFER_BYTES
            self._process.out(f"Limited transfer size to {size}\n")
        if size < _PACKET_BYTES:
            size = _PACKET_BYTES
            self._process.out(f"Adjusted transfer size to {size}\n")
        return size

    async def _work(self, session: DfuSession, words: Words, file: DfuFile | None) -> int:
        interface = session.interface
        self._process.out(f"DFU mode device DFU version {interface.dfu_version:04x}\n")
        if interface.dfu_version != _DFUSE and words.dfuse is not None:
            self._process.out("Warning: DfuSe option used on non-DfuSe device\n")
        size = self._transfer_bytes(session, words)
        if words.mode is Mode.UPLOAD:
            result = await self._upload(session, words, size)
        elif words.mode is Mode.DOWNLOAD:
            result = await self._download(session, words, file, size)
        else:
            if not await session.detach():
                session.warn("can't detach")
            result = 0
        if result == 0 and words.is_reset_at_end:
            if not await session.detach():
                session.warn("can't detach")
            self._process.out("Resetting USB to switch back to Run-Time mode\n")
            result = 0 if await self._reset(session) else UsbError.NOT_FOUND.value
        return result

    async def _upload(self, session: DfuSession, words: Words, size: int) -> int:
        if self._process.file(words.file) is not None:
            session.warn(f"Cannot open file {words.file} for writing: File exists")
            return ExitCode.CANNOT_CREATE
        self._process.write_file(words.file, b"")
        if session.interface.dfu_version == _DFUSE or words.dfuse is not None:
            content, is_well = await DfuSe(session, words.dfuse).upload_all(size)
        else:
            content, is_well = await session.upload_all(size, words.upload_bytes)
        self._process.write_file(words.file, content)
        return 0 if is_well else ExitCode.IO

    async def _download(self, session: DfuSession, words: Words, file: DfuFile | None, size: int) -> int:
        if file is not None:
            self._check_ids(session, words, file)
        is_dfuse = session.interface.dfu_version == _DFUSE or words.dfuse is not None
        if file is None or is_dfuse or file.dfu_version == _DFUSE:
            await DfuSe(session, words.dfuse).download_all(size, file)
            return 0
        return 0 if await session.download_all(size, file) else ExitCode.IO

    def _check_ids(self, session: DfuSession, words: Words, file: DfuFile) -> None:
        """Refuse a file that says it is for another device."""
        usb = session.interface.device.usb
        vendor = usb.vendor_id if words.runtime.vendor == ANY else words.runtime.vendor
        product = usb.product_id if words.runtime.product == ANY else words.runtime.product
        wanted = Ids(
            ANY if file.vendor_id == ANY_ID else file.vendor_id, ANY if file.product_id == ANY_ID else file.product_id
        )
        if not wanted.fit(vendor, product) and not wanted.fit(usb.vendor_id, usb.product_id):
            text = (
                f"Error: File ID {file.vendor_id:04x}:{file.product_id:04x} does not match device "
                f"({vendor:04x}:{product:04x} or {usb.vendor_id:04x}:{usb.product_id:04x})"
            )
            raise self._fail(ExitCode.USAGE, text)
