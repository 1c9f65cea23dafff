"""BootloadHID, by own code: its host program takes whatever board it finds first, and lets a firmware overwrite the bootloader.

The bootloader cannot be read, so nothing is: each page was taken, and what counts is the firmware's appearance.
"""

from collections.abc import Sequence

from ispd.chain.claims import part_of
from ispd.chain.contract import ChainWork, Desk
from ispd.chain.control import ask, ask_to_leave, batches, checked, opened
from ispd.errors import ErrorCode, Facts, TargetError
from ispd.model.image import Segment
from ispd.model.part import AvrPart
from ispd.transport.contract import UsbLink
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.bootloadhid import BLOCK_BYTES, GetInfo, Leave, WriteBlock

__all__ = ["TOOL", "BootloadHidTool"]


class BootloadHidTool:
    """The tool; see :class:`~ispd.chain.contract.ChainTool`. Holds nothing between calls."""

    name = "bootloadhid"
    families = frozenset({"bootloadhid"})
    program: str | None = None
    is_exclusive = False
    needs_tty = False
    erase_is_separate = False

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: each page is erased as it is written."""

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Write the firmware. Raises ``TargetError`` with ``board-unexpected`` where the bootloader is another chip's, or something else."""
        firmware, part = checked(work), part_of(work)
        async with opened(desk) as link:
            _check_texts(work, link)
            await _check_chip(part, link)
            for pages, size_bytes in batches(firmware, max(part.flash.page_bytes, BLOCK_BYTES)):
                await ask(link, [request for page in pages for request in _blocks(page)])
                desk.advance(size_bytes)
        return None

    async def start(self, work: ChainWork, desk: Desk) -> None:
        """Let the bootloader leave."""
        async with opened(desk) as link:
            _check_texts(work, link)
            await ask_to_leave(link, Leave())


def _blocks(page: Segment) -> list[WriteBlock]:
    return [
        WriteBlock(ByteAddress(page.start + at), page.data[at : at + BLOCK_BYTES])
        for at in range(0, len(page.data), BLOCK_BYTES)
    ]


def _check_texts(work: ChainWork, link: UsbLink) -> None:
    """Its USB id is any V-USB device's of the HID class: only the texts say that it is this one."""
    texts = (link.identity.manufacturer, link.identity.product)
    if work.bootloader.usb_texts and texts != work.bootloader.usb_texts:
        raise TargetError(
            ErrorCode.BOARD_UNEXPECTED,
            f"{link.name} is {' '.join(filter(None, texts)) or 'a nameless device'}, not {work.bootloader.title}",
            hint="was the board exchanged? keep it in place until the verdict",
        )


async def _check_chip(part: AvrPart, link: UsbLink) -> None:
    """With pages of another size it would write half pages, or none."""
    (info,) = await ask(link, [GetInfo()])
    if (info.page_bytes, info.flash_bytes) != (part.flash.page_bytes, part.flash.size_bytes):
        raise TargetError(
            ErrorCode.BOARD_UNEXPECTED,
            f"the bootloader is built for {info.flash_bytes} bytes of flash in pages of {info.page_bytes};"
            f" {part.name} has {part.flash.size_bytes} in pages of {part.flash.page_bytes}",
            hint="is it a board with this part? else name the right --part and bootloader image",
            facts=Facts(part=part.id, memory="flash"),
        )


TOOL = BootloadHidTool()
