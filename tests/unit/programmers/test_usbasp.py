"""The USBasp driver, against the emulated firmwares on virtual time."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.usb_rig import Meddle, Rig

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, LocalProtocolError, ProgrammerError, RemoteProtocolError, TargetError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind, Part
from ispd.model.span import Span
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.control import ControlChannel
from ispd.programmers.usbasp import DRIVER
from ispd.transport.contract import ControlTransfer, UsbIdentity
from ispd.wire import avr_isp
from vbench.faults import BusyForever, Fault, MisoStuck, MosiMisoShort, NoisyReplies, Silent, SlowWrites
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget, Circuit
from vbench.usbasp import UsbAsp
from vbench.usbasp_firmware import UsbAspFirmware
from vbench.usbasp_loader import UsbAspLoader
from vbench.virtual_time import virtual

CONNECT, DISCONNECT, TRANSMIT, READ_FLASH, ENABLE, WRITE_FLASH, SET_ADDRESS, SET_SCK, ASK = 1, 2, 3, 4, 5, 6, 9, 10, 127
FAST_CLOCK = {MemoryKind.LFUSE: 0xFF}
FACTORY: dict[MemoryKind, int] = {}
ONE_MHZ = {MemoryKind.LFUSE: 0x52}
"""8 MHz oscillator divided by 8, on ATmega32U4."""
Firmware = UsbAspFirmware
PARTS = load_parts()


def rig(
    name: str = "atmega32u4",
    *faults: Fault,
    firmware: UsbAspFirmware = Firmware.STOCK_2011,
    fuses: dict[MemoryKind, int] = FAST_CLOCK,
    slow_jumper: bool = False,
) -> Rig:
    target = AvrTarget(PARTS.get(name), fuses=fuses, faults=faults)
    return Rig(DRIVER, UsbAsp(firmware, target=target, slow_jumper=slow_jumper), target)


async def erase(programmer: IspProgrammer, part: Part) -> None:
    await programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(part.times.erase_s)


def pages_of(part: Part, data: bytes, start: int = 0) -> list[Segment]:
    size = part.flash.page_bytes
    return [Segment(start + at, data[at : at + size]) for at in range(0, len(data), size)]


def counts(place: Rig, *requests: int) -> list[int]:
    """Return how often each request was begun."""
    return [sum(transfer.request == one for transfer in place.log) for one in requests]


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

    async def submit(self, transfers: Sequence[ControlTransfer]) -> list[bytes]:
        return [self._answer(transfer) for transfer in transfers]

    def _answer(self, transfer: ControlTransfer) -> bytes:
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
    loader = UsbAspLoader(PARTS.get("atmega32a"))
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


# -- entering, and the SCK in truth ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit_hz", "option", "sck_hz"),
    [
        (2_666_666, 12, 1_500_000),
        (1_499_999, 11, 750_000),
        (200_000, 9, 187_500),
        (None, 9, 187_500),
        (93_750, 8, 93_750),
        (50_000, 7, 32_000),
        (8_000, 5, 8_000),
        (600, 1, 500),
        (100, 1, 500),
    ],
)
@virtual
async def test_the_fastest_clock_not_above_the_limit_is_set(limit_hz: int | None, option: int, sck_hz: int) -> None:
    place = rig()
    programmer = await place.open()
    place.log.clear()
    assert await programmer.enter(None, limit_hz) == sck_hz
    assert [transfer.value for transfer in place.log if transfer.request == SET_SCK] == [option]
    order = [transfer.request for transfer in place.log]
    assert order.index(SET_SCK) < order.index(CONNECT) < order.index(ENABLE)
    assert programmer.capabilities.sck_hz[0] == 500
    await programmer.leave()
    place.check()


@pytest.mark.parametrize("firmware", [Firmware.STOCK_2007, Firmware.STOCK_2009, Firmware.STOCK_2011])
@pytest.mark.parametrize("limit_hz", [None, 1_500_000, 16_000, 500])
@virtual
async def test_the_slow_jumper_is_noticed_and_told(firmware: UsbAspFirmware, limit_hz: int | None) -> None:
    place = rig(firmware=firmware, fuses=FACTORY, slow_jumper=True)
    programmer = await place.open()
    assert await programmer.enter(None, limit_hz) == 8_000
    assert programmer.capabilities.sck_hz == (8_000,)
    code = bytes(range(128))
    part = place.target.part
    await programmer.enter(part, limit_hz)
    await erase(programmer, part)
    assert await programmer.write(part, MemoryKind.FLASH, [Segment(0, code)], Watch()) == 1
    assert await programmer.read(MemoryKind.FLASH, Span(0, 128), Watch()) == code
    assert max(len(transfer.data) + transfer.length for transfer in place.log) == 20
    await programmer.leave()
    place.check()


@pytest.mark.parametrize("firmware", [Firmware.STOCK_2009, Firmware.STOCK_2011, Firmware.DIOANNIDIS])
@virtual
async def test_a_busy_machine_is_not_taken_for_a_slow_programmer(firmware: UsbAspFirmware) -> None:
    place = rig(firmware=firmware)
    programmer = await place.open()
    chance = random.Random(3)
    place.lag = lambda: chance.choice([0.0, 0.0002, 0.001, 0.004, 0.02])
    for _ in range(100):
        assert await programmer.enter(None, 1_500_000) == 1_500_000
        assert len(programmer.capabilities.sck_hz) > 1
    place.lag = lambda: 0.1 if place.log[-1].request == CONNECT and chance.random() < 0.3 else 0.0
    for _ in range(20):
        assert await programmer.enter(None, 1_500_000) >= 375_000
    await programmer.leave()
    place.check()


@virtual
async def test_old_firmware_goes_on_at_its_one_clock() -> None:
    place = rig(firmware=Firmware.STOCK_2007)
    programmer = await place.open()
    place.log.clear()
    for limit_hz in (None, 8_000, 1_500_000):
        assert await programmer.enter(None, limit_hz) == 375_000
    assert counts(place, SET_SCK) == [0]
    assert await programmer.transfer([avr_isp.read_signature(0)]) == b"\x1e"
    await programmer.leave()
    place.check()


@pytest.mark.parametrize("firmware", [Firmware.NERDRALPH, Firmware.DIOANNIDIS])
@pytest.mark.parametrize("limit_hz", [1_500_000, 750_000, 375_000])
@virtual
async def test_a_fork_that_goes_slower_by_itself_is_found_at_its_true_clock(
    firmware: UsbAspFirmware, limit_hz: int
) -> None:
    place = rig(firmware=firmware, fuses=ONE_MHZ)
    programmer = await place.open()
    assert await programmer.enter(None, limit_hz) == 187_500
    assert isinstance(place.board, UsbAsp)
    assert place.board.sck_hz == 187_500
    assert await programmer.transfer([avr_isp.read_signature(1)]) == place.target.part.signature.value[1:2]
    await programmer.leave()
    place.check()


@pytest.mark.parametrize("is_true", [True, False])
@virtual
async def test_3_mhz_is_believed_only_when_it_is_faster(is_true: bool) -> None:
    place = rig(firmware=Firmware.USBASP_FLASH)
    assert isinstance(place.board, UsbAsp)
    release = replace(place.board.release, has_3_mhz=is_true)
    place.board._release = place.board.isp._release = release
    fast = AvrTarget(PARTS.get("atmega32u4"), fuses=FAST_CLOCK, circuit=Circuit(crystal_hz=20e6))
    place.bench.remove("A1")
    place.bench.insert("A1", fast)
    programmer = await place.open()
    assert await programmer.enter(None, 2_666_666) == 1_500_000
    assert programmer.capabilities.sck_hz[-1] == 3_000_000
    for _ in range(2):
        assert await programmer.enter(None, 3_333_333) == (3_000_000 if is_true else 1_500_000)
        assert place.board.sck_hz == (3_000_000 if is_true else 1_500_000)
    assert programmer.capabilities.sck_hz[-1] == (3_000_000 if is_true else 1_500_000)
    assert await programmer.transfer([avr_isp.read_signature(0)]) == b"\x1e"
    await programmer.leave()
    assert fast.violations == []
    assert not fast.in_reset


@virtual
async def test_new_clock_fuses_act_after_entering_again() -> None:
    place = rig(fuses=FACTORY)
    part = place.target.part
    programmer = await place.open()
    await programmer.enter(part, 187_500)
    await programmer.transfer([avr_isp.write_fuse(MemoryKind.LFUSE, 0xFF)])
    await anyio.sleep(part.times.fuse_s)
    assert await programmer.enter(part, 1_500_000) == 1_500_000
    assert await programmer.transfer([avr_isp.read_fuse(MemoryKind.LFUSE)]) == b"\xff"
    await programmer.leave()
    place.check()


# -- flash -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware", [one for one in Firmware if one not in {Firmware.STOCK_2005, Firmware.STOCK_2007}])
@virtual
async def test_addresses_travel_only_where_pages_are_not_consecutive(firmware: UsbAspFirmware) -> None:
    place = rig(firmware=firmware)
    part = place.target.part
    code = random.Random(1).randbytes(10 * 128)
    pages = pages_of(part, code[: 6 * 128]) + pages_of(part, code[6 * 128 :], 0x4000)
    programmer = await place.open()
    await programmer.enter(part, 1_500_000)
    await erase(programmer, part)
    place.log.clear()
    assert await programmer.write(part, MemoryKind.FLASH, pages, Watch()) == 10
    assert counts(place, SET_ADDRESS, WRITE_FLASH) == [2, 10]
    assert counts(place, TRANSMIT)[0] <= 3
    assert all(transfer.index == 0x0180 for transfer in place.log if transfer.request == WRITE_FLASH)
    place.log.clear()
    assert await programmer.read(MemoryKind.FLASH, Span(0, 768), Watch()) == code[:768]
    assert counts(place, SET_ADDRESS, READ_FLASH) == [1, 4]
    await programmer.leave()
    place.check()
    assert place.target.flash[0x4000 : 0x4000 + 512] == code[768:]


@pytest.mark.parametrize("name", ["attiny45", "attiny25", "atmega8", "at90usb646", "atmega2560", "atmega32u4"])
@pytest.mark.parametrize("limit_hz", [1_500_000, 8_000])
@virtual
async def test_pages_of_every_size_land_where_they_belong(name: str, limit_hz: int) -> None:
    place = rig(name)
    part = place.target.part
    page_bytes = part.flash.page_bytes
    numbers = [0, 1, 2, 3, 7, 8, 20, 13, part.flash.size_bytes // page_bytes - 1]
    pages = [Segment(one * page_bytes, random.Random(one).randbytes(page_bytes)) for one in numbers]
    pages[1] = Segment(pages[1].start, pages[1].data[:-1] + b"\xff")
    pages[2] = Segment(pages[2].start, b"\xff" * page_bytes)
    programmer = await place.open()
    await programmer.enter(part, limit_hz)
    await erase(programmer, part)
    watch = Watch()
    assert await programmer.write(part, MemoryKind.FLASH, pages, watch) == len(pages)
    assert sum(watch.notes) == len(pages) * page_bytes
    for page in pages:
        span = Span(page.start, page.start + page_bytes)
        assert place.target.flash[span.start : span.stop] == page.data
        assert await programmer.read(MemoryKind.FLASH, span, Watch()) == page.data
    assert len(place.target.flash) - place.target.flash.count(0xFF) <= len(pages) * page_bytes
    await programmer.leave()
    place.check()


@virtual
async def test_an_extended_address_sent_from_above_does_not_lead_reads_and_writes_astray() -> None:
    place = rig("atmega2560")
    part = place.target.part
    low, high = random.Random(1).randbytes(256), random.Random(2).randbytes(256)
    programmer = await place.open()
    await programmer.enter(part, 1_500_000)
    await erase(programmer, part)
    for start, data, foreign in [(0, low, 1), (0x20000, high, 0)]:
        await programmer.transfer([avr_isp.load_extended_address(foreign)])
        assert await programmer.write(part, MemoryKind.FLASH, [Segment(start, data)], Watch()) == 1
        await programmer.transfer([avr_isp.load_extended_address(foreign)])
        assert await programmer.read(MemoryKind.FLASH, Span(start, start + 256), Watch()) == data
    assert place.target.flash[:256] == low
    assert place.target.flash[0x20000:0x20100] == high
    assert await programmer.read(MemoryKind.FLASH, Span(0x1FFF0, 0x20010), Watch()) == b"\xff" * 16 + high[:16]
    await programmer.leave()
    place.check()


@virtual
async def test_a_part_slower_than_its_data_sheet_is_not_cut_short() -> None:
    place = rig("atmega32u4", SlowWrites(1.9))
    part = place.target.part
    pages = [Segment(at, bytes(127) + (b"\xff" if at % 256 else b"\x00")) for at in range(0, 1024, 128)]
    programmer = await place.open()
    await programmer.enter(part, 1_500_000)
    await programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(part.times.erase_s * 2)
    assert await programmer.write(part, MemoryKind.FLASH, pages, Watch()) == 8
    await programmer.leave()
    place.check()
    assert place.target.flash[:1024] == b"".join(page.data for page in pages)


@virtual
async def test_a_write_that_never_ends_is_told_at_its_first_page() -> None:
    place = rig("atmega32u4", BusyForever(after_writes=2))
    part = place.target.part
    programmer = await place.open()
    await programmer.enter(part, 1_500_000)
    await erase(programmer, part)
    with pytest.raises(TargetError) as stuck:
        await programmer.write(part, MemoryKind.FLASH, pages_of(part, bytes(1024)), Watch())
    assert stuck.value.code is ErrorCode.TARGET_BUSY
    assert stuck.value.facts.address == 0
    assert counts(place, WRITE_FLASH) == [1]
    await programmer.leave()
    assert not place.target.in_reset


@virtual
async def test_a_failed_read_does_not_rely_on_the_address_in_the_firmware() -> None:
    place = rig()
    code = random.Random(4).randbytes(1200)
    place.target.flash[: len(code)] = code
    programmer = await place.open()
    await programmer.enter(place.target.part, 1_500_000)
    place.log.clear()
    place.meddler = lambda index, _transfer: Meddle.SHORT if index == 4 else None
    assert await programmer.read(MemoryKind.FLASH, Span(0, 1200), Watch()) == code
    addresses = [transfer.value for transfer in place.log if transfer.request == SET_ADDRESS]
    assert addresses == [0, 400]
    await programmer.leave()
    place.check()


@virtual
async def test_pages_and_memories_that_do_not_exist_are_refused() -> None:
    place = rig()
    part = place.target.part
    programmer = await place.open()
    await programmer.enter(part, None)
    for memory, page in [
        (MemoryKind.FLASH, Segment(64, bytes(128))),
        (MemoryKind.FLASH, Segment(0, bytes(64))),
        (MemoryKind.EEPROM, Segment(1023, bytes(2))),
        (MemoryKind.LOCK, Segment(0, b"\x00")),
    ]:
        with pytest.raises(LocalProtocolError):
            await programmer.write(part, memory, [page], Watch())
    with pytest.raises(LocalProtocolError):
        await programmer.read(MemoryKind.LFUSE, Span(0, 1), Watch())
    with pytest.raises(LocalProtocolError):
        await programmer.write(PARTS.get("atmega8"), MemoryKind.FLASH, [], Watch())
    await programmer.leave()
    place.check()
