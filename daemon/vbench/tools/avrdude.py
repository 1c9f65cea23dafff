"""avrdude 7.1 as Debian has it, with ``-c avr109`` on a tty and operations on the flash.

Written after what that release does, compared with the program itself on the bench's Caterina. Anything else is refused loudly.
Parts are those of the catalog. Of the help and of the list of parts only the first line is there.
"""

from dataclasses import replace

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, TransportError
from ispd.model.part import AvrPart, Signature
from ispd.transport.contract import SerialSettings
from vbench.tools.avrdude_avr109 import Avr109
from vbench.tools.avrdude_file import guess_form
from vbench.tools.avrdude_flash import Bar, FlashWork
from vbench.tools.avrdude_words import ExitError, Task, Words, read_words
from vbench.tools.machine import Process, UnemulatedError

__all__ = ["VERSIONS", "run"]

VERSIONS = ("7.1",)
_FAREWELL = "\navrdude done.  Thank you.\n\n"
_SIGNATURE_S = 0.01
_SIGNATURE_TRIES = 3
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
        self._bar = Bar(process, is_shown=words.quiet == 0)

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
            line = Avr109(self._process, port, self._bar.complain)
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
            if not await FlashWork(self._process, self._words, self._bar, part, line).carry_out(operation):
                return 1
        return 0

    def _part(self) -> AvrPart | None:
        wanted = self._words.part
        if wanted is None:
            self._process.err("\navrdude error: no AVR part has been specified; use -p part\n\nValid parts are:\n")
            return None
        for part in load_parts().of(AvrPart):
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

    async def _check_signature(self, line: Avr109, part: AvrPart) -> bool:
        wait_s = _SIGNATURE_S
        for attempt in range(1, _SIGNATURE_TRIES + 1):
            await self._process.bench.sleep(wait_s)
            found = await line.signature()
            wait_s *= 5
            known = load_parts().by_signature(Signature(found), AvrPart)
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
