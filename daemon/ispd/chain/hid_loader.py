"""LUFA's HID bootloader and QMK's build of it, by own code: the program for them takes whatever board it finds first.

The bootloader cannot be read, so nothing is: each page was taken, and what counts is the firmware's appearance.
"""

from collections.abc import Sequence

from ispd.chain.claims import part_of
from ispd.chain.contract import ChainWork, Desk
from ispd.chain.control import ask, ask_to_leave, batches, checked, opened
from ispd.model.image import Segment
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.hid_loader import StartApplication, WritePage

__all__ = ["TOOL", "HidLoaderTool"]


class HidLoaderTool:
    """The tool; see :class:`~ispd.chain.contract.ChainTool`. Holds nothing between calls."""

    name = "hid-loader"
    families = frozenset({"lufa-hid"})
    program: str | None = None
    is_exclusive = False
    needs_tty = False
    erase_is_separate = False

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: each page is erased as it is written."""

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Write the firmware; older builds of the bootloader would take what overwrites them, so it was checked not to."""
        firmware, part = checked(work), part_of(work)
        async with opened(desk) as link:
            for pages, size_bytes in batches(firmware, part.flash.page_bytes):
                await ask(link, [WritePage(ByteAddress(p.start), p.data, part.flash.size_bytes) for p in pages])
                desk.advance(size_bytes)
        return None

    async def start(self, work: ChainWork, desk: Desk) -> None:
        """Start the firmware."""
        page_bytes = part_of(work).flash.page_bytes
        async with opened(desk) as link:
            await ask_to_leave(link, StartApplication(page_bytes))


TOOL = HidLoaderTool()
