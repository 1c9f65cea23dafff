"""The USBtiny driver, against the emulated firmware on virtual time."""

import random

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.usb_rig import Rig

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, LocalProtocolError, ProgrammerError, RemoteProtocolError, TargetError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.usbtiny import DRIVER
from ispd.transport.contract import ControlTransfer, UsbIdentity
from ispd.wire import avr_isp
from vbench.faults import BusyForever, Fault, Silent
from vbench.target import AvrTarget
from vbench.usbtiny import UsbTiny, UsbTinyModel
from vbench.virtual_time import virtual

POWER_UP, POWER_DOWN, SPI, READ_FLASH, LOAD_FLASH, READ_EEPROM = 5, 6, 7, 9, 10, 11
FAST_CLOCK = {MemoryKind.LFUSE: 0xFF}
"""Crystal, not divided, on every part used here."""


def rig(name: str = "atmega32u4", *faults: Fault) -> Rig:
    part = load_parts().avr(name)
    target = AvrTarget(part, fuses=FAST_CLOCK, faults=faults)
    return Rig(DRIVER, UsbTiny(target=target, tau_s=0.0002, stretch=1.0), target)


async def erase(programmer: IspProgrammer, part: AvrPart) -> None:
    await programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(part.times.erase_s)


def pages_of(part: AvrPart, data: bytes, start: int = 0) -> list[Segment]:
    size = part.flash.page_bytes
    return [Segment(start + at, data[at : at + size]) for at in range(0, len(data), size)]


# -- identity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "product", "is_claimed"),
    [
        ((0x1781, 0x0C9F), "USBtinyISP", True),
        ((0x1781, 0x0C9F), "USBtinySPI", True),
        ((0x1781, 0x0C9F), "", True),
        ((0x1781, 0x0C9F), "Trinket", False),
        ((0x1781, 0x0C9F), "Gemma", False),
        ((0x2341, 0x0049), "", True),
        ((0x2A03, 0x0049), "", True),
        ((0x16D0, 0x0BA5), "", True),
        ((0x1209, 0x6570), "", True),
        ((0x2341, 0x0C9F), "", False),
        ((0x16C0, 0x05DC), "USBasp", False),
    ],
)
def test_bootloaders_that_borrow_the_protocol_are_not_claimed(
    ids: tuple[int, int], product: str, is_claimed: bool
) -> None:
    assert DRIVER.claims(UsbIdentity(vendor_id=ids[0], product_id=ids[1], product=product)) is is_claimed


@virtual
async def test_a_board_in_its_bootloader_is_refused_though_it_was_configured() -> None:
    target = AvrTarget(load_parts().avr("atmega32u4"))
    trinket = UsbIdentity(vendor_id=0x1781, product_id=0x0C9F, product="Adafruit Trinket")
    place = Rig(DRIVER, UsbTiny(target=target), target, usb=trinket)
    with pytest.raises(ProgrammerError) as refused:
        await place.open()
    assert refused.value.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER
    assert place.log == []


@virtual
async def test_opening_releases_a_target_that_an_earlier_run_left_in_reset() -> None:
    place = rig()
    first = await place.open()
    await first.enter(None, None)
    await first.aclose()
    place.bench.target("A1")
    assert place.target.in_reset
    again = await place.open()
    assert again.identity.firmware == "USBtinyISP"
    place.check()


@pytest.mark.parametrize("model", UsbTinyModel)
@virtual
async def test_every_make_is_opened_and_entered(model: UsbTinyModel) -> None:
    target = AvrTarget(load_parts().avr("atmega32u4"), fuses=FAST_CLOCK)
    board = UsbTiny(model, target=target)
    place = Rig(DRIVER, board, target)
    assert DRIVER.claims(board.usb)
    programmer = await place.open()
    for _ in range(2):
        await programmer.enter(target.part, 344_827)
        assert await programmer.transfer([avr_isp.read_signature(0)]) == b"\x1e"
    await programmer.leave()
    place.check()


# -- entering ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit_hz", "period", "sck_hz"),
    [
        (1_600_000, 1, 344_827),
        (344_827, 1, 344_827),
        (344_826, 2, 256_410),
        (200_000, 4, 169_491),
        (None, 4, 169_491),
        (3_969, 250, 3_969),
        (500, 250, 3_969),
    ],
)
@virtual
async def test_the_fastest_clock_not_above_the_limit_is_set(limit_hz: int | None, period: int, sck_hz: int) -> None:
    place = rig()
    programmer = await place.open()
    assert await programmer.enter(None, limit_hz) == sck_hz
    assert place.log[-2].value == period
    assert sck_hz in programmer.capabilities.sck_hz
    await programmer.leave()
    place.check()


@virtual
async def test_a_silent_target_gets_four_tries_and_is_left_to_its_signature() -> None:
    place = rig("atmega32u4", Silent())
    programmer = await place.open()
    place.log.clear()
    assert await programmer.enter(None, 100_000) > 0
    assert [transfer.request for transfer in place.log] == [POWER_DOWN, POWER_UP, POWER_UP, SPI] * 4
    assert anyio.current_time() < 0.25
    assert await programmer.transfer([avr_isp.read_signature(0)]) != b"\x1e"
    await programmer.leave()
    assert not place.target.in_reset


@virtual
async def test_a_target_that_listens_is_entered_once() -> None:
    place = rig()
    programmer = await place.open()
    place.log.clear()
    await programmer.enter(None, 344_827)
    assert [transfer.request for transfer in place.log] == [POWER_DOWN, POWER_UP, POWER_UP, SPI]
    await programmer.leave()
    place.check()


# -- flash beyond 64 KiB -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("at90usb1286", (0xFF00, 0x10000, 0x1FF00)),
        ("atmega2560", (0xFF00, 0x10000, 0x1FF00, 0x20000, 0x2FF00, 0x3FF00)),
    ],
)
@virtual
async def test_each_half_of_each_bank_is_written_and_read_right(name: str, places: tuple[int, ...]) -> None:
    place = rig(name)
    part = place.target.part
    programmer = await place.open()
    await programmer.enter(part, 344_827)
    await erase(programmer, part)
    pages = [Segment(at, random.Random(at).randbytes(256)) for at in places]
    assert await programmer.write(part, MemoryKind.FLASH, pages, Watch()) == len(pages)
    for page in pages:
        assert place.target.flash[page.start : page.start + 256] == page.data
    for page in reversed(pages):
        place.log.clear()
        assert (
            await programmer.read(MemoryKind.FLASH, Span(page.start + 1, page.start + 254), Watch()) == page.data[1:254]
        )
        in_bulk = [transfer for transfer in place.log if transfer.request == READ_FLASH]
        assert bool(in_bulk) is (page.start % 0x20000 < 0x10000)
        assert {len(transfer.data) for transfer in place.log} == {0}
    across = Span(0xFFF0, 0x10010)
    assert await programmer.read(MemoryKind.FLASH, across, Watch()) == place.target.flash[0xFFF0:0x10010]
    assert sum(byte != 0xFF for byte in place.target.flash) <= len(places) * 256
    await programmer.leave()
    place.check()


@virtual
async def test_an_extended_address_sent_from_above_is_not_mistaken_for_our_own() -> None:
    place = rig("atmega2560")
    part = place.target.part
    place.target.flash[0:4] = b"\x01\x02\x03\x04"
    programmer = await place.open()
    await programmer.enter(part, 344_827)
    assert await programmer.read(MemoryKind.FLASH, Span(0, 4), Watch()) == b"\x01\x02\x03\x04"
    await programmer.transfer([avr_isp.load_extended_address(1)])
    assert await programmer.read(MemoryKind.FLASH, Span(0, 4), Watch()) == b"\x01\x02\x03\x04"
    await programmer.leave()
    place.check()


# -- waiting for writes ------------------------------------------------------------------------------------------------


@virtual
async def test_parts_without_a_busy_bit_get_the_longest_time() -> None:
    place = rig("atmega8")
    part = place.target.part
    code = random.Random(8).randbytes(16 * part.flash.page_bytes)
    programmer = await place.open()
    await programmer.enter(part, 344_827)
    await erase(programmer, part)
    assert await programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch()) == 16
    assert await programmer.write(part, MemoryKind.EEPROM, [Segment(1, b"\x00\xff\x7e")], Watch()) == 1
    await programmer.leave()
    place.check()
    assert place.target.flash[: len(code)] == code
    assert place.target.eeprom[1:4] == b"\x00\xff\x7e"
    assert not any(transfer.value & 0xFF == 0xF0 for transfer in place.log if transfer.request == SPI)


@virtual
async def test_pages_are_polled_for_and_little_is_asked_in_vain() -> None:
    place = rig()
    part = place.target.part
    code = random.Random(9).randbytes(64 * part.flash.page_bytes)
    programmer = await place.open()
    await programmer.enter(part, 344_827)
    await erase(programmer, part)
    place.log.clear()
    begun = anyio.current_time()
    await programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch())
    assert (anyio.current_time() - begun) / 64 < 0.0225
    assert len(place.log) < 64 * 4.5
    assert sum(transfer.request == LOAD_FLASH for transfer in place.log) == 64
    await programmer.leave()
    place.check()


@virtual
async def test_a_write_that_never_ends_is_told() -> None:
    place = rig("atmega32u4", BusyForever(after_writes=3))
    part = place.target.part
    programmer = await place.open()
    await programmer.enter(part, 344_827)
    await erase(programmer, part)
    with pytest.raises(TargetError) as stuck:
        await programmer.write(part, MemoryKind.FLASH, pages_of(part, bytes(512)), Watch())
    assert stuck.value.code is ErrorCode.TARGET_BUSY
    assert stuck.value.facts.address == 128
    assert anyio.current_time() < 1
    await programmer.leave()
    assert not place.target.in_reset


# -- letting go of the target ------------------------------------------------------------------------------------------


async def power_down_behind_its_back(place: Rig) -> None:
    """Let another program on the same device power the target down."""
    place.board.control(ControlTransfer(request_type=0xC0, request=POWER_DOWN), place.bench.now())


@virtual
async def test_reading_takes_the_target_back_once_and_writing_never_goes_on_silently() -> None:
    place = rig()
    part = place.target.part
    code = random.Random(5).randbytes(1024)
    place.target.flash[: len(code)] = code
    programmer = await place.open()
    await programmer.enter(part, 344_827)
    await power_down_behind_its_back(place)
    assert await programmer.read(MemoryKind.FLASH, Span(0, 1024), Watch()) == code
    await erase(programmer, part)
    await power_down_behind_its_back(place)
    with pytest.raises(RemoteProtocolError):
        await programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch())
    assert set(place.target.flash) == {0xFF}
    assert await programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch()) == 8
    assert place.target.flash[:1024] == code
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
        await programmer.write(load_parts().avr("atmega8"), MemoryKind.FLASH, [], Watch())
    await programmer.leave()
    place.check()
