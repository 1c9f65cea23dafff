"""teensy_loader_cli, for HalfKay: closed source, writes only, and takes the first board it finds (its source, 2.2).

The bootloader cannot be read, so nothing is: what counts is that every block was taken, and the firmware's appearance.
"""

from collections.abc import Sequence

from ispd.catalog.hexwriter import write_hex
from ispd.chain.claims import text_of, tool_failed
from ispd.chain.contract import ChainWork, Desk
from ispd.chain.progress import MarkBar
from ispd.errors import LocalProtocolError
from ispd.model.image import BLANK, Segment
from ispd.transport.contract import ToolOutcome, ToolRun

__all__ = ["TOOL", "TeensyLoader"]

_PROGRAM = "teensy_loader_cli"
_FILE = "firmware.hex"

_MCUS = {
    "at90usb162": ("at90usb162", 128),
    "atmega32u4": ("atmega32u4", 128),
    "at90usb646": ("at90usb646", 256),
    "at90usb647": ("at90usb646", 256),
    "at90usb1286": ("at90usb1286", 256),
    "at90usb1287": ("at90usb1286", 256),
    "mkl26z64": ("mkl26z64", 512),
    "mk20dx128": ("mk20dx128", 1024),
    "mk20dx256": ("mk20dx256", 1024),
    "mk66fx1m0": ("mk66fx1m0", 1024),
}
"""Name and bytes of a block, by part or chip (``MCUs`` in its source; the -7 parts differ in pins only)."""

_DEADLINE_S = 120.0
"""It tries each of the first blocks for up to 45 s, since the board erases itself meanwhile (2.3; 5 s in 2.2)."""


class TeensyLoader:
    """The tool; see :class:`~ispd.chain.contract.ChainTool`. Holds nothing between calls."""

    name = _PROGRAM
    families = frozenset({"halfkay"})
    program: str | None = _PROGRAM
    is_exclusive = True
    needs_tty = False
    erase_is_separate = False

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: the first block erases."""

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Write the firmware and let it start; in one run, since a second one could find another board."""
        mcu, block_bytes = _mcu(work)
        blocks = _blocks(work, block_bytes)
        bar = MarkBar("Programming", ".", marks=blocks, total_bytes=len(work.firmware))
        await desk.here()
        outcome = await desk.run(
            ToolRun(
                words=(_PROGRAM, f"--mcu={mcu}", "-v", _FILE),
                deadline_s=_DEADLINE_S,
                inputs={_FILE: write_hex(work.firmware)},
            ),
            lambda text: desk.advance(bar.feed(text)),
        )
        if not _claims_success(outcome, blocks):
            raise tool_failed(self.name, "write", outcome, work)
        desk.advance(bar.rest())
        return None

    async def start(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: writing ended with it."""


def _mcu(work: ChainWork) -> tuple[str, int]:
    names = work.bootloader.chips if work.part is None else (work.part.id,)
    found = [_MCUS[name.lower()] for name in names if name.lower() in _MCUS]
    if len(found) != 1:
        raise LocalProtocolError(f"{_PROGRAM} does not know the chip of {work.bootloader.id}")
    return found[0]


def _blocks(work: ChainWork, block_bytes: int) -> int:
    """Return how many blocks it sends: the first one always, of the others those with something in them."""
    pages = work.firmware.pages(block_bytes)
    return 1 + sum(page.start > 0 and any(byte != BLANK for byte in page.data) for page in pages)


def _claims_success(outcome: ToolOutcome, blocks: int) -> bool:
    """Believe it where the code, the count of blocks and the last line agree; a file it cannot parse is no failure to it."""
    text = text_of(outcome.output)
    count = MarkBar("Programming", ".", marks=blocks, total_bytes=blocks)
    count.feed(text)
    return outcome.exit_code == 0 and count.seen_marks == blocks and "Booting" in text and "parse error" not in text


TOOL = TeensyLoader()
