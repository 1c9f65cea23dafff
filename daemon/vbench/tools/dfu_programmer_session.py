"""What the commands of dfu-programmer 0.7.2 and 1.1.0 have in common: requests, erasing, reading, the progress they show.

Results are numbers as the program has them: 0 for success, negative ones of its own, positive ones of the device.
"""

import struct

from vbench.tools.dfu_programmer_usb import DfuError, DfuFlip, DfuState
from vbench.tools.dfu_programmer_words import Words
from vbench.tools.machine import Process

__all__ = ["PAGE_BYTES", "NewSession", "Progress"]

_BLOCK_BYTES = 1024
PAGE_BYTES = 0x10000
"""What a 16-bit address reaches."""
_METER = "0%                            100%  "
_ERASE_S, _ERASE_POLL_S, _ERASE_TRIES = 20, 0.1, 10


class NewSession:
    """A device that was found, and what is to be done with it."""

    def __init__(self, process: Process, words: Words, flip: DfuFlip) -> None:
        self._process = process
        self._words = words
        self._flip = flip
        self._target = words.target
        self._is_quiet = words.is_quiet
        self._has_bar = words.version == "0.7.2"  # 1.1.0 leaves it out where standard error is no terminal

    def _has(self, option: str) -> bool:
        return option in self._words.options

    def _say(self, text: str) -> None:
        if not self._is_quiet:
            self._process.err(text)

    def _refuse(self, text: str, code: int) -> int:
        self._process.err(text + "\n")
        return code

    # -- single requests -------------------------------------------------------------------------------------------

    async def _confirmed(self, command: bytes) -> int:
        """Send a command and ask how it went; an error is cleared. Return 0, or a negative number."""
        if await self._flip.download(command) != len(command):
            return -1
        found = await self._flip.status()
        if found is None:
            return -3
        if found.status != DfuError.NONE:
            if found.state == DfuState.ERROR:
                await self._flip.clear_status()
            return -4
        return 0

    async def _select_page(self, page: int) -> int:
        return await self._confirmed(bytes((6, 3, 0, page)))

    async def _erase_chip(self) -> int:
        """Erase; "Success" is what follows any status at all."""
        self._say("Erasing flash...  ")
        if await self._flip.download(bytes((4, 0, 0xFF))) != 3:
            self._say("ERROR\n")
            return -2
        begun, tries = int(self._process.bench.now()), 0
        while tries < _ERASE_TRIES and int(self._process.bench.now()) - begun < _ERASE_S:
            found = await self._flip.status()
            if found is None:
                await self._flip.clear_status()
                tries += 1
                self._say("ERROR\n")
            elif (found.status, found.state) == (DfuError.NOTDONE, DfuState.DNBUSY):
                await self._process.bench.sleep(_ERASE_POLL_S)
            else:
                self._say("Success\n")
                return found.status
        return -3

    async def _blank_check(self, start: int, end: int) -> int:
        """Return 0 for blank, the first other address plus one, or a negative number."""
        self._say(f"Checking memory from 0x{start:X} to 0x{end:X}...  ")
        result, upto = 0, start
        while result == 0:
            page = upto // PAGE_BYTES
            last = min((page + 1) * PAGE_BYTES - 1, end)
            if await self._select_page(page):
                result = -3
                break
            result = await self._blank_page(upto % PAGE_BYTES, last % PAGE_BYTES)
            if result > 0:
                result += page * PAGE_BYTES
            upto = last + 1
            if upto >= end:
                break
        if result > 0:
            self._say(f"Not blank at 0x{result:X}.\n")
        else:
            self._say("ERROR.\n" if result else "Empty.\n")
        return result

    async def _blank_page(self, start: int, end: int) -> int:
        if await self._flip.download(bytes((3, 1)) + struct.pack(">HH", start, end)) != 6:
            return -2
        found = await self._flip.status()
        if found is None:
            return -3
        if found.status == DfuError.NONE:
            return 0
        if found.status == DfuError.CHECK_ERASED:
            address = await self._flip.upload(2)
            if isinstance(address, bytes) and len(address) == 2:
                return int.from_bytes(address) + 1
            return -4
        if found.state == DfuState.ERROR:
            await self._flip.clear_status()
        return -4

    async def _read(self, content: bytearray, start: int, end: int, *, is_eeprom: bool, is_user: bool = False) -> int:
        """Read into ``content``; return 0 or a negative number, which was told."""
        self._begin(f"Reading 0x{end - start + 1:X} bytes...\n")
        page = start // PAGE_BYTES
        result = -3 if not is_user and await self._select_page(page) else 0
        progress = Progress(start, end)
        at = start
        while result == 0 and at <= end:
            if at // PAGE_BYTES != page:
                page = at // PAGE_BYTES
                await self._select_page(page)
            last = min(at + _BLOCK_BYTES - 1, end)
            if await self._read_block(content, at, last, is_eeprom=is_eeprom):
                result = -5
                break
            at = last + 1
            self._mark(progress, last)
        self._finish(result, "read")
        return result

    async def _read_block(self, content: bytearray, start: int, end: int, *, is_eeprom: bool) -> int:
        command = bytes((3, 2 if is_eeprom else 0)) + struct.pack(">HH", start & 0xFFFF, end & 0xFFFF)
        if await self._flip.download(command) != len(command):
            return -1
        data = await self._flip.upload(end - start + 1)
        if isinstance(data, bytes):
            content[start : start + len(data)] = data
            return 0
        found = await self._flip.status()
        if found is None:
            self._process.err("Device is unresponsive.\n")
        elif found.status == DfuError.FILE:
            self._process.err("The device is read protected.\n")
        else:
            self._process.err("Unknown error. Try enabling debug.\n")
        await self._flip.clear_status()
        return data

    # -- progress --------------------------------------------------------------------------------------------------

    def _begin(self, text: str) -> None:
        self._say((_METER if self._has_bar else "") + text + ("[" if self._has_bar else ""))

    def _mark(self, progress: "Progress", last: int) -> None:
        if self._has_bar:
            self._say(">" * progress.steps(last))

    def _finish(self, result: int, verb: str) -> None:
        if result == 0:
            self._say("]  Success\n" if self._has_bar else "Success\n")
            return
        self._say(" X  ERROR\n" if self._has_bar else "ERROR\n")
        self._say(f"Memory {'access' if result == -3 else verb} error, use debug for more info.\n")


class Progress:
    """Steps of the bar: 32 in all, each due when its share of the bytes is reached."""

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._bytes = end - start + 1
        self._shown = 0

    def steps(self, last: int) -> int:
        """Return how many steps to print now that ``last`` is done."""
        count = 0
        while (last - self._start + 1) * 32 > self._shown:
            count += 1
            self._shown += self._bytes
        return count
