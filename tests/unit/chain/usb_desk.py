"""A desk whose board is a function: each control transfer as it goes out, and what it brings."""

from collections.abc import Callable, Sequence

import anyio.lowlevel
from tests.unit.chain.scripted_desk import BOARD

from ispd.errors import LinkClosedError
from ispd.transport.clock import SystemClock
from ispd.transport.contract import (
    ControlTransfer,
    ToolOutcome,
    ToolRun,
    UsbDeviceAt,
    UsbIdentity,
    UsbLink,
    UsbTransfer,
)

__all__ = ["UsbDesk", "line"]

Answer = Callable[[ControlTransfer], bytes]


def line(transfer: ControlTransfer) -> str:
    """Return a transfer as a setup packet and its data, in hex: ``21 09 0302 0000 02 000000 ...``; of long data the first six bytes."""
    head = f"{transfer.request_type:02X} {transfer.request:02X} {transfer.value:04X} {transfer.index:04X}"
    if transfer.is_in:
        return f"{head} <{transfer.length}"
    rest = f" +{len(transfer.data) - 6}" if len(transfer.data) > 6 else ""
    return f"{head} {transfer.data[:6].hex().upper()}{rest}".rstrip()


class _Link:
    def __init__(self, desk: "UsbDesk") -> None:
        self.name = "usb:1-1.4"
        self.identity = desk.identity
        self._desk = desk

    async def submit(self, transfers: Sequence[UsbTransfer]) -> list[bytes]:
        await anyio.lowlevel.checkpoint()
        replies = []
        for transfer in transfers:
            assert isinstance(transfer, ControlTransfer)
            self._desk.seen.append(transfer)
            if self._desk.vanishes_after is not None and len(self._desk.seen) > self._desk.vanishes_after:
                raise LinkClosedError(self.name)
            replies.append(self._desk.answer(transfer))
        return replies

    async def aclose(self) -> None:
        self._desk.open_links -= 1


class UsbDesk:
    """See :class:`~ispd.chain.contract.Desk`."""

    def __init__(self, answer: Answer, *, texts: tuple[str, str] = ("", "")) -> None:
        self.clock = SystemClock()
        self.answer = answer
        self.identity = UsbIdentity(vendor_id=0, product_id=0, manufacturer=texts[0], product=texts[1])
        self.seen: list[ControlTransfer] = []
        self.done_bytes = 0
        self.looks = 0
        self.open_links = 0
        self.vanishes_after: int | None = None

    @property
    def lines(self) -> list[str]:
        """All transfers."""
        return [line(transfer) for transfer in self.seen]

    async def here(self) -> UsbDeviceAt:
        self.looks += 1
        return BOARD

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        raise NotImplementedError

    async def open_usb(self) -> UsbLink:
        assert self.looks, "the port is looked at before it is used"
        self.open_links += 1
        return _Link(self)

    def advance(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes
