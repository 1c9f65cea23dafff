"""Whatever goes wrong at whatever request: nothing more is sent, the device is closed, and who called is told."""

import itertools

import anyio
import pytest
from tests.unit.chain.scripted_desk import image, work_for
from tests.unit.chain.usb_desk import UsbDesk

from ispd.chain import bootloadhid, hid_loader, usbasploader
from ispd.chain.contract import ChainTool
from ispd.errors import LinkClosedError, LinkTimeoutError, RemoteProtocolError, TransportError
from ispd.model.image import Image
from ispd.transport.contract import ControlTransfer

pytestmark = pytest.mark.anyio

FIRMWARE = image((0, bytes(range(250)) * 10))
TOOLS: dict[str, ChainTool] = {
    "bootloadhid-m32a": bootloadhid.TOOL,
    "usbasploader-m328p": usbasploader.TOOL,
    "qmk-hid-32u4": hid_loader.TOOL,
}
FAULTS = [
    LinkClosedError("usb:1-1.4"),
    LinkTimeoutError("usb:1-1.4", 5.0),
    RemoteProtocolError("stall", is_usb=True),
]


def good(transfer: ControlTransfer) -> bytes:
    """Answer as each of the bootloaders does when all is well; what they have in common is that writes bring nothing."""
    match transfer.request_type, transfer.request:
        case 0xA1, 1:
            return bytes.fromhex("01 8000 00800000")
        case 0xC0, 3:
            return bytes([0, 0, 0, b"\x1e\x95\x0f\x00"[transfer.index & 3]])
        case 0xC0, 4:
            return FIRMWARE.bytes_in(FIRMWARE.span)[transfer.value :][: transfer.length]
        case 0xC0, 5:
            return b"\x00"
    return b""


def desk(answer=good) -> UsbDesk:
    return UsbDesk(answer, texts=("obdev.at", "HIDBoot"))


@pytest.mark.parametrize("name", TOOLS)
async def test_every_request_may_fail(name: str):
    work, tool = work_for(name, FIRMWARE), TOOLS[name]
    whole = desk()
    found = await tool.write(work, whole)
    assert found is None or Image.of(found) == FIRMWARE
    assert whole.done_bytes == len(FIRMWARE)
    for at, fault in itertools.product(range(len(whole.seen)), FAULTS):
        count = itertools.count()

        def answer(transfer: ControlTransfer, at=at, fault=fault, count=count) -> bytes:
            if next(count) == at:
                raise fault
            return good(transfer)

        failing = desk(answer)
        with pytest.raises((TransportError, RemoteProtocolError)) as caught:
            await tool.write(work, failing)
        assert caught.value is fault
        assert failing.lines == whole.lines[: at + 1]
        assert failing.open_links == 0
        assert failing.done_bytes <= len(FIRMWARE)


@pytest.mark.parametrize("name", TOOLS)
async def test_a_cancelled_job_closes_the_device(name: str):
    work, tool = work_for(name, FIRMWARE), TOOLS[name]
    scope = anyio.CancelScope()
    count = itertools.count()

    def answer(transfer: ControlTransfer) -> bytes:
        if next(count) == 8:
            scope.cancel()
        return good(transfer)

    cancelled = desk(answer)
    with scope:
        await tool.write(work, cancelled)
    assert scope.cancelled_caught
    assert cancelled.open_links == 0
    assert cancelled.done_bytes < len(FIRMWARE)
