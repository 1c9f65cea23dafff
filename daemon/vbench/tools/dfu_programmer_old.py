"""Commands of dfu-programmer 0.6.1, which Debian has: few words, and an exit code of 0 or 1.

Its erase checks that the chip is blank and keeps what it found to itself: it is the exit code.
"""

import struct

from vbench.tools.dfu_programmer_hex import HexReader, HexSyntaxError, HexValueError
from vbench.tools.dfu_programmer_usb import DfuError, DfuFlip
from vbench.tools.dfu_programmer_words import Memory, Words
from vbench.tools.machine import Process, UnemulatedError

__all__ = ["CONFIGURATION", "OTHERS", "OldCommands", "block", "percent"]

_BLOCK_BYTES = 1024
_PAGE_BYTES = 0x10000
_HEADER_BYTES = 32
_UNSET = -1
_SUFFIX = bytes(4) + bytes((16,)) + b"DFU" + bytes((0x01, 0x10)) + b"\xff" * 6
"""Its checksum is never computed, its numbers stand the wrong way round."""
CONFIGURATION = {
    "bootloader-version": (0, 0x00, "Bootloader Version"),
    "ID1": (0, 0x01, "Device boot ID 1"),
    "ID2": (0, 0x02, "Device boot ID 2"),
    "manufacturer": (1, 0x30, "Manufacturer Code"),
    "family": (1, 0x31, "Family Code"),
    "product-name": (1, 0x60, "Product Name"),
    "product-revision": (1, 0x61, "Product Revision"),
}
"""What ``get`` knows of an AVR: the two bytes that ask for it, and its title. All are read for each."""
OTHERS = {
    "BSB": "Boot Status Byte",
    "SBV": "Software Boot Vector",
    "SSB": "Software Security Byte",
    "EB": "Extra Byte",
    "HSB": "Hardware Security Byte",
}
"""What only 8051 chips have."""
_NOT_FOR_AVR = {
    "getfuse": "target does not support fuse operation.\nError reading AVR config information.\n",
    "setfuse": "target doesn't support fuse set operation.\n",
    "configure": "target doesn't support configure operation.\n",
    "setsecure": "target doesn't support security bit set.\n",
}


class _FailedError(Exception):
    """The command failed; what is to be said about it was said."""


class OldCommands:
    """The commands, on a device that was found."""

    def __init__(self, process: Process, words: Words, flip: DfuFlip) -> None:
        self._process = process
        self._words = words
        self._flip = flip
        self._target = words.target

    async def carry_out(self) -> int:
        """Carry out the command and return 0 or 1."""
        try:
            await self._command()
        except _FailedError:
            return 1
        return 0

    async def _command(self) -> None:
        is_eeprom = self._words.memory is Memory.EEPROM
        match self._words.command:
            case "erase":
                await self._erase()
            case "flash" | "flash-eeprom":
                await self._flash(is_eeprom=is_eeprom)
            case "dump" | "dump-eeprom":
                await self._dump(is_eeprom=is_eeprom)
            case "reset":
                await self._start(bytes((4, 3, 0)))
            case "start":
                await self._start(bytes((4, 3, 1, 0, 0)))
            case "get":
                await self._get()
            case command if command in _NOT_FOR_AVR:
                self._fail(_NOT_FOR_AVR[command])
            case command:
                raise UnemulatedError(f"dfu-programmer 0.6.1 {command} on an AVR")

    def _fail(self, text: str = "") -> None:
        self._process.err(text)
        raise _FailedError

    async def _send(self, command: bytes) -> None:
        if await self._flip.download(command) != len(command):
            raise _FailedError

    async def _check(self) -> None:
        """Whatever the status is, it is the result; only an answer that came short is asked for again."""
        for _ in range(10):
            if (found := await self._flip.status()) is not None:
                if found.status != DfuError.NONE:
                    raise _FailedError
                return
        raise _FailedError

    async def _select_page(self, page: int) -> None:
        await self._send(bytes((6, 3, 0, page)))

    # -- commands --------------------------------------------------------------------------------------------------

    async def _erase(self) -> None:
        await self._send(bytes((4, 0, 0xFF)))
        await self._check()
        end = self._target.app_end
        if end < 0xFFFF:
            await self._send(bytes((3, 1)) + struct.pack(">HH", 0, end))
        else:
            for page in range(end // _PAGE_BYTES + 1):
                await self._select_page(page)
                last = min(0xFFFF, end - page * _PAGE_BYTES)
                await self._send(bytes((3, 1)) + struct.pack(">HH", 0, last))
        await self._check()

    async def _start(self, command: bytes) -> None:
        await self._send(command)
        await self._send(b"")

    async def _get(self) -> None:
        found = {}
        is_complete = True
        for name, (group, item, _) in CONFIGURATION.items():
            value = await self._configuration_byte(group, item)
            is_complete = is_complete and value is not None
            found[name] = value
        if not is_complete:
            self._fail("Error reading AVR config information.\n")
        if self._words.name in OTHERS:
            self._fail(f"{OTHERS[self._words.name]} requires 8051 based controller\n")
        value = found[self._words.name]
        title = "" if self._words.is_quiet else CONFIGURATION[self._words.name][2] + ": "
        self._process.out(f"{title}0x{value:02x} ({value})\n")

    async def _configuration_byte(self, group: int, item: int) -> int | None:
        if await self._flip.download(bytes((5, group, item))) != 3:
            return None
        found = await self._flip.status()
        if found is None or found.status != DfuError.NONE:
            return None
        data = await self._flip.upload(1)
        return data[0] if isinstance(data, bytes) and len(data) == 1 else None

    async def _dump(self, *, is_eeprom: bool) -> None:
        size = self._target.eeprom_bytes if is_eeprom else self._target.app_end + 1
        content = await self._read(size, is_eeprom=is_eeprom)
        if content is None:
            self._fail(f"Failed to read {size} bytes from device.\n")
        else:
            self._process.out(content)

    async def _read(self, size: int, *, is_eeprom: bool) -> bytes | None:
        """Return a memory from 0 on, None where reading failed; what came short stays 0."""
        content = bytearray()
        for start in range(0, size, _BLOCK_BYTES):
            try:
                if start % _PAGE_BYTES == 0:
                    await self._select_page(start // _PAGE_BYTES)
                end = min(start + _BLOCK_BYTES, size)
                header = bytes((3, 2 if is_eeprom else 0))
                await self._send(header + struct.pack(">HH", start & 0xFFFF, (end - 1) & 0xFFFF))
            except _FailedError:
                return None
            data = await self._flip.upload(end - start)
            if not isinstance(data, bytes):
                await self._explain()
                return None
            content += data.ljust(end - start, b"\x00")
        return bytes(content)

    async def _explain(self) -> None:
        """Say why an upload was refused, as far as the status tells."""
        found = await self._flip.status()
        if found is None:
            self._process.err("Device is unresponsive.\n")
        elif found.status == DfuError.FILE:
            self._process.err("The device is read protected.\n")
        else:
            self._process.err("Unknown error.  Try enabling debug.\n")

    # -- writing ---------------------------------------------------------------------------------------------------

    async def _flash(self, *, is_eeprom: bool) -> None:
        size = self._target.eeprom_bytes if is_eeprom else self._target.flash_bytes
        usable = size if is_eeprom else self._target.app_end + 1
        image, used = self._image(size)
        if not is_eeprom and any(cell != _UNSET for cell in image[usable:]):
            if "--suppress-bootloader-mem" not in self._words.options:
                self._fail("Bootloader and code overlap.\nUse --suppress-bootloader-mem to ignore\n")
            image[usable:] = [_UNSET] * (size - usable)
        what = "eeprom" if is_eeprom else "flash"
        try:
            await self._write(image[:usable], is_eeprom=is_eeprom)
        except _FailedError:
            self._fail("Error while programming eeprom.\n" if is_eeprom else "Error while flashing.\n")
        if "--suppress-validation" not in self._words.options:
            if not self._words.is_quiet:
                self._process.err("Validating...\n")
            content = await self._read(usable, is_eeprom=is_eeprom)
            if content is None:
                self._fail(f"Error while reading back {what}.\n")
            elif any(0 <= cell < 0xFF and cell != found for cell, found in zip(image, content, strict=False)):
                self._fail(
                    "Eeprom did not validate.\n" if is_eeprom else "Flash did not validate. Did you erase first?\n"
                )
        if not self._words.is_quiet:
            self._process.err(f"{used} bytes used ({percent(used, usable)}%)\n")

    def _image(self, size: int) -> tuple[list[int], int]:
        """Return the file's cells, :data:`_UNSET` where it says nothing, and how many bytes it holds."""
        image, used = [_UNSET] * size, 0
        text = b"" if self._words.file == "STDIN" else self._process.file(self._words.file)
        try:
            if text is None:
                self._fail("Error opening the file.\n")
                return image, used
            reader = HexReader(text, is_signed=True)
            while (line := reader.next()) is not None:
                if line.data and line.address + len(line.data) > size:
                    self._fail("Address error.\n")
                image[line.address : line.address + len(line.data)] = line.data
                used += len(line.data)
        except (HexSyntaxError, HexValueError, _FailedError) as error:
            if isinstance(error, HexValueError) and error.kind is not None:
                self._process.err(f"Unsupported type. {error.kind}\n")
            if not isinstance(error, _FailedError):
                self._process.err("Error parsing the line.\n")
            self._fail("Something went wrong with creating the memory image.\n")
        if self._words.serial is not None:
            offset, data = self._words.serial
            if offset + len(data) > self._target.flash_bytes - 1:
                self._fail("The serial data falls outside of the memory region.\n")
            image[offset : offset + len(data)] = data
        return image, used

    async def _write(self, image: list[int], *, is_eeprom: bool) -> None:
        """Write each run of cells that are set, in blocks that end at 64 KiB and at the run's end."""
        page = 0
        await self._select_page(page)
        at = 0
        while (first := next((at for at in range(at, len(image)) if image[at] != _UNSET), None)) is not None:
            if first // _PAGE_BYTES != page:
                page = first // _PAGE_BYTES
                await self._select_page(page)
            limit = min(first + _BLOCK_BYTES, (page + 1) * _PAGE_BYTES, len(image))
            at = next((at for at in range(first, limit) if image[at] == _UNSET), limit)
            await self._write_block(first & 0xFFFF, bytes(image[first:at]), is_eeprom=is_eeprom)
        if page:
            await self._select_page(0)

    async def _write_block(self, start: int, data: bytes, *, is_eeprom: bool) -> None:
        await self._send(block(start, data, is_eeprom=is_eeprom))
        found = await self._flip.status()
        if found is None or found.status != DfuError.NONE:
            raise _FailedError


def block(start: int, data: bytes, *, is_eeprom: bool) -> bytes:
    """Return the message that writes ``data`` at an address of the 64 KiB page: header, data, suffix."""
    header = bytes((1, int(is_eeprom))) + struct.pack(">HH", start, (start + len(data) - 1) & 0xFFFF)
    return header.ljust(_HEADER_BYTES, b"\x00") + data + _SUFFIX


def percent(part: int, whole: int) -> str:
    """Return a share with two digits, computed in single precision as the program does."""
    (numerator,) = struct.unpack("<f", struct.pack("<f", part * 100))
    (quotient,) = struct.unpack("<f", struct.pack("<f", numerator / whole))
    return f"{quotient:.2f}"
