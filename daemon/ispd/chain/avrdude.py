"""avrdude, for Caterina: AVR109 over the bootloader's own serial port, everything in one run.

The loader leaves when avrdude does, and by itself 8 s after the last block wherever a firmware is; so one run writes and
reads. What it read lands in a file, and that decides: an exit code may come from the goodbye, when the port is gone already.
"""

from collections.abc import Sequence

from ispd.catalog.hexwriter import write_hex
from ispd.chain.claims import part_of, tool_failed
from ispd.chain.contract import ChainWork, Desk
from ispd.chain.progress import MarkBar
from ispd.errors import ErrorCode, TargetError
from ispd.model.image import BLANK, Segment
from ispd.transport.contract import Opener, SerialSettings, ToolRun

__all__ = ["TOOL", "Avrdude", "touch"]

_PROGRAM = "avrdude"
_FILE = "firmware.hex"
_READ_BACK = "flash.bin"

_TOUCH_BAUD = 1200
"""A sketch whose port is opened at this rate and let go resets into the bootloader (Arduino core, ``CDC.cpp``)."""

_BAR_MARKS = 50
"""Marks of a bar where standard error is no terminal (avrdude 7.1, ``update_progress_no_tty``): one for 2 %."""

_DEADLINE_S = 60.0
"""28 KiB take about 4 s to erase, write and read; a silent loader is given up by avrdude after 5 s for each command."""


async def touch(opener: Opener, port: str, path: str) -> None:
    """Ask a sketch to start the bootloader: open its port at 1200 baud and let go of DTR.

    The loader appears on the same USB port within a second, under another id; QMK firmware has no such port.
    """
    link = await opener.open_serial(SerialSettings(port=port, baud=_TOUCH_BAUD, path=path, hangs_up=True))
    await link.aclose()


class Avrdude:
    """The tool; see :class:`~ispd.chain.contract.ChainTool`. Holds nothing between calls."""

    name = _PROGRAM
    families = frozenset({"caterina"})
    program: str | None = _PROGRAM
    is_exclusive = False
    needs_tty = True
    erase_is_separate = False

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: avrdude erases before it writes."""

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Write the firmware and read the flash in the same run; the loader then starts the firmware."""
        here = await desk.here()
        if here.tty is None:
            raise TargetError(
                ErrorCode.BOOTLOADER_NOT_SEEN,
                f"the bootloader at {here.path} shows no serial port",
                hint="see that no other program holds it (ModemManager, brltty): `ispctl doctor`",
            )
        bar = MarkBar("Writing | ", "#", marks=_BAR_MARKS, total_bytes=len(work.firmware))
        outcome = await desk.run(
            ToolRun(
                words=(
                    *(_PROGRAM, "-p", part_of(work).avrdude_id, "-c", "avr109", "-P", here.tty, "-V"),
                    *("-U", f"flash:w:{_FILE}:i", "-U", f"flash:r:{_READ_BACK}:r"),
                ),
                deadline_s=_DEADLINE_S,
                inputs={_FILE: write_hex(work.firmware)},
                outputs=(_READ_BACK,),
            ),
            lambda text: desk.advance(bar.feed(text)),
        )
        cells = outcome.files.get(_READ_BACK)
        if cells is None:
            raise tool_failed(self.name, "write", outcome, work)
        desk.advance(bar.rest())
        return [Segment(0, cells.ljust(work.firmware.span.stop, bytes([BLANK])))]

    async def start(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: avrdude leaves the loader, which starts the firmware half a second later."""


TOOL = Avrdude()
