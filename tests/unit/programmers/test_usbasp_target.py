"""Flash and EEPROM behind a USBasp."""

import random

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.usb_rig import Meddle
from tests.unit.programmers.usbasp_rig import (
    PARTS,
    READ_FLASH,
    SET_ADDRESS,
    TRANSMIT,
    WRITE_FLASH,
    Firmware,
    counts,
    erase,
    pages_of,
    rig,
)

from ispd.errors import ErrorCode, LocalProtocolError, TargetError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.wire import avr_isp
from vbench.faults import BusyForever, SlowWrites
from vbench.usbasp_firmware import UsbAspFirmware
from vbench.virtual_time import virtual


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
        await programmer.write(PARTS.avr("atmega8"), MemoryKind.FLASH, [], Watch())
    await programmer.leave()
    place.check()
