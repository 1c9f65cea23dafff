"""BootloadHID: what goes over the wire, byte by byte, and what it must never do."""

import pytest
from tests.unit.chain.scripted_desk import image, work_for
from tests.unit.chain.usb_desk import UsbDesk

from ispd.chain.bootloadhid import TOOL
from ispd.errors import ErrorCode, IspdError, LinkClosedError, LocalProtocolError, TargetError
from ispd.transport.contract import ControlTransfer

pytestmark = pytest.mark.anyio

TEXTS = ("obdev.at", "HIDBoot")
INFO = bytes.fromhex("01 8000 00800000")
"""What a build for the ATmega32A answers: pages of 128 bytes, 32 KiB."""


def answer(transfer: ControlTransfer) -> bytes:
    return INFO if transfer.is_in else b""


async def test_pages_go_out_as_feature_reports():
    desk = UsbDesk(answer, texts=TEXTS)
    firmware = image((0, bytes(range(200))), (0x6FF0, b"\xff" * 16))
    assert await TOOL.write(work_for("bootloadhid-m32a", firmware), desk) is None
    # a page that the firmware wants blank is sent too: it may hold something
    assert desk.lines == [
        "A1 01 0301 0000 <7",
        "21 09 0302 0000 020000000001 +126",
        "21 09 0302 0000 028000008081 +126",
        "21 09 0302 0000 02806F00FFFF +126",
    ]
    assert desk.seen[1].data[4:] == bytes(range(128))
    assert desk.seen[2].data[4:] == bytes(range(128, 200)) + b"\xff" * 56
    assert (desk.done_bytes, desk.open_links) == (216, 0)
    desk.seen.clear()
    await TOOL.start(work_for("bootloadhid-m32a", firmware), desk)
    assert desk.lines == ["21 09 0301 0000 010000000000 +1"]


async def test_a_whole_firmware_is_sent_in_order_and_counted():
    firmware = image((0, bytes(index & 0xFF for index in range(28_672))))
    desk = UsbDesk(answer, texts=TEXTS)
    await TOOL.write(work_for("bootloadhid-m32a", firmware), desk)
    blocks = desk.seen[1:]
    assert [int.from_bytes(block.data[1:4], "little") for block in blocks] == list(range(0, 28_672, 128))
    assert b"".join(block.data[4:] for block in blocks) == firmware.segments[0].data
    assert desk.done_bytes == 28_672


@pytest.mark.parametrize(
    ("texts", "info"),
    [
        (("www.fischl.de", "USBasp"), INFO),
        (("", ""), INFO),
        (("HIDBoot", "obdev.at"), INFO),
        (TEXTS, bytes.fromhex("01 4000 00200000")),
        (TEXTS, bytes.fromhex("01 8000 00400000")),
    ],
)
async def test_another_device_or_chip_gets_not_one_byte(texts: tuple[str, str], info: bytes):
    desk = UsbDesk(lambda _transfer: info, texts=texts)
    with pytest.raises(TargetError) as caught:
        await TOOL.write(work_for("bootloadhid-m32a", image((0, b"\x0c\x94"))), desk)
    assert caught.value.code is ErrorCode.BOARD_UNEXPECTED
    assert [transfer for transfer in desk.seen if not transfer.is_in] == []
    assert desk.open_links == 0
    if texts != TEXTS:
        with pytest.raises(TargetError):
            await TOOL.start(work_for("bootloadhid-m32a", image((0, b"\x0c\x94"))), desk)
        assert [transfer for transfer in desk.seen if not transfer.is_in] == []


@pytest.mark.parametrize("info", [b"", INFO[:6], b"\x02" + INFO[1:]])
async def test_an_answer_without_meaning_ends_it(info: bytes):
    desk = UsbDesk(lambda _transfer: info, texts=TEXTS)
    with pytest.raises(IspdError) as caught:
        await TOOL.write(work_for("bootloadhid-m32a", image((0, b"\x0c\x94"))), desk)
    assert caught.value.code is ErrorCode.PROTOCOL_REMOTE
    assert (len(desk.seen), desk.open_links) == (1, 0)


async def test_it_never_writes_into_the_bootloader():
    """Its own host program would: it keeps 2048 bytes free of 4096."""
    desk = UsbDesk(answer, texts=TEXTS)
    with pytest.raises(LocalProtocolError):
        await TOOL.write(work_for("bootloadhid-m32a", image((0, bytes(28_673)))), desk)
    assert desk.seen == []


async def test_a_board_that_leaves():
    """In the midst of writing that is the end; when it was asked to leave it is what was asked."""
    work = work_for("bootloadhid-m32a", image((0, bytes(1000))))
    desk = UsbDesk(answer, texts=TEXTS)
    desk.vanishes_after = 3
    with pytest.raises(LinkClosedError):
        await TOOL.write(work, desk)
    assert desk.open_links == 0
    await TOOL.start(work, desk)
    assert desk.lines[-1] == "21 09 0301 0000 010000000000 +1"
    assert desk.open_links == 0
