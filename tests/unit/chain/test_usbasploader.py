"""USBaspLoader: what goes over the wire, byte by byte, and that no programmer is ever taken for a board."""

from collections.abc import Callable

import pytest
from tests.unit.chain.scripted_desk import image, work_for
from tests.unit.chain.usb_desk import UsbDesk

from ispd.chain.usbasploader import TOOL
from ispd.errors import ErrorCode, LinkClosedError, LocalProtocolError, TargetError
from ispd.model.image import Segment
from ispd.transport.contract import ControlTransfer

pytestmark = pytest.mark.anyio

CONNECT, DISCONNECT, TRANSMIT, READ, ENABLE, WRITE, CAPABILITIES = 1, 2, 3, 4, 5, 6, 127
M32A = b"\x1e\x95\x02"


class Loader:
    """A chip in USBaspLoader, after its ``main.c``: what it does not know brings nothing."""

    def __init__(self, signature: bytes = M32A, *, has_chip_erase: bool = True) -> None:
        self.flash = bytearray(b"\x55" * 0x8000)
        self._signature = signature
        self._has_chip_erase = has_chip_erase

    def __call__(self, transfer: ControlTransfer) -> bytes:
        match transfer.request:
            case 3:
                return bytes(3) + self._transmitted(transfer)
            case 4:
                return bytes(self.flash[transfer.value : transfer.value + transfer.length])
            case 5:
                return b"\x00"
            case 6:
                return self._written(transfer)
            case _:
                return b""

    def _transmitted(self, transfer: ControlTransfer) -> bytes:
        match transfer.value & 0xFF, transfer.value >> 8:
            case 0x30, _:
                return bytes([(self._signature + b"\x00")[transfer.index & 3]])
            case 0xAC, 0x80 if self._has_chip_erase:
                self.flash[:0x7000] = b"\xff" * 0x7000
        return b"\x00"

    def _written(self, transfer: ControlTransfer) -> bytes:
        """Cells of a page that is not erased first only lose bits."""
        assert len(transfer.data) <= 0xFF
        old = self.flash[transfer.value : transfer.value + len(transfer.data)]
        new = transfer.data
        if self._has_chip_erase:
            new = bytes(a & b for a, b in zip(old, new, strict=True))
        self.flash[transfer.value : transfer.value + len(new)] = new
        return b""


@pytest.mark.parametrize("has_chip_erase", [True, False])
async def test_the_firmware_is_written_and_read_back(has_chip_erase: bool):
    loader = Loader(has_chip_erase=has_chip_erase)
    desk = UsbDesk(loader)
    firmware = image((0, bytes(range(200))), (0x6FF0, b"\xff" * 16))
    found = await TOOL.write(work_for("usbasploader-m32a", firmware), desk)
    assert desk.lines == [
        "C0 7F 0000 0000 <4",
        "C0 01 0000 0000 <4",
        "C0 05 0000 0000 <4",
        "C0 03 0030 0000 <4",
        "C0 03 0030 0001 <4",
        "C0 03 0030 0002 <4",
        "C0 03 80AC 0000 <4",
        "40 06 0000 0180 000102030405 +122",
        "40 06 0080 0180 808182838485 +122",
        "40 06 6F80 0180 FFFFFFFFFFFF +122",
        "C0 04 0000 0000 <128",
        "C0 04 0080 0000 <72",
        "C0 04 6FF0 0000 <16",
    ]
    assert found == [
        Segment(0, bytes(range(128))),
        Segment(128, bytes(range(128, 200))),
        Segment(0x6FF0, b"\xff" * 16),
    ]
    assert loader.flash[:200] == bytes(range(200))
    assert loader.flash[0x7000:] == b"\x55" * 0x1000
    assert (desk.done_bytes, desk.open_links) == (216, 0)
    desk.seen.clear()
    await TOOL.start(work_for("usbasploader-m32a", firmware), desk)
    # newer builds leave at a disconnect only after an instruction that no part knows
    assert desk.lines == ["C0 03 00FF 0000 <4", "C0 02 0000 0000 <4"]


async def test_what_was_not_written_is_told_by_reading():
    """Not by what the loader says: it says nothing about a page that did not take."""
    loader = Loader()
    desk = UsbDesk(lambda transfer: b"" if transfer.request == WRITE else loader(transfer))
    found = await TOOL.write(work_for("usbasploader-m32a", image((0, bytes(300)))), desk)
    assert found == [Segment(0, b"\xff" * 128), Segment(128, b"\xff" * 128), Segment(256, b"\xff" * 44)]


def programmer(*, capabilities: bytes, has_target: bool) -> Callable[[ControlTransfer], bytes]:
    """A USBasp: its target echoes the byte before."""

    def answer(transfer: ControlTransfer) -> bytes:
        match transfer.request:
            case 127:
                return capabilities
            case 3:
                sent = transfer.value.to_bytes(2, "little") + transfer.index.to_bytes(2, "little")
                return bytes([0, sent[0], sent[1], M32A[sent[2]]]) if has_target else b"\xff" * 4
            case 5:
                return b"\x00" if has_target else b"\x01"
            case _:
                return b""

    return answer


@pytest.mark.parametrize("capabilities", [b"", bytes.fromhex("01000000"), bytes.fromhex("41000001"), bytes(4)])
@pytest.mark.parametrize("has_target", [True, False])
async def test_a_programmer_at_the_boards_place_gets_not_one_byte(capabilities: bytes, has_target: bool):
    desk = UsbDesk(programmer(capabilities=capabilities, has_target=has_target))
    with pytest.raises(TargetError) as caught:
        await TOOL.write(work_for("usbasploader-m32a", image((0, b"\x0c\x94"))), desk)
    assert caught.value.code is ErrorCode.BOARD_UNEXPECTED
    requests = [transfer.request for transfer in desk.seen]
    assert not {WRITE, READ} & set(requests)
    assert not [transfer for transfer in desk.seen if transfer.request == TRANSMIT and transfer.value & 0xFF != 0x30]
    # a target that was pulled into reset is let go
    assert (CONNECT in requests) == (requests[-1] == DISCONNECT)
    assert desk.open_links == 0


async def test_another_chip_is_not_erased():
    desk = UsbDesk(Loader(b"\x1e\x95\x0f"))
    with pytest.raises(TargetError) as caught:
        await TOOL.write(work_for("usbasploader-m32a", image((0, b"\x0c\x94"))), desk)
    assert caught.value.code is ErrorCode.SIGNATURE_MISMATCH
    assert "1E 95 0F" in caught.value.message
    assert "1E 95 02" in caught.value.message
    assert desk.lines[-1] == "C0 03 0030 0002 <4"
    # a twin of the part is as good
    assert await TOOL.write(work_for("usbasploader-m32a", image((0, b"\x0c\x94")), "atmega32"), UsbDesk(Loader()))


async def test_it_never_writes_into_the_bootloader():
    desk = UsbDesk(Loader())
    with pytest.raises(LocalProtocolError):
        await TOOL.write(work_for("usbasploader-m328p", image((0, bytes(28_673)))), desk)
    assert desk.seen == []


async def test_a_board_that_leaves():
    work = work_for("usbasploader-m32a", image((0, bytes(1000))))
    for vanishes_after in (2, 8, 17):
        desk = UsbDesk(Loader())
        desk.vanishes_after = vanishes_after
        with pytest.raises(LinkClosedError):
            await TOOL.write(work, desk)
        desk.vanishes_after = len(desk.seen) + 1
        await TOOL.start(work, desk)
        assert (desk.lines[-1], desk.open_links) == ("C0 02 0000 0000 <4", 0)
