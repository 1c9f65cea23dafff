"""What is taken for a USBasp and what is not, against the emulated firmwares on virtual time."""

from collections.abc import Callable, Sequence

import pytest
from tests.unit.programmers.usbasp_rig import ASK, CONNECT, ENABLE, PARTS, SET_SCK, TRANSMIT, Firmware, rig

from ispd.errors import ErrorCode, LocalProtocolError, ProgrammerError, RemoteProtocolError
from ispd.programmers.control import ControlChannel
from ispd.programmers.usbasp import DRIVER
from ispd.transport.contract import ControlTransfer, UsbIdentity, UsbTransfer
from ispd.wire import avr_isp
from vbench.faults import Fault, MisoStuck, MosiMisoShort, NoisyReplies, Silent
from vbench.hardware import BenchHardware
from vbench.usbasp import UsbAsp
from vbench.usbasp_firmware import UsbAspFirmware
from vbench.usbasp_loader import UsbAspLoader
from vbench.virtual_time import virtual

# -- identity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "manufacturer", "product", "is_claimed"),
    [
        ((0x16C0, 0x05DC), "www.fischl.de", "USBasp", True),
        ((0x03EB, 0xC7B4), "www.fischl.de", "USBasp", True),
        ((0x16C0, 0x092F), "www.nicai-systems.com", "NIBObee", True),
        ((0x16C0, 0x05DC), "www.obdev.at", "USBasp", False),
        ((0x16C0, 0x05DC), "www.fischl.de", "USBasp clone", False),
        ((0x16C0, 0x05DC), "", "", False),
        ((0x16C0, 0x092F), "www.fischl.de", "USBasp", False),
        ((0x03EB, 0xC8B4), "zhifengsoft", "USBHID", False),
    ],
)
def test_the_shared_id_is_claimed_only_with_its_texts(
    ids: tuple[int, int], manufacturer: str, product: str, is_claimed: bool
) -> None:
    usb = UsbIdentity(vendor_id=ids[0], product_id=ids[1], manufacturer=manufacturer, product=product)
    assert DRIVER.claims(usb) is is_claimed


@pytest.mark.parametrize(
    ("firmware", "clocks", "max_flash_bytes", "words"),
    [
        (Firmware.STOCK_2005, (375_000,), 0x10000, "cannot set SCK"),
        (Firmware.STOCK_2007, (375_000,), 0x10000, "cannot set SCK"),
        (Firmware.STOCK_2009, (500, 1_500_000), 0x20000, "2009"),
        (Firmware.STOCK_2011, (500, 1_500_000), None, "2011"),
        (Firmware.DIOANNIDIS, (500, 1_500_000), None, "000000A1"),
        (Firmware.USBASP_FLASH, (500, 3_000_000), None, "01000001"),
    ],
)
@virtual
async def test_each_firmware_is_known_by_what_it_answers(
    firmware: UsbAspFirmware, clocks: tuple[int, ...], max_flash_bytes: int | None, words: str
) -> None:
    place = rig(firmware=firmware)
    programmer = await place.open()
    found = programmer.capabilities
    assert (found.sck_hz[0], found.sck_hz[-1]) == (clocks[0], clocks[-1])
    assert list(found.sck_hz) == sorted(found.sck_hz)
    assert found.max_flash_bytes == max_flash_bytes
    assert words in programmer.identity.firmware
    place.check()


@virtual
async def test_opening_releases_a_target_that_an_earlier_run_left_in_reset() -> None:
    place = rig()
    first = await place.open()
    await first.enter(None, None)
    await first.aclose()
    place.bench.target("A1")
    assert place.target.in_reset
    await place.open()
    place.check()


# -- boards that only look like a USBasp -------------------------------------------------------------------------------


class ScriptedLink:
    """A device that answers as ``reply`` says, and remembers what it was asked."""

    def __init__(self, reply: Callable[[ControlTransfer], bytes | None]) -> None:
        self.name = "usb:1-1.7"
        self.identity = UsbIdentity(vendor_id=0x16C0, product_id=0x05DC, manufacturer="www.fischl.de", product="USBasp")
        self.asked: list[int] = []
        self.is_closed = False
        self._reply = reply

    async def submit(self, transfers: Sequence[UsbTransfer]) -> list[bytes]:
        return [self._answer(transfer) for transfer in transfers]

    def _answer(self, transfer: UsbTransfer) -> bytes:
        assert isinstance(transfer, ControlTransfer)
        self.asked.append(transfer.request)
        answer = self._reply(transfer)
        if answer is None:
            raise RemoteProtocolError(f"request {transfer.request} refused (stall)")
        return answer[: transfer.length]

    async def aclose(self) -> None:
        self.is_closed = True


class ScriptedHardware(BenchHardware):
    def __init__(self, link: ScriptedLink) -> None:
        super().__init__()
        self._link = link

    async def open_usb(self, port: str) -> ScriptedLink:  # type: ignore[override]  # a scripted link is a link, too
        assert port == self._link.name
        return self._link


def original_loader(transfer: ControlTransfer) -> bytes:
    """USBaspLoader 2008 to 2012 (obdev): knows neither SETISPSCK nor GETCAPABILITIES."""
    signature = b"\x1e\x93\x07\x00"
    return {TRANSMIT: bytes(3) + signature[transfer.index & 3 :][:1], ENABLE: b"\x00"}.get(transfer.request, b"")


def later_loader(transfer: ControlTransfer) -> bytes:
    """USBaspLoader of 2013 on (baerwolf): says yes to SETISPSCK."""
    return b"\x00" if transfer.request == SET_SCK else original_loader(transfer)


def echoing_loader(transfer: ControlTransfer) -> bytes:
    """A loader that repeats the bytes undelayed, answers GETCAPABILITIES, and nothing else than reads (df4iah)."""
    match transfer.request:
        case 3 if transfer.value == 0x0030:
            return transfer.value.to_bytes(2, "little") + bytes((transfer.index & 0xFF, 0x1E))
        case 127:
            return bytes(4)
        case 5 | 10:
            return b"\x00"
        case _:
            return b""


@pytest.mark.parametrize("loader", [original_loader, later_loader, echoing_loader])
@virtual
async def test_a_keyboard_in_usbasploader_is_found_out_and_neither_written_nor_started(
    loader: Callable[[ControlTransfer], bytes],
) -> None:
    link = ScriptedLink(loader)
    with pytest.raises(ProgrammerError) as refused:
        await DRIVER.open(ScriptedHardware(link), link.name)
    assert refused.value.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER
    assert "keyboard" in refused.value.hint
    assert set(link.asked) <= {CONNECT, TRANSMIT, ENABLE, SET_SCK, ASK}
    assert link.is_closed


@virtual
async def test_the_emulated_loader_is_found_out_too() -> None:
    bench = BenchHardware()
    loader = UsbAspLoader(PARTS.avr("atmega32a"))
    bench.add("A1", loader)
    assert DRIVER.claims(loader.usb)
    with pytest.raises(ProgrammerError) as refused:
        await DRIVER.open(bench, "A1")
    assert refused.value.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER
    assert (loader.writes, loader.disconnects) == (0, 0)


@virtual
async def test_a_loader_that_took_a_programmers_place_is_found_out_at_the_latest_when_entering() -> None:
    place = rig()
    programmer = await place.open()
    loader = ScriptedLink(later_loader)
    programmer._channel = ControlChannel(loader)  # type: ignore[attr-defined]  # the device behind the link changed
    with pytest.raises(ProgrammerError) as refused:
        await programmer.enter(None, None)
    assert refused.value.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER
    asked = len(loader.asked)
    await programmer.leave()
    assert len(loader.asked) == asked
    with pytest.raises(LocalProtocolError):
        await programmer.transfer([avr_isp.chip_erase()])


@pytest.mark.parametrize("answer", [None, b"", b"\x00\x00"])
@virtual
async def test_what_does_not_answer_at_all_like_a_usbasp_is_no_programmer(answer: bytes | None) -> None:
    link = ScriptedLink(lambda _transfer: answer)
    with pytest.raises(ProgrammerError) as refused:
        await DRIVER.open(ScriptedHardware(link), link.name)
    assert refused.value.code is ErrorCode.PROGRAMMER_SILENT
    assert link.is_closed


@pytest.mark.parametrize("firmware", Firmware)
@pytest.mark.parametrize(
    "faults",
    [
        (Silent(),),
        (Silent(level=0),),
        (MisoStuck(0),),
        (MisoStuck(0xFF),),
        (MosiMisoShort(),),
        (NoisyReplies(0.5),),
        (),
    ],
    ids=lambda faults: type(faults[0]).__name__ if faults else "none",
)
@virtual
async def test_a_programmer_is_no_loader_whatever_its_target_does(
    firmware: UsbAspFirmware, faults: tuple[Fault, ...]
) -> None:
    place = rig("atmega32u4", *faults, firmware=firmware)
    programmer = await place.open()
    for limit_hz in (93_750, 1_500_000):
        assert await programmer.enter(None, limit_hz) > 0
        assert len(await programmer.transfer([avr_isp.read_signature(0)])) == 1
    await programmer.leave()
    assert not place.target.in_reset


@virtual
async def test_a_programmer_without_any_board_is_no_loader() -> None:
    bench = BenchHardware()
    bench.add("A1", UsbAsp())
    programmer = await DRIVER.open(bench, "A1")
    await programmer.enter(None, None)
    assert await programmer.transfer([avr_isp.read_signature(0)]) == b"\xff"
    await programmer.leave()
