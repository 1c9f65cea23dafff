"""teensy_loader_cli 2.2 as Debian has it: it cannot choose, and takes the first HalfKay it finds.

Written after what that release does. Which of several is the first depends on the order in which the kernel lists a folder:
here the one that came last. Left out: ``-r`` and ``-s``, and of the help all but its first line.
"""

import re
from dataclasses import dataclass

from vbench.tools.machine import Process, UnemulatedError, lines_of
from vbench.tools.usb_host import UsbError, UsbFailureError, UsbHandle, open_device

__all__ = ["VERSIONS", "run"]

VERSIONS = ("2.2",)
_HALFKAY = (0x16C0, 0x0478)
_SET_REPORT, _OUTPUT = 9, 0x0200
_WAIT_S, _RETRY_S = 0.25, 0.01
_FIRST_BLOCK_S, _BLOCK_S = 5.0, 0.5
_MEMORY_BYTES = 0x1000000
_FLEXSPI = 0x60000000
_LINE_BYTES = 1024
_CHIPS = {
    # code bytes, block bytes
    "at90usb162": (15872, 128),
    "atmega32u4": (32256, 128),
    "at90usb646": (64512, 256),
    "at90usb1286": (130048, 256),
    "mkl26z64": (63488, 512),
    "mk20dx128": (131072, 1024),
    "mk20dx256": (262144, 1024),
    "mk66fx1m0": (1048576, 1024),
    "mk64fx512": (524288, 1024),
    "imxrt1062": (2031616, 1024),
    "TEENSY2": (32256, 128),
    "TEENSY2PP": (130048, 256),
    "TEENSYLC": (63488, 512),
    "TEENSY30": (131072, 1024),
    "TEENSY31": (262144, 1024),
    "TEENSY32": (262144, 1024),
    "TEENSY35": (524288, 1024),
    "TEENSY36": (1048576, 1024),
    "TEENSY40": (2031616, 1024),
    "TEENSY41": (8126464, 1024),
    "TEENSY_MICROMOD": (16515072, 1024),
}


@dataclass(frozen=True, slots=True)
class _Record:
    """A line of a file; ``is_right``: all of its bytes are there and add up."""

    length: int
    address: int
    kind: int
    data: bytes
    is_right: bool


def _record(line: str) -> _Record | None:
    """Read a line the way ``sscanf`` does, which makes do with one digit of two; None where it is none at all."""
    length, address, kind = _hex(line, 1, 2), _hex(line, 3, 4), _hex(line, 7, 2)
    if not line.startswith(":") or length is None or address is None or kind is None or len(line) < 11 + 2 * length:
        return None
    found = [_hex(line, at, 2) for at in range(9, 11 + 2 * length, 2)]
    known = bytes(value for value in found if value is not None)
    is_right = len(known) == length + 1 and (length + (address >> 8) + (address & 0xFF) + kind + sum(known)) & 0xFF == 0
    return _Record(length, address, kind, known[:length], is_right)


def _hex(line: str, at: int, width: int) -> int | None:
    digits = re.match("[0-9a-fA-F]+", line[at:].lstrip()[:width])
    return int(digits.group(), 16) if digits else None


class _ExitError(Exception):
    """The program ends here, with exit code 1."""


async def run(process: Process, version: str) -> int:
    """Run the program and return what its ``main`` returns."""
    program = _Program(process, version)
    try:
        await program.main()
    except _ExitError:
        return 1
    finally:
        if program.handle is not None:
            await program.handle.close()
    return 0


class _Program:
    def __init__(self, process: Process, version: str) -> None:
        self.handle: UsbHandle | None = None
        self._process = process
        self._version = version
        self._flags: set[str] = set()
        self._file: str | None = None
        self._code_bytes = self._block_bytes = 0
        self._image: dict[int, int] = {}

    async def main(self) -> None:
        """Go through everything. Raises ``_ExitError``."""
        self._read_words()
        is_boot_only = "b" in self._flags
        if self._file is None and not is_boot_only:
            self._usage("Filename must be specified\n\n")
        if not self._code_bytes:
            self._usage("MCU type must be specified\n\n")
        self._tell(f"Teensy Loader, Command Line, Version {self._version}\n")
        if not is_boot_only:
            self._load()
        if await self._find() and not is_boot_only:
            self._load()
        self._tell("Found HalfKay Bootloader\n")
        if is_boot_only:
            await self._boot()
            return
        await self._program()
        if "n" not in self._flags:
            await self._boot()

    # -- words -----------------------------------------------------------------------------------------------------

    def _tell(self, text: str) -> None:
        if "v" in self._flags:
            self._process.out(text)
            self._process.flush()

    def _die(self, text: str) -> None:
        self._process.err(text + "\n")
        raise _ExitError

    def _usage(self, text: str = "") -> None:
        self._process.err(f"{text}Usage: teensy_loader_cli --mcu=<MCU> [-w] [-h] [-n] [-b] [-v] <file.hex>\n")
        raise _ExitError

    def _read_words(self) -> None:
        left = list(self._process.words[1:])
        while left:
            word = left.pop(0)
            if word.startswith("-mmcu="):
                self._chip(word.partition("=")[2])
            elif word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                taken = value if equals else left.pop(0) if left else None
                self._option(word, name.lower(), taken)
            elif word.startswith("-"):
                self._read_flags(word[1:])
            else:
                self._file = word

    def _option(self, word: str, name: str, value: str | None) -> None:
        match name:
            case "help":
                self._usage()
            case "mcu":
                self._chip(value)
            case "list-mcus":
                self._list_chips()
            case _:
                self._process.err(f'Unknown option "{word.partition("=")[0]}"\n\n')
                self._usage()

    def _read_flags(self, letters: str) -> None:
        for letter in letters:
            if letter in "rs":
                raise UnemulatedError(f"teensy_loader_cli -{letter}")
            if letter not in "wnvb":
                self._process.err(f"Unknown flag '{letter}'\n\n")
                self._usage()
            self._flags.add(letter)

    def _chip(self, name: str | None) -> None:
        if name is None:
            self._process.err("No MCU specified.\n")
            self._list_chips()
            return
        known = next((known for known in _CHIPS if known.lower() == name.lower()), None)
        if known is None:
            self._process.err(f'Unknown MCU type "{name}"\n')
            self._list_chips()
            return
        self._code_bytes, self._block_bytes = _CHIPS[known]

    def _list_chips(self) -> None:
        self._process.out("Supported MCUs are:\n" + "".join(f" - {name}\n" for name in _CHIPS))
        raise _ExitError

    # -- the file --------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read the file; what has no end record is taken too, as far as it goes."""
        name = self._file or ""
        text = self._process.file(name)
        count = -1 if text is None else self._load_lines(text)
        if count < 0:
            self._die(f'error reading intel hex file "{name}"')
        self._tell(f'Read "{name}": {count} bytes, {count / self._code_bytes * 100:.1f}% usage\n')

    def _load_lines(self, text: bytes) -> int:
        """Return how many bytes the lines hold, -1 where one is wrong."""
        self._image, count, base = {}, 0, 0
        for number, line in enumerate(lines_of(text, _LINE_BYTES), start=1):
            record = _record(line)
            if record is None or record.address + base + record.length >= _MEMORY_BYTES:
                return self._wrong_line(number)
            if record.kind == 1:
                break
            if record.kind in (2, 4) and record.length == 2 and record.is_right:
                base = int.from_bytes(record.data) << (4 if record.kind == 2 else 16)
                if self._code_bytes > 1048576 and base >= _FLEXSPI:
                    base -= _FLEXSPI
            if record.kind:
                continue
            if not record.is_right:
                return self._wrong_line(number)
            count += record.length
            self._image.update(enumerate(record.data, record.address + base))
        return count

    def _wrong_line(self, number: int) -> int:
        self._process.out(f"Warning, HEX parse error line {number}\n")
        return -1

    # -- the board -------------------------------------------------------------------------------------------------

    async def _find(self) -> bool:
        """Open a board; return whether it had to be waited for. Raises ``_ExitError``."""
        has_waited = False
        while not await self._open():
            if "w" not in self._flags:
                self._die("Unable to open device (hint: try -w option)\n")
            if not has_waited:
                self._tell("Waiting for Teensy device...\n")
                self._tell(" (hint: press the reset button)\n")
            has_waited = True
            await self._process.bench.sleep(_WAIT_S)
        return has_waited

    async def _open(self) -> bool:
        for device in sorted(self._process.bench.devices(), key=lambda device: device.address, reverse=True):
            if (device.usb.vendor_id, device.usb.product_id) != _HALFKAY:
                continue
            try:
                self.handle = await open_device(self._process.bench, device)
            except UsbFailureError as failure:
                is_busy = failure.code is UsbError.BUSY
                self._tell(
                    "Unable to claim interface, check USB permissions\n"
                    if is_busy
                    else "Found device but unable to open\n"
                )
                continue
            return True
        return False

    async def _program(self) -> None:
        """Write each block that holds anything, and the first one always: it erases the chip. Raises ``_ExitError``."""
        self._tell("Programming")
        self._process.flush()
        is_first = True
        for address in range(0, self._code_bytes, self._block_bytes):
            block = bytes(self._image.get(at, 0xFF) for at in range(address, address + self._block_bytes))
            if not is_first and set(block) == {0xFF}:
                continue
            self._tell(".")
            if not await self._write(self._head(address) + block, _FIRST_BLOCK_S if is_first else _BLOCK_S):
                self._die("error writing to Teensy\n")
            is_first = False
        self._tell("\n")

    def _head(self, address: int) -> bytes:
        """Return what goes before a block: two address bytes, or a header of 64."""
        if self._block_bytes > 256:
            return address.to_bytes(3, "little").ljust(64, b"\x00")
        if self._block_bytes == 256 and self._code_bytes >= 0x10000:
            return (address >> 8).to_bytes(2, "little")
        return address.to_bytes(2, "little")

    async def _write(self, report: bytes, timeout_s: float) -> bool:
        """Send a report, again and again while it fails; a try counts as 10 ms however long it took."""
        while self.handle is not None and timeout_s > 0:
            try:
                await self.handle.write(0x21, _SET_REPORT, _OUTPUT, 0, report, timeout_s)
            except UsbFailureError:
                await self._process.bench.sleep(_RETRY_S)
                timeout_s -= _RETRY_S
            else:
                return True
        return False

    async def _boot(self) -> None:
        self._tell("Booting\n")
        length = self._block_bytes + (64 if self._block_bytes > 256 else 2)
        await self._write(b"\xff\xff\xff".ljust(length, b"\x00"), _BLOCK_S)
