"""What own code for bootloaders shares: requests of the wire over the board's USB device, page by page."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ispd.chain.contract import ChainWork, Desk
from ispd.errors import LinkClosedError, LinkTimeoutError, LocalProtocolError, RemoteProtocolError
from ispd.model.image import Image, Segment
from ispd.model.span import Span
from ispd.transport.contract import ControlTransfer, UsbLink
from ispd.wire.control import ControlRequest

__all__ = ["ask", "ask_to_leave", "batches", "checked", "opened"]

R = TypeVar("R")

_TIMEOUT_S = 5.0
"""For one request, what bootloadHID's host tool and avrdude give it. The slowest is USBaspLoader's chip erase: 240 pages of 4.5 ms."""

_BATCH_PAGES = 16
"""Pages between two looks at progress and cancellation, some 0.3 s over low-speed USB."""


@asynccontextmanager
async def opened(desk: Desk) -> AsyncIterator[UsbLink]:
    """Open the board's bootloader, after a look that it is it, and close it in the end."""
    await desk.here()
    link = await desk.open_usb()
    try:
        yield link
    finally:
        await link.aclose()


async def ask(link: UsbLink, requests: Sequence[ControlRequest[R]]) -> list[R]:
    """Carry out requests back to back and return what their answers mean. Raises what ``UsbLink.submit`` raises."""
    replies = await link.submit([_transfer(request) for request in requests])
    return [request.decode(reply) for request, reply in zip(requests, replies, strict=True)]


async def ask_to_leave(link: UsbLink, request: ControlRequest[None]) -> None:
    """Carry out a request after which the bootloader may be gone before it has answered.

    Whether it did what it was asked is seen on USB, not from the answer.
    """
    try:
        await ask(link, [request])
    except (LinkClosedError, LinkTimeoutError, RemoteProtocolError):
        return


def checked(work: ChainWork) -> Image:
    """Return the firmware. Raises ``LocalProtocolError`` where it reaches into the bootloader, which not every one refuses."""
    limit = work.bootloader.application_max_bytes
    if limit is None or work.firmware.span.stop > limit:
        raise LocalProtocolError(
            f"a firmware of {work.firmware.span.stop} bytes was not to get to {work.bootloader.id}"
        )
    return work.firmware


def batches(firmware: Image, page_bytes: int) -> Iterator[tuple[list[Segment], int]]:
    """Yield whole pages, some at a time, and how many bytes of the firmware they hold.

    Pages of blank cells are among them where the firmware defines them: what was there before has to go.
    """
    pages = list(firmware.pages(page_bytes))
    for first in range(0, len(pages), _BATCH_PAGES):
        some = pages[first : first + _BATCH_PAGES]
        span = Span(some[0].start, some[-1].span.stop)
        yield some, sum(len(segment.span.overlap(span)) for segment in firmware.segments)


def _transfer(request: ControlRequest[Any]) -> ControlTransfer:
    fields = request.encode()
    return ControlTransfer(
        request_type=fields.request_type,
        request=fields.request,
        value=fields.value,
        index=fields.index,
        data=fields.data,
        length=fields.length,
        timeout_s=_TIMEOUT_S,
    )
