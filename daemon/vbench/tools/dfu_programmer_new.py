"""Commands of dfu-programmer 0.7.2 and 1.1.0: more words, and exit codes of which some mean something and some leak.

What leaks: the address of the first cell that is not blank, a DFU status, and negative numbers of its own, each cut to a byte.
"""

from vbench.tools.dfu_programmer_hex import HexReader, HexSyntaxError, HexValueError, hex_text
from vbench.tools.dfu_programmer_old import CONFIGURATION, OTHERS, block, percent
from vbench.tools.dfu_programmer_session import PAGE_BYTES, NewSession, Progress
from vbench.tools.dfu_programmer_usb import DfuError, DfuState
from vbench.tools.dfu_programmer_words import Memory

__all__ = ["NewCommands"]

_ARGUMENT, _BUFFER, _READ, _WRITE, _IN_REGION, _OUTSIDE = 2, 4, 5, 6, 7, 8
_BLOCK_BYTES = 1024
_FLASH_PAGE_BYTES = 128
_UNSET = 0xFFFF
_DEBUG_LEVEL = 51
_NOT_FOR_AVR = {
    "getfuse": ("target doesn't support fuse set operation.", -1),
    "setfuse": ("target doesn't support fuse set operation.", -1),
    "configure": ("target doesn't support configure operation.", -1),
    "setsecure": ("target doesn't support security bit set.", _ARGUMENT),
}
_LATEST_NOT_FOR_AVR = {
    "getfuse": ("target doesn't support fuse set operation.", _ARGUMENT),
    "setfuse": ("Operation not supported on AVR", -1),
    "configure": ("Operation not supported on AVR", -1),
    "setsecure": ("Operation not supported on AVR", _ARGUMENT),
}


class NewCommands(NewSession):
    """The commands, on a device that was found. Each returns its result, cut to a byte only when the program ends."""

    async def carry_out(self) -> int:
        """Carry out the command and return its result, 0 for success."""
        match self._words.command:
            case "erase":
                return await self._erase()
            case "flash" | "flash-eeprom" | "flash-user":
                return await self._flash()
            case "read" | "dump" | "dump-eeprom" | "dump-user":
                return await self._dump()
            case "launch" | "reset" | "start":
                return await self._start()
            case "get":
                return await self._get()
            case command:
                return self._refuse(*(_LATEST_NOT_FOR_AVR if self._words.version == "1.1.0" else _NOT_FOR_AVR)[command])

    @property
    def is_leaving(self) -> bool:
        """Whether the command lets the firmware start by a reset, so that a device that is gone is no surprise."""
        words = self._words
        return words.command in ("launch", "reset", "flash-eeprom", "flash-user") and "--no-reset" not in words.options

    async def _start(self) -> int:
        by_jump = self._words.command == "start" or self._has("--no-reset")
        command = bytes((4, 3, 1, 0, 0)) if by_jump else bytes((4, 3, 0))
        if await self._flip.download(command) != len(command):
            return -1
        return 0 if await self._flip.download(b"") == 0 else -2

    async def _get(self) -> int:
        found: dict[str, int] = {}
        result = 0
        for name, (group, item, _) in CONFIGURATION.items():
            found[name] = await self._configuration_byte(group, item)
            result = min(found[name], 0) or result
        if result:
            self._process.err("Error reading AVR config information.\n")
            return result
        if self._words.name in OTHERS:
            return self._refuse(f"{OTHERS[self._words.name]} requires 8051 based controller", -1)
        value = found[self._words.name]
        title = "" if self._is_quiet else CONFIGURATION[self._words.name][2] + ": "
        self._process.out(f"{title}0x{value:02x} ({value})\n")
        return 0

    async def _configuration_byte(self, group: int, item: int) -> int:
        if await self._flip.download(bytes((5, group, item))) != 3:
            return -1
        found = await self._flip.status()
        if found is None:
            return -2
        if found.status != DfuError.NONE:
            await self._flip.clear_status()
            return -3
        data = await self._flip.upload(1)
        return data[0] if isinstance(data, bytes) and len(data) == 1 else -4

    async def _erase(self) -> int:
        end = self._target.app_end
        if not self._has("--force") and await self._blank_check(0, end) == 0:
            self._say("Chip already blank, to force erase use --force.\n")
            return 0
        if result := await self._erase_chip():
            return result
        return 0 if self._has("--suppress-validation") else await self._blank_check(0, end)

    async def _dump(self) -> int:
        words = self._words
        is_old = words.command != "read"
        is_eeprom = words.memory is Memory.EEPROM
        size = {
            Memory.FLASH: self._target.flash_bytes,
            Memory.EEPROM: self._target.eeprom_bytes,
            Memory.USER: _FLASH_PAGE_BYTES,
        }[words.memory]
        start, end = 0, self._target.app_end if words.memory is Memory.FLASH else size - 1
        content = bytearray(b"\xff" * size)
        if await self._read(content, start, end, is_eeprom=is_eeprom, is_user=words.memory is Memory.USER):
            return _READ
        offset = 0x80800000 if words.memory is Memory.USER else 0
        if not is_old and not self._has("--force"):
            start, end = self._filled(content, start, end)
        if is_old or self._has("--bin"):
            self._say(f"Dumping 0x{end + 1:X} bytes from address offset 0x{offset:X}.\n")
            self._process.out(bytes(content[: end + 1]))
        else:
            self._say(f"Dumping 0x{end - start + 1:X} bytes from address offset 0x{offset + start:X}.\n")
            is_whole = self._has("--force")
            self._process.out(hex_text(content, start, end, page_bytes=_FLASH_PAGE_BYTES, is_whole=is_whole))
        self._process.flush()
        return 0

    def _filled(self, content: bytearray, start: int, end: int) -> tuple[int, int]:
        """Return the first and the last address to give out: without blank pages at either end."""
        first = next((at for at in range(start, end) if content[at] != 0xFF), None)
        if first is None:
            self._say(
                "Memory is blank, returning a single blank page.\nUse --force to return the entire memory regardless.\n"
            )
            return 0, _FLASH_PAGE_BYTES - 1
        start = max(start, first // _FLASH_PAGE_BYTES * _FLASH_PAGE_BYTES)
        last = next((at for at in range(end, start, -1) if content[at] != 0xFF), start)
        return start, min(end, (last // _FLASH_PAGE_BYTES + 1) * _FLASH_PAGE_BYTES - 1)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def _flash(self) -> int:
        is_eeprom = self._words.memory is Memory.EEPROM
        if self._words.memory is Memory.USER:
            return self._refuse("Flash User only implemented for ADC_AVR32 devices.", _ARGUMENT)
        image = [_UNSET] * (self._target.eeprom_bytes if is_eeprom else self._target.flash_bytes)
        usable = len(image) if is_eeprom else self._target.app_end + 1
        if not self._load(image) or not self._spares_loader(image, usable):
            return _BUFFER
        if self._has("--validate-first") and await self._validate(image, usable, is_eeprom=is_eeprom) == 0:
            return 0
        if self._has("--erase-first") and (result := await self._erase_chip()):
            return result
        if await self._write(image, usable, is_eeprom=is_eeprom):
            return _WRITE
        return await self._conclude(image, usable, is_eeprom=is_eeprom)

    def _spares_loader(self, image: list[int], usable: int) -> bool:
        """Whether nothing, or nothing any more, is meant for the loader's section; where it is, that was told."""
        if all(cell == _UNSET for cell in image[usable:]):
            return True
        if not self._has("--suppress-bootloader-mem"):
            self._process.err("Bootloader and code overlap.\nUse --suppress-bootloader-mem to ignore\n")
            return False
        image[usable:] = [_UNSET] * (len(image) - usable)
        return True

    async def _conclude(self, image: list[int], usable: int, *, is_eeprom: bool) -> int:
        """Validate what was written, and tell how much it was."""
        is_checked = not self._has("--suppress-validation")
        if is_checked and (result := await self._validate(image, usable, is_eeprom=is_eeprom)):
            self._process.err("Memory did not validate. Did you erase?\n")
            return result
        first, last = _filled_span(image)
        written = last - first + 1
        self._say(f"0x{written:X} bytes written into 0x{usable:X} bytes memory ({percent(written, usable)}%).\n")
        return 0

    def _load(self, image: list[int]) -> bool:
        """Put the file and the serial number into ``image``; False where that cannot be done, which was told."""
        words = self._words
        text = b"" if words.file == "STDIN" else self._process.file(words.file)
        if text is None:
            self._say(f"Error opening {words.file}\n")
            self._say(f"See --debug={_DEBUG_LEVEL} or greater for more information.\n")
            return False
        outside = self._load_lines(image, HexReader(text, is_signed=False))
        if outside is None:
            return False
        if outside:
            self._say(f"Total of 0x{outside:X} bytes in invalid addressed.\n")
            if outside & 1:  # a number taken for a truth value, bit by bit
                self._say(f"See --debug={_DEBUG_LEVEL} or greater for more information.\n")
            self._say(f"WARNING: 0x{outside:X} bytes are outside target memory,\n and will not be written.\n")
        if words.serial is not None:
            offset, data = words.serial
            if offset + len(data) > len(image):
                return False
            image[offset : offset + len(data)] = data
        return True

    def _load_lines(self, image: list[int], reader: HexReader) -> int | None:
        """Return how many bytes were outside, None where a line is wrong."""
        number, outside = 1, 0
        try:
            while (line := reader.next()) is not None:
                number += 1
                for address, value in enumerate(line.data, line.address):
                    if address < len(image):
                        image[address] = value
                        continue
                    if not outside:
                        self._process.err(
                            f"WARNING (line {number}): 0x{address:02x} address outside valid region,\n"
                            " suppressing additional address error messages.\n"
                        )
                    outside += 1
        except HexSyntaxError:
            self._say(f"Error reading line {number}.\n")
            return None
        except HexValueError as error:
            if error.kind is not None:
                self._process.err(f"Unsupported type. {error.kind}\n")
            self._say(f"Error: Line {number} does not validate.\n")
            self._say(f"See --debug={_DEBUG_LEVEL} or greater for more information.\n")
            return None
        return outside

    async def _write(self, image: list[int], usable: int, *, is_eeprom: bool) -> int:
        """Write all pages that hold anything, whole; return 0 or a negative number, which was told."""
        for start in range(0, usable - 1, _FLASH_PAGE_BYTES):
            page_cells = image[start : start + _FLASH_PAGE_BYTES]
            if any(cell != _UNSET for cell in page_cells):
                image[start : start + _FLASH_PAGE_BYTES] = [0xFF if cell == _UNSET else cell for cell in page_cells]
        if all(cell == _UNSET for cell in image):
            self._say("Hex file error, use debug for more info.\n")
            return -1
        first, last = _filled_span(image)
        if not self._has("--force") and await self._blank_check(first, last):  # of the flash, even for the EEPROM
            self._say(
                "The target memory for the program is not blank.\nUse --force flag to override this error check.\n"
            )
            return -1
        self._begin(f"Programming 0x{last - first + 1:X} bytes...\n")
        result = await self._write_blocks(image, first, last, is_eeprom=is_eeprom)
        self._finish(result, "write")
        return result

    async def _write_blocks(self, image: list[int], first: int, last: int, *, is_eeprom: bool) -> int:
        page = first // PAGE_BYTES
        if await self._select_page(page):
            return -3
        progress = Progress(first, last)
        at: int | None = first
        while at is not None:
            if at // PAGE_BYTES != page:
                page = at // PAGE_BYTES
                if await self._select_page(page):
                    return -3
            limit = min(at + _BLOCK_BYTES, (page + 1) * PAGE_BYTES, last + 1)
            end = next((end for end in range(at, limit) if image[end] == _UNSET), limit)
            message = block(at & 0xFFFF, bytes(image[at:end]), is_eeprom=is_eeprom)
            if await self._write_block(message):
                return -4
            at = next((at for at in range(end, last + 1) if image[at] != _UNSET), None)
            self._mark(progress, end - 1)
        return 0

    async def _write_block(self, message: bytes) -> int:
        if await self._flip.download(message) != len(message):
            return -2
        found = await self._flip.status()
        if found is None:
            return -3
        if found.status != DfuError.NONE and found.state == DfuState.ERROR:
            await self._flip.clear_status()
        return found.status

    async def _validate(self, image: list[int], usable: int, *, is_eeprom: bool) -> int:
        """Read the memory back and compare it, what should be blank too; return an exit code."""
        content = bytearray(b"\xff" * len(image))
        if await self._read(content, 0, usable - 1, is_eeprom=is_eeprom):
            self._say("FAIL\n")
            return _READ
        self._say("Validating...  ")
        pairs = list(zip(image[:usable], content, strict=False))
        wrong = sum(1 for cell, found in pairs if cell not in (_UNSET, found))
        outside = sum(1 for cell, found in pairs if cell == _UNSET and found != 0xFF)
        if not wrong and not outside:
            self._say("Success\n")
            return 0
        if wrong:
            self._say("ERROR\n")
        self._say(f"{wrong} invalid bytes in program region, {outside} outside region.\n")
        result = _IN_REGION if wrong else 0 if self._has("--ignore-outside") else _OUTSIDE
        if result:
            self._say("FAIL\n")
        return result


def _filled_span(image: list[int]) -> tuple[int, int]:
    """Return the first and the last address that hold anything."""
    filled = [at for at, cell in enumerate(image) if cell != _UNSET]
    return filled[0], filled[-1]
