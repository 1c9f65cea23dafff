"""LUFA's and QMK's HID bootloader: what goes over the wire, byte by byte."""

import pytest
from tests.unit.chain.scripted_desk import image, work_for
from tests.unit.chain.usb_desk import UsbDesk

from ispd.chain.hid_loader import TOOL
from ispd.errors import LinkClosedError, LocalProtocolError
from ispd.transport.contract import ControlTransfer

pytestmark = pytest.mark.anyio


def answer(transfer: ControlTransfer) -> bytes:
    assert not transfer.is_in, "it cannot be read"
    return b""


async def test_pages_go_out_as_output_reports():
    desk = UsbDesk(answer)
    firmware = image((0, bytes(range(200))), (0x6FF0, b"\xff" * 16))
    work = work_for("qmk-hid-32u4", firmware)
    assert await TOOL.write(work, desk) is None
    # no chip erase: a page that the firmware wants blank is sent, not skipped
    assert desk.lines == [
        "21 09 0200 0000 000000010203 +124",
        "21 09 0200 0000 800080818283 +124",
        "21 09 0200 0000 806FFFFFFFFF +124",
    ]
    assert desk.seen[1].data[2:] == bytes(range(128, 200)) + b"\xff" * 56
    assert (desk.done_bytes, desk.open_links) == (216, 0)
    desk.seen.clear()
    await TOOL.start(work, desk)
    assert desk.lines == ["21 09 0200 0000 FFFF00000000 +124"]


async def test_beyond_64_kib_addresses_are_those_of_256_bytes():
    desk = UsbDesk(answer)
    work = work_for("qmk-hid-usb128", image((0, b"\x0c\x94"), (0x1EF00, b"\x01")))
    await TOOL.write(work, desk)
    assert desk.lines == ["21 09 0200 0000 00000C94FFFF +252", "21 09 0200 0000 EF0101FFFFFF +252"]
    desk.seen.clear()
    await TOOL.start(work, desk)
    assert desk.lines == ["21 09 0200 0000 FFFF00000000 +252"]


async def test_it_never_writes_into_the_bootloader():
    """Older builds would take it."""
    desk = UsbDesk(answer)
    with pytest.raises(LocalProtocolError):
        await TOOL.write(work_for("lufa-hid-32u4", image((0, bytes(28_673)))), desk)
    assert desk.seen == []


async def test_a_board_that_leaves():
    work = work_for("lufa-hid-32u4", image((0, bytes(1000))))
    desk = UsbDesk(answer)
    desk.vanishes_after = 3
    with pytest.raises(LinkClosedError):
        await TOOL.write(work, desk)
    await TOOL.start(work, desk)
    assert desk.lines[-1].startswith("21 09 0200 0000 FFFF")
    assert desk.open_links == 0
