"""The contract of ISP programmers, run on every bed: open, enter, transfer, write, read, leave, unplug, cancel."""

import random

import anyio
import pytest
from tests.conformance.beds import CASES, VIRTUAL_CASES, Bed, Case, OpenBed, Watch

from ispd.catalog.parts import load_parts
from ispd.errors import LinkClosedError, LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, MemoryKind
from ispd.model.span import Span
from ispd.wire import avr_isp
from vbench.target import AvrTarget

FAST_CLOCK = {MemoryKind.LFUSE: 0xFF}
"""A crystal of 16 MHz, not divided, on all parts used here."""

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_virtual_case = pytest.mark.parametrize("case", VIRTUAL_CASES.values(), ids=VIRTUAL_CASES)


def target_of(name: str) -> AvrTarget:
    """Return a board whose target follows every SCK."""
    return AvrTarget(load_parts().avr(name), fuses=FAST_CLOCK)


def pages_of(part: AvrPart, data: bytes, start: int = 0) -> list[Segment]:
    """Cut bytes into whole flash pages."""
    size = part.flash.page_bytes
    return [Segment(start + at, data[at : at + size]) for at in range(0, len(data), size)]


async def erase(bed: Bed, part: AvrPart) -> None:
    """Erase the chip and wait as the data sheet says."""
    await bed.programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(part.times.erase_s)


async def enter(bed: Bed, part: AvrPart | None) -> None:
    """Enter programming mode as fast as the row allows."""
    assert await bed.programmer.enter(part, bed.row.wish_hz) == bed.row.sck_hz


@each_case
@pytest.mark.parametrize("name", ["atmega32u4", "atmega8"])
def test_a_session_writes_what_it_was_given_and_nothing_else(case: Case, name: str) -> None:
    part = load_parts().avr(name)
    code = random.Random(name).randbytes(6 * part.flash.page_bytes)
    settings = random.Random(2).randbytes(part.eeprom.page_bytes * 2 + 3)

    async def session(open_bed: OpenBed) -> None:
        async with open_bed(target_of(part.id)) as bed:
            programmer, watch = bed.programmer, Watch()
            assert programmer.identity.kind == case.row.driver.kind
            assert case.row.firmware in programmer.identity.firmware
            assert await programmer.enter(None, None) == case.row.default_hz
            signature = await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
            assert signature == part.signature.value
            await enter(bed, part)
            assert case.row.sck_hz in programmer.capabilities.sck_hz
            await erase(bed, part)
            high = part.flash.size_bytes - part.flash.page_bytes
            pages = pages_of(part, code) + pages_of(part, code[: part.flash.page_bytes], high)
            assert await programmer.write(part, MemoryKind.FLASH, pages, watch) == 7
            assert watch.total == 7 * part.flash.page_bytes
            assert {note % part.flash.page_bytes for note in watch.notes} == {0}
            start = 2 * part.eeprom.page_bytes - 1
            assert await programmer.write(part, MemoryKind.EEPROM, [Segment(start, settings)], watch) == 1
            assert watch.total == 7 * part.flash.page_bytes + len(settings)
            await check_read(bed, part, code, settings, start)
            await programmer.leave()
            bed.check()
            assert not bed.target.in_reset
            assert bed.target.flash[: len(code)] == code
            assert bed.target.flash[high:] == code[: part.flash.page_bytes]
            assert set(bed.target.flash[len(code) : high]) == {0xFF}
            assert bed.target.eeprom[start : start + len(settings)] == settings
            assert set(bed.target.eeprom[:start] + bed.target.eeprom[start + len(settings) :]) == {0xFF}

    case.run(session)


async def check_read(bed: Bed, part: AvrPart, code: bytes, settings: bytes, start: int) -> None:
    """Read flash and EEPROM with even and odd ends."""
    watch = Watch()
    assert await bed.programmer.read(MemoryKind.FLASH, Span(0, len(code)), watch) == code
    assert await bed.programmer.read(MemoryKind.FLASH, Span(3, 300), watch) == code[3:300]
    assert await bed.programmer.read(MemoryKind.EEPROM, Span(start, start + len(settings)), watch) == settings
    assert await bed.programmer.read(MemoryKind.EEPROM, Span(start + 1, start + 2), watch) == settings[1:2]
    assert watch.total == len(code) + 297 + len(settings) + 1
    assert await bed.programmer.read(MemoryKind.FLASH, Span(8, 8), watch) == b""


@each_case
def test_pages_with_gaps_between_them_land_where_they_belong(case: Case) -> None:
    part = load_parts().avr("atmega32u4")
    code = random.Random(6).randbytes(128)
    places = [0x0000, 0x0100, 0x0180, 0x7F80, 0x0400]

    async def session(open_bed: OpenBed) -> None:
        async with open_bed(target_of(part.id)) as bed:
            await enter(bed, part)
            await erase(bed, part)
            pages = [Segment(place, code) for place in places]
            assert await bed.programmer.write(part, MemoryKind.FLASH, pages, Watch()) == len(places)
            await bed.programmer.leave()
            bed.check()
            written = [place for place in range(0, 0x8000, 128) if bed.target.flash[place : place + 128] == code]
            assert written == sorted(places)
            assert bed.target.flash.count(0xFF) >= 0x8000 - len(places) * 128

    case.run(session)


@each_case
def test_a_stop_ends_between_pages_and_the_session_goes_on(case: Case) -> None:
    part = load_parts().avr("atmega32u4")
    code = random.Random(3).randbytes(12 * 128)

    async def session(open_bed: OpenBed) -> None:
        async with open_bed(target_of(part.id)) as bed:
            await enter(bed, part)
            await erase(bed, part)
            done = await bed.programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch(stop_after=4))
            assert 4 <= done <= 6
            assert bed.target.flash[: done * 128] == code[: done * 128]
            assert set(bed.target.flash[done * 128 :]) == {0xFF}
            rest = pages_of(part, code)[done:]
            assert await bed.programmer.write(part, MemoryKind.FLASH, rest, Watch()) == len(rest)
            some = await bed.programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch(stop_after=1))
            assert 256 <= len(some) < len(code)
            assert code.startswith(some)
            stopped = Watch(stop_after=2)
            eeprom = [Segment(0, bytes(8)), Segment(16, bytes(8))]
            assert await bed.programmer.write(part, MemoryKind.EEPROM, eeprom, stopped) == 1
            assert await bed.programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch()) == code
            await bed.programmer.leave()
            bed.check()

    case.run(session)


@each_case
def test_unplugging_while_writing_is_told_at_once(case: Case) -> None:
    part = load_parts().avr("atmega32u4")

    async def session(open_bed: OpenBed) -> None:
        async with open_bed(target_of(part.id)) as bed:
            await enter(bed, part)
            await erase(bed, part)
            code = random.Random(4).randbytes(40 * 128)
            begun = anyio.current_time()
            async with anyio.create_task_group() as tasks:

                async def expect_loss() -> None:
                    with pytest.raises(LinkClosedError):
                        await bed.programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch())

                tasks.start_soon(expect_loss)
                await anyio.sleep(0.3)
                bed.unplug()
            # in real time a busy machine has its say; deadlines of batches are longer still
            assert anyio.current_time() - begun < (0.6 if case.where == "virtual" else 4)
            with pytest.raises(LinkClosedError):
                await bed.programmer.leave()
            await bed.programmer.aclose()

    case.run(session)


@each_case
def test_a_cancelled_task_leaves_the_target_running(case: Case) -> None:
    part = load_parts().avr("atmega32u4")

    async def session(open_bed: OpenBed) -> None:
        async with open_bed(target_of(part.id)) as bed:
            with anyio.move_on_after(0.5):
                try:
                    await enter(bed, part)
                    await erase(bed, part)
                    pages = pages_of(part, random.Random(5).randbytes(32768))
                    await bed.programmer.write(part, MemoryKind.FLASH, pages, Watch())
                finally:
                    await bed.programmer.leave()
            bed.check()
            assert not bed.target.in_reset
            await enter(bed, None)
            assert await bed.programmer.transfer([avr_isp.read_signature(1)]) == part.signature.value[1:2]
            await bed.programmer.leave()

    case.run(session)


@each_case
def test_without_programming_mode_nothing_is_sent_and_leaving_is_harmless(case: Case) -> None:
    part = load_parts().avr("atmega32u4")

    async def session(open_bed: OpenBed) -> None:
        async with open_bed(target_of(part.id)) as bed:
            await bed.programmer.leave()
            for _ in range(2):
                with pytest.raises(LocalProtocolError):
                    await bed.programmer.transfer([avr_isp.read_signature(0)])
                with pytest.raises(LocalProtocolError):
                    await bed.programmer.read(MemoryKind.FLASH, Span(0, 2), Watch())
                with pytest.raises(LocalProtocolError):
                    await bed.programmer.write(part, MemoryKind.FLASH, pages_of(part, bytes(128)), Watch())
                await enter(bed, part)
                await bed.programmer.leave()
            assert not bed.target.in_reset
            bed.check()

    case.run(session)


SWEEP_S = [0.0093 * step + 0.0001 for step in range(24)]
"""Instants from the entering of programming mode to the middle of writing."""

IN_FLIGHT_S = 0.2
"""What is given to a write that was cut short before reset is released, as the floor above does."""


@each_virtual_case
def test_cancelling_at_any_instant_releases_the_target_and_cuts_no_write_short(case: Case) -> None:
    part = load_parts().avr("atmega32u4")
    code = random.Random(7).randbytes(8192)

    async def cancelled_after(open_bed: OpenBed, seconds: float) -> None:
        async with open_bed(target_of(part.id)) as bed:
            with anyio.move_on_after(seconds):
                try:
                    await enter(bed, part)
                    await bed.programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch())
                    await bed.programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch())
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(IN_FLIGHT_S)
                        await bed.programmer.leave()
            bed.check()
            assert not bed.target.in_reset
            await enter(bed, part)
            signature = await bed.programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
            assert signature == part.signature.value
            await bed.programmer.leave()

    async def sweep(open_bed: OpenBed) -> None:
        for seconds in SWEEP_S:
            await cancelled_after(open_bed, seconds)

    case.run(sweep)


@each_virtual_case
def test_the_plug_pulled_at_any_instant_is_told_as_that_and_nothing_else(case: Case) -> None:
    part = load_parts().avr("atmega32u4")
    code = random.Random(8).randbytes(8192)

    async def pulled_after(open_bed: OpenBed, seconds: float) -> None:
        async with open_bed(target_of(part.id)) as bed, anyio.create_task_group() as tasks:

            async def work() -> None:
                await enter(bed, part)
                await bed.programmer.write(part, MemoryKind.FLASH, pages_of(part, code), Watch())

            async def expect_loss() -> None:
                with pytest.raises(LinkClosedError):
                    await work()
                with pytest.raises(LinkClosedError):
                    await bed.programmer.leave()

            tasks.start_soon(expect_loss)
            await anyio.sleep(seconds)
            bed.unplug()

    async def sweep(open_bed: OpenBed) -> None:
        for seconds in SWEEP_S:
            await pulled_after(open_bed, seconds)

    case.run(sweep)
