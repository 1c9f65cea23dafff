"""Operations on the flash as avrdude 7.1 carries them out, and the bar it draws meanwhile."""

from ispd.model.part import AvrPart
from vbench.tools.avrdude_avr109 import Avr109
from vbench.tools.avrdude_file import FlashInput, Statistics, high_address, load_input, statistics
from vbench.tools.avrdude_words import Operation, Task, Words
from vbench.tools.machine import Process

__all__ = ["Bar", "FlashWork"]

_BAR_STEPS = 50
_HEX_LINE_BYTES = 32


class FlashWork:
    """One operation on the flash."""

    def __init__(self, process: Process, words: Words, bar: "Bar", part: AvrPart, line: Avr109) -> None:
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
            if start in pages and not await self._line.write_page(start, pages[start]):
                self._write_bytes(found)
                return
            self._bar.report(number, len(pages))

    def _write_bytes(self, found: FlashInput) -> None:
        """Try byte by byte what went wrong by pages: AVR109 cannot, every byte is told to have failed, and then all is well."""
        page_bytes = self._flash.page_bytes
        end = (found.size + 1) // 2 * 2
        is_tainted = False
        for at in range(end):
            if any(cell is not None for cell in found.cells[at & ~1 : (at | 1) + 1]):
                is_tainted = True
                self._bar.complain(" ***failed;\n")
            if is_tainted and (at % page_bytes == page_bytes - 1 or at == end - 1):
                is_tainted = False
                first = at - page_bytes + 1
                self._bar.complain(
                    "avrdude error: butterfly programmer uses avr_write_page() but does not\n"
                    "        provide a cmd() method\n"
                    f" *** page {at // page_bytes} (addresses 0x{first & 0xFFFFFFFF:04x} - 0x{at:04x}) failed to write\n\n"
                )

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


class Bar:
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

    def complain(self, text: str) -> None:
        """Print an error; a bar that is not full is closed before, with strokes for what is missing."""
        if not self._is_done:
            self._is_done = True
            strokes = "-" * (_BAR_STEPS - self._percent * _BAR_STEPS // 100)
            seconds = self._process.bench.now() - self._begun
            self._process.err(f"{strokes} | {self._percent}% {seconds:.2f}s\n\n")
            self._percent = 100
        self._process.err(text)


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
