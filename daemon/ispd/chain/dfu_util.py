"""dfu-util, for USB DFU (STM32duino, Kiibohd) and ST's DfuSe (ROM loaders of STM32, APM32, GD32V, AT32).

The board is chosen by its place in the USB tree and its id, both exact. ``--wait`` is never used: 0.11 swallows the argument
after it. Exit codes decide nothing: 74 and 251 are usual after a good write, when the board left before the last question.

A DfuSe loader stays after writing and is read back. The others are not: STM32duino notes in a backup register that it was
just written and jumps into the firmware at its next reset, without its window of 1.3 s (its ``main.c``, ``dfu.c``:
``RTC_BOOTLOADER_JUST_UPLOADED``), and dfu-util cannot read before it finishes a download. What counts there is that the
loader took every block, checked it, and accepted the end; and then the firmware's appearance.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ispd.catalog.cortex_image import vector_table
from ispd.chain.claims import text_of, tool_failed
from ispd.chain.contract import ChainWork, Desk
from ispd.chain.progress import ByteBar
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.image import Segment
from ispd.model.span import Span
from ispd.transport.contract import ToolOutcome, ToolRun

__all__ = ["TOOL", "DfuUtil", "RawBinary", "claims_download", "raw_binary"]

_PROGRAM = "dfu-util"
_FILE = "firmware.bin"
_READ_BACK = "flash.bin"
_DFUSE = "dfuse"
_STM32DUINO = "stm32duino"

_WORD_BYTES = 4
"""Loaders program words (STM32duino) or half-words; an odd tail is filled up."""

_STACK_MASK, _STACK = 0x2FFE0000, 0x20000000
"""What STM32duino asks of the first word before it starts a firmware (``checkUserCode``)."""

_START_S = 20.0
_BYTES_PER_S = 1000
"""A fifteenth of what an STM32F103 takes: 40 ms erasing and 26 ms programming for each KiB."""

_BEGUN = "DFU mode device DFU version"
_DONE = "Download done."
_ACCEPTED = re.compile(r"state\((?:2|6|7|8)\) = \S+ status\(0\)|^Done!", re.MULTILINE)
"""Idle again, or one of the states in which a loader takes the firmware as its own (DFU 1.1, chapter 6)."""

_REFUSED = re.compile(
    r"Error during (?:special command|download(?! get_status))|state\(10\)|status\((?!0\))\d+\)|failed!"
)


@dataclass(frozen=True, slots=True)
class RawBinary:
    """A firmware as plain bytes for an address."""

    address: int
    data: bytes


def raw_binary(work: ChainWork) -> RawBinary:
    """Return the firmware from its first address on, gaps and the last word filled with 0xFF.

    An image that begins at 0 has no addresses of its own (a plain .bin) and is taken as the application's.

    Raises ``RefusedError`` (image-does-not-fit) where it does not begin where the loader starts it, or where its vectors
    point elsewhere: a .bin linked for 0x08000000 is the commonest mistake, and is seen by its reset vector.
    """
    start, span = work.bootloader.application_start, work.firmware.span
    if span.start not in (0, start):
        raise _misplaced(f"the firmware begins at 0x{span.start:08X}, the bootloader starts it at 0x{start:08X}")
    whole = Span(span.start, span.start + -(-len(span) // _WORD_BYTES) * _WORD_BYTES)
    data = work.firmware.bytes_in(whole)
    if "application_start" in work.bootloader.unverified:
        return RawBinary(start, data)
    table = vector_table(work.firmware, span.start)
    if work.bootloader.qmk == _STM32DUINO and (table is None or table.stack & _STACK_MASK != _STACK):
        raise _misplaced("the firmware does not begin with a stack pointer into RAM")
    if table is not None and table.has_stack and table.entry not in Span(start, start + len(data)):
        raise _misplaced(
            f"the firmware's reset vector 0x{table.reset:08X} is outside of it: it was linked for another address"
        )
    return RawBinary(start, data)


def claims_download(outcome: ToolOutcome, *, is_dfuse: bool) -> bool:
    """Tell whether the output says that the device took the whole file and nothing went wrong before.

    What comes after that (the device left, so that the last status or the reset failed) is how it should end.
    """
    output = text_of(outcome.output)
    began = output.find(_BEGUN)  # before that, it clears errors of an earlier session
    _, _, after = output[max(0, began) :].partition(_DONE)
    if _REFUSED.search(output, max(0, began)) or _REFUSED.search(text_of(outcome.errors)):
        return False
    return "File downloaded successfully" in after if is_dfuse else _ACCEPTED.search(after) is not None


class DfuUtil:
    """The tool; see :class:`~ispd.chain.contract.ChainTool`. Holds nothing between calls."""

    name = _PROGRAM
    families = frozenset({"dfu", _DFUSE})
    program: str | None = _PROGRAM
    is_exclusive = False
    needs_tty = False
    erase_is_separate = False

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: the loaders erase what they write."""

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Write the firmware; with DfuSe read it back too."""
        raw = raw_binary(work)
        is_dfuse = work.bootloader.family == _DFUSE
        bar = ByteBar("Download", total_bytes=len(raw.data))
        scale = _Scale(len(raw.data), len(work.firmware))
        outcome = await self._run(
            work,
            desk,
            (*(("-s", f"0x{raw.address:08X}") if is_dfuse else self._reset(work)), "-D", _FILE),
            len(raw.data),
            inputs={_FILE: raw.data},
            on_text=lambda text: desk.advance(scale.of(bar.feed(text))),
        )
        if not claims_download(outcome, is_dfuse=is_dfuse):
            raise tool_failed(self.name, "write", outcome, work)
        desk.advance(scale.of(bar.rest()))
        if not is_dfuse:
            return None
        return await self._read(work, desk, raw)

    async def start(self, work: ChainWork, desk: Desk) -> None:
        """Let a DfuSe loader leave; the others did by themselves. dfu-util leaves after reading as well as after writing."""
        if work.bootloader.family == _DFUSE:
            address = work.bootloader.application_start
            words = ("-s", f"0x{address:08X}:leave:{_WORD_BYTES}", "-U", _READ_BACK)
            await self._run(work, desk, words, _WORD_BYTES)

    @staticmethod
    def _reset(work: ChainWork) -> tuple[str, ...]:
        """STM32duino waits for a reset of the bus after the last block; others leave on their own."""
        return ("-R",) if work.bootloader.qmk == _STM32DUINO else ()

    async def _read(self, work: ChainWork, desk: Desk, raw: RawBinary) -> Sequence[Segment]:
        words = ("-s", f"0x{raw.address:08X}:{len(raw.data)}", "-U", _READ_BACK)
        outcome = await self._run(work, desk, words, len(raw.data))
        cells = outcome.files.get(_READ_BACK, b"")
        if len(cells) < len(raw.data):
            raise tool_failed(self.name, "read back", outcome, work)
        return [Segment(work.firmware.span.start, cells)]

    @staticmethod
    async def _run(
        work: ChainWork,
        desk: Desk,
        words: tuple[str, ...],
        size_bytes: int,
        *,
        inputs: dict[str, bytes] | None = None,
        on_text: Callable[[str], object] = lambda _: None,
    ) -> ToolOutcome:
        here = await desk.here()
        device = f"{here.usb.vendor_id:04x}:{here.usb.product_id:04x}"
        alternate = 0 if work.bootloader.dfu_alt is None else work.bootloader.dfu_alt
        return await desk.run(
            ToolRun(
                words=(_PROGRAM, "-p", here.path, "-d", device, "-a", str(alternate), *words),
                deadline_s=_START_S + size_bytes / _BYTES_PER_S,
                inputs=inputs or {},
                outputs=(_READ_BACK,) if "-U" in words else (),
            ),
            on_text,
        )


class _Scale:
    """Counts bytes of the file as bytes of the firmware, which has gaps."""

    def __init__(self, file_bytes: int, firmware_bytes: int) -> None:
        self._file_bytes = file_bytes
        self._firmware_bytes = firmware_bytes
        self._passed = 0

    def of(self, more: int) -> int:
        before = self._passed * self._firmware_bytes // self._file_bytes
        self._passed += more
        return self._passed * self._firmware_bytes // self._file_bytes - before


def _misplaced(message: str) -> RefusedError:
    return RefusedError(
        ErrorCode.IMAGE_DOES_NOT_FIT,
        message,
        hint="build the firmware for this bootloader (QMK: BOOTLOADER in rules.mk)",
        facts=Facts(memory="flash"),
    )


TOOL = DfuUtil()
