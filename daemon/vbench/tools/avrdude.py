"""avrdude 7.1 as Debian has it, with ``-c avr109`` on a tty and operations on the flash.

Written after what that release does, compared with the program itself on the bench's Caterina. Anything else is refused loudly.
Parts are those of the catalog. Of the help and of the list of parts only the first line is there.
"""

from dataclasses import replace

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, TransportError
from ispd.model.part import Part, Signature
from ispd.transport.contract import SerialSettings
from vbench.tools.avrdude_avr109 import Avr109
from vbench.tools.avrdude_file import FlashInput, Statistics, guess_form, high_address, load_input, statistics
from vbench.tools.avrdude_words import ExitError, Operation, Task, Words, read_words
from vbench.tools.machine import Process, UnemulatedError

__all__ = ["VERSIONS", "run"]

VERSIONS = ("7.1",)
_FAREWELL = "\navrdude done.  Thank you.\n\n"
_SIGNATURE_S = 0.01
_SIGNATURE_TRIES = 3
_BAR_STEPS = 50
_HEX_LINE_BYTES = 32
_OS_ERRORS = {
    ErrorCode.PORT_NOT_FOUND: "No such file or directory",
    ErrorCode.PERMISSION_DENIED: "Permission denied",
    ErrorCode.PORT_BUSY: "Device or resource busy",
}


async def run(process: Process, _version: str) -> int:
    """Run the program and return what its ``main`` returns."""
    process.is_buffered = False
    try:
        words = read_words(process)
    except ExitError:
        return 1
    return words if isinstance(words, int) else await _Program(process, words).main()


class _Program:
    def __init__(self, process: Process, words: Words) -> None:
        self._process = process
        self._words = words
        self._bar = _Bar(process, is_shown=words.quiet == 0)

    def _info(self, text: str) -> None:
        if self._words.quiet < 2:
            self._process.err(text)

    async def main(self) -> int:
        """Go through everything; return the exit code."""
        words = self._words
        if words.programmer != "avr109":
            raise UnemulatedError(f"avrdude -c {words.programmer}")
        try:
            port = await self._process.bench.open_serial(SerialSettings(port=words.port, baud=words.baud))
        except TransportError as error:
            reason = _OS_ERRORS.get(error.code, "Input/output error")
            self._process.err(f"avrdude OS error: cannot open port {words.port}: {reason}\n")
            self._process.err(f"avrdude error: unable to open programmer avr109 on port {words.port}\n")
            self._info(_FAREWELL)
            return 1
        try:
            line = Avr109(self._process, port)
            await line.drain()
            result = await self._work(line)
            await line.leave()
        finally:
            await port.aclose()
        self._info(_FAREWELL)
        return result

    async def _work(self, line: Avr109) -> int:
        part = self._part()
        if part is None or not self._are_files_fit():
            return 1
        self._info("\n")
        if not await line.initialize():
            self._process.err(
                "avrdude error: initialization failed, rc=-1\n"
                "        - double check the connections and try again\n"
                "        - use -B to set lower ISP clock frequency, e.g. -B 125kHz\n"
                "        - use -F to override this check\n\n"
            )
            return 1
        self._info("avrdude: AVR device initialized and ready to accept instructions\n")
        if not await self._check_signature(line, part):
            return 1
        is_erased = self._words.is_erased
        if self._words.is_auto_erased and any(each.task is Task.WRITE for each in self._words.operations):
            is_erased = True
            self._info("avrdude: Note: flash memory has been specified, an erase cycle will be performed.\n")
            self._info("         To disable this feature, specify the -D option.\n")
        if is_erased:
            self._info("avrdude: erasing chip\n")
            if not await line.erase():
                return 255
        for operation in self._words.operations:
            if not await _FlashWork(self._process, self._words, self._bar, part, line).carry_out(operation):
                return 1
        return 0

    def _part(self) -> Part | None:
        wanted = self._words.part
        if wanted is None:
            self._process.err("\navrdude error: no AVR part has been specified; use -p part\n\nValid parts are:\n")
            return None
        for part in load_parts():
            if wanted.lower() in (part.avrdude_id.lower(), part.name.lower()):
                return part
        self._process.err(f"\navrdude error: AVR part {wanted} not found\n\nValid parts are:\n")
        return None

    def _are_files_fit(self) -> bool:
        """Look at the files that are there already; formats that were not said are guessed."""
        are_fit = True
        written = {operation.file for operation in self._words.operations if operation.task is Task.READ}
        for number, operation in enumerate(self._words.operations):
            if operation.task is Task.READ or operation.file in written:
                continue
            name = operation.file
            content = self._process.file(name)
            if content is None:
                self._process.err(f"avrdude OS error: file {name} is not readable: No such file or directory\n")
                are_fit = False
            elif operation.form == "a":
                form = guess_form(content)
                if form is None:
                    self._process.err(f"avrdude error: cannot determine file format for {name}, specify explicitly\n")
                    are_fit = False
                elif form not in "ir":
                    raise UnemulatedError(f"avrdude with {name}, which looks like format {form}")
                else:
                    self._words.operations[number] = replace(operation, form=form)
        return are_fit

    async def _check_signature(self, line: Avr109, part: Part) -> bool:
        wait_s = _SIGNATURE_S
        for attempt in range(1, _SIGNATURE_TRIES + 1):
            await self._process.bench.sleep(wait_s)
            found = await line.signature()
            wait_s *= 5
            known = load_parts().by_signature(Signature(found))
            matches = found == part.signature.value
            name = part.avrdude_id if matches else known[0].avrdude_id if known else ""
            self._info(f"avrdude: device signature = 0x{found.hex()}" + (f" (probably {name})" if name else ""))
            is_nonsense = set(found) in ({0}, {0xFF})
            if is_nonsense and attempt < _SIGNATURE_TRIES:
                self._info(" (retrying)\n")
                continue
            self._info("\n")
            expected = f"expected signature for {part.name} is {part.signature}\n"
            if matches:
                return True
            if self._words.ignores_signature:
                self._process.err(f"avrdude warning: {expected}")
                return True
            if is_nonsense:
                self._process.err(f"avrdude error: Yikes!  Invalid device signature.\navrdude error: {expected}")
                self._process.err("        Double check connections and try again, or use -F to override\n")
                self._process.err("        this check.\n\n")
            else:
                self._process.err(f"avrdude error: {expected}")
                self._process.err("        double check chip or use -F to override this check\n")
            return False
        return False


class _FlashWork:
    """One operation on the flash."""

    def __init__(self, process: Process, words: Words, bar: "_Bar", part: Part, line: Avr109) -> None:
        self._process = process
        self._words = words
        self._bar = bar
        self._flash = part.flash
        self._line = line

    def _info(self, text: str) -> None:
        if self._words.quiet < 2:
            self._process.err(text)

    async def carry_out(self, operation: Operation) -> bool:
        """Carry it out; False where it failed, which was told."""
        if operation.task is Task.READ:
            return await self._read(operation)
        is_verify = operation.task is Task.VERIFY
        if is_verify:
            self._info(f"avrdude: verifying flash memory against {operation.file}\n")
        found = load_input(
            self._process,
            operation.file,
            operation.form,
            self._flash.size_bytes,
            keeps_trailing_ff=self._words.keeps_trailing_ff,
            is_verify=is_verify,
        )
        if found is None:
            self._process.err(f"avrdude error: read from file {operation.file} failed\n")
            return False
        counts = statistics(found, self._flash.page_bytes)
        if not is_verify:
            await self._write(operation, found, counts)
            if not self._words.is_verified:
                return True
            self._info(f"avrdude: verifying flash memory against {operation.file}\n")
        return await self._verify(found, counts)

    async def _read(self, operation: Operation) -> bool:
        self._info("avrdude: reading flash memory ...\n")
        cells = await self._read_pages(range(0, self._flash.size_bytes, self._flash.page_bytes))
        size = high_address(list(cells), keeps_trailing_ff=self._words.keeps_trailing_ff)
        self._info(f"avrdude: writing output file {operation.file}\n")
        content = bytes(cells[:size])
        self._process.write_file(operation.file, _hex_text(content) if operation.form == "i" else content)
        return True

    async def _write(self, operation: Operation, found: FlashInput, counts: Statistics) -> None:
        self._info(f"avrdude: reading input file {operation.file} for flash\n")
        self._info(
            f"         with {counts.count} byte{_plural(counts.count)} in {counts.sections} "
            f"section{_plural(counts.sections)} within [{_address(counts.first)}, {_address(counts.last)}]\n"
        )
        trailing = f", cutting off {counts.trailing} trailing 0xff byte{_plural(counts.trailing)}"
        self._info(
            f"         using {counts.pages} page{_plural(counts.pages)} and {counts.fill} "
            f"pad byte{_plural(counts.fill)}{trailing if counts.trailing else ''}\n"
        )
        self._info(f"avrdude: writing {counts.count} byte{_plural(counts.count)} flash ...\n")
        self._bar.begin("Writing")
        await self._write_pages(found)
        self._bar.report(1, 1)
        self._info(f"avrdude: {counts.count} byte{_plural(counts.count)} of flash written\n")

    async def _write_pages(self, found: FlashInput) -> None:
        """Write each page that holds anything; holes in it are filled with what the chip holds there."""
        page_bytes = self._flash.page_bytes
        end = -(-found.size // page_bytes) * page_bytes
        pages: dict[int, bytes] = {}
        for start in range(0, end, page_bytes):
            cells = found.cells[start : start + page_bytes]
            if all(cell is None for cell in cells):
                continue
            old = await self._line.read_page(start, page_bytes) if None in cells else b""
            pages[start] = bytes(old[at] if cell is None else cell for at, cell in enumerate(cells))
        for number, start in enumerate(range(0, end, page_bytes), start=1):
            if start in pages:
                await self._line.write_page(start, pages[start])
            self._bar.report(number, len(pages))

    async def _read_pages(self, wanted: range | list[int]) -> bytearray:
        page_bytes = self._flash.page_bytes
        cells = bytearray(b"\xff" * self._flash.size_bytes)
        self._bar.begin("Reading")
        for number, start in enumerate(range(0, len(cells), page_bytes), start=1):
            if start in wanted:
                cells[start : start + page_bytes] = await self._line.read_page(start, page_bytes)
            self._bar.report(number, len(wanted))
        self._bar.report(1, 1)
        return cells

    async def _verify(self, found: FlashInput, counts: Statistics) -> bool:
        page_bytes = self._flash.page_bytes
        wanted = sorted({at // page_bytes * page_bytes for at, cell in enumerate(found.cells) if cell is not None})
        cells = await self._read_pages(wanted)
        for at, cell in enumerate(found.cells):
            if cell is not None and cells[at] != cell:
                self._process.err("avrdude warning: verification mismatch\n")
                self._process.err(
                    f"        device 0x{cells[at]:02x} != input 0x{cell:02x} at addr 0x{at:04x} (error)\n"
                )
                self._process.err("avrdude error: verification mismatch\n")
                return False
        verified = counts.count + counts.trailing
        self._info(f"avrdude: {verified} byte{_plural(verified)} of flash verified\n")
        return True


class _Bar:
    """Progress where standard error is no terminal: a cross for each two percent, then the time it took."""

    def __init__(self, process: Process, *, is_shown: bool) -> None:
        self._process = process
        self._is_shown = is_shown
        self._begun = 0.0
        self._percent = 0
        self._is_done = True

    def begin(self, title: str) -> None:
        """Begin a bar."""
        if self._is_shown:
            self._begun = self._process.bench.now()
            self._percent, self._is_done = 0, False
            self._process.err(f"\n{title} | ")

    def report(self, done: int, most: int) -> None:
        """Tell how far it is; more than all, and anything of nothing, is all."""
        percent = 100 if done >= most or most <= 0 else 100 * done // most
        if not self._is_shown or percent <= self._percent:
            return
        steps = percent * _BAR_STEPS // 100 - self._percent * _BAR_STEPS // 100
        self._percent = percent
        if self._is_done:
            return
        self._process.err("#" * steps)
        if percent == 100:
            self._is_done = True
            end = "\n\n" if most else ""
            self._process.err(f" | 100% {self._process.bench.now() - self._begun:.2f}s{end}")


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def _address(value: int) -> str:
    return str(value) if value < 16 else f"0x{value:x}"


def _hex_text(content: bytes) -> bytes:
    """Return content as the program writes it: 32 bytes a line, a type 04 record at each 64 KiB."""
    lines: list[bytes] = []
    for start in range(0, len(content), _HEX_LINE_BYTES):
        if start and start % 0x10000 == 0:
            lines.append(_hex_record(0, 4, (start >> 16).to_bytes(2)))
        lines.append(_hex_record(start & 0xFFFF, 0, content[start : start + _HEX_LINE_BYTES]))
    if content and len(content) % 0x10000 == 0:
        lines.append(_hex_record(0, 4, (len(content) >> 16).to_bytes(2)))
    return b"".join([*lines, _hex_record(0, 1, b"")])


def _hex_record(offset: int, kind: int, data: bytes) -> bytes:
    record = bytes((len(data),)) + offset.to_bytes(2) + bytes((kind,)) + data
    return b":" + (record + bytes((-sum(record) & 0xFF,))).hex().upper().encode() + b"\n"
