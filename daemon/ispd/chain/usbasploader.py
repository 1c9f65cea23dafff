"""USBaspLoader, by own code: it speaks the protocol of a USBasp programmer, and stands for the programmer and its target in one.

avrdude cannot choose among several, and would take a real USBasp just as well. What was written is read back.
Sources: ``firmware/main.c`` of USBaspLoader (Objective Development, 2007 on) and of its fork by Stephan Baerwolf.
"""

from collections.abc import Sequence
from typing import Final

from ispd.chain.claims import part_of
from ispd.chain.contract import ChainWork, Desk
from ispd.chain.control import ask, ask_to_leave, batches, checked, opened
from ispd.errors import ErrorCode, Facts, LocalProtocolError, TargetError
from ispd.model.image import Image, Segment
from ispd.model.part import AvrPart
from ispd.transport.contract import UsbLink
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.usbasp import Connect, Disconnect, EnableProg, GetCapabilities, ReadFlash, Transmit, WriteFlash

__all__ = ["TOOL", "UsbAspLoaderTool"]

_CHIP_ERASE: Final = bytes.fromhex("AC 80 00 00")
_EXIT: Final = bytes.fromhex("FF 00 00 00")
"""HAVE_BOOTLOADER_HIDDENEXITCOMMAND: builds since 2014 leave at a disconnect only after this one; others take no notice of it."""
_READ_SIGNATURE: Final = 0x30
_SIGNATURE_BYTES: Final = 3
_BLOCK_BYTES: Final = 128
"""The firmware takes only the lower 8 bits of a length."""
_BATCH_BLOCKS: Final = 16
_CAN_TPI: Final = 0x01
"""Capability of every USBasp since 2011 and of no bootloader: they have no second chip to program."""
_NEAR_BYTES: Final = 0x10000
"""What 16 bits of address reach."""


class UsbAspLoaderTool:
    """The tool; see :class:`~ispd.chain.contract.ChainTool`. Holds nothing between calls."""

    name = "usbasploader"
    families = frozenset({"usbasploader"})
    program: str | None = None
    is_exclusive = False
    needs_tty = False
    erase_is_separate = False

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        """Do nothing: writing erases, in builds without chip erase page by page."""

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        """Erase, write and read back the firmware.

        Raises ``TargetError`` with ``board-unexpected`` where a programmer is at the board's place, ``signature-mismatch`` where the
        bootloader says that it is another chip's.
        """
        firmware, part = checked(work), part_of(work)
        if firmware.span.stop > _NEAR_BYTES:
            raise LocalProtocolError("USBaspLoader is spoken to with 16 bits of address")
        async with opened(desk) as link:
            await _check_target(part, link)
            # ignored by builds that erase each page as they write it
            await ask(link, [Transmit(_CHIP_ERASE)])
            for pages, size_bytes in batches(firmware, part.flash.page_bytes):
                await ask(link, [request for page in pages for request in _blocks(page)])
                desk.advance(size_bytes)
            return await _read_back(link, firmware)

    async def start(self, work: ChainWork, desk: Desk) -> None:  # noqa: ARG002 - the contract's signature
        """Disconnect: the bootloader leaves for the application, where its build can."""
        async with opened(desk) as link:
            await ask(link, [Transmit(_EXIT)])
            await ask_to_leave(link, Disconnect())


async def _check_target(part: AvrPart, link: UsbLink) -> None:
    """Make sure, before anything is erased, that this is a bootloader on the right chip and no programmer with a board of its own.

    A programmer's target echoes each byte of an instruction one byte later; the bootloader answers with zeros around the wanted one.
    """
    (capabilities,) = await ask(link, [GetCapabilities()])
    if capabilities is not None and capabilities & _CAN_TPI:
        raise _programmer(link)
    await ask(link, [Connect()])
    (is_there,) = await ask(link, [EnableProg()])
    requests = [Transmit(bytes([_READ_SIGNATURE, 0, at, 0])) for at in range(_SIGNATURE_BYTES)]
    answers = await ask(link, requests)
    if not is_there or any(answer[1] == _READ_SIGNATURE for answer in answers):
        await ask(link, [Disconnect()])
        raise _programmer(link)
    signature = bytes(answer[-1] for answer in answers)
    if signature != part.signature.value:
        raise TargetError(
            ErrorCode.SIGNATURE_MISMATCH,
            f"the bootloader says that its chip has the signature {signature.hex(' ').upper()};"
            f" {part.name} has {part.signature}",
            hint="is it a board with this part? else name the right --part and bootloader image",
            facts=Facts(part=part.id, memory="signature"),
        )


def _programmer(link: UsbLink) -> TargetError:
    return TargetError(
        ErrorCode.BOARD_UNEXPECTED,
        f"{link.name} is a USBasp programmer, not a board in USBaspLoader; nothing was written",
        hint="see whether the slot's target_usb is the board's port",
    )


def _blocks(page: Segment) -> list[WriteFlash]:
    return [
        WriteFlash(
            ByteAddress(page.start + at),
            page.data[at : at + _BLOCK_BYTES],
            page_bytes=len(page.data),
            is_page_start=at == 0,
        )
        for at in range(0, len(page.data), _BLOCK_BYTES)
    ]


async def _read_back(link: UsbLink, firmware: Image) -> list[Segment]:
    """Return what flash holds where the firmware defines it."""
    spans = [block for segment in firmware.segments for block in segment.span.blocks(_BLOCK_BYTES)]
    found: list[Segment] = []
    for first in range(0, len(spans), _BATCH_BLOCKS):
        some = spans[first : first + _BATCH_BLOCKS]
        data = await ask(link, [ReadFlash(ByteAddress(span.start), len(span)) for span in some])
        found += [Segment(span.start, piece) for span, piece in zip(some, data, strict=True)]
    return found


TOOL = UsbAspLoaderTool()
