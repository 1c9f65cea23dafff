"""Flash, EEPROM and entering through an ArduinoISP, whose sketch does some things differently."""

import random

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.stk500v1_rig import PORT, U4, Rig, rig

from ispd.catalog.parts import load_parts
from ispd.errors import LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.stk500v1 import DRIVER, window_of
from ispd.programmers.stk500v1_sketch import Sketch
from ispd.transport.contract import SerialSettings
from ispd.transport.link import SerialLink
from ispd.wire import avr_isp
from ispd.wire.avr_isp import WordAddress
from ispd.wire.engine import Chain
from ispd.wire.stk500v1 import LoadAddress, ProgramPage
from vbench.hardware import BenchHardware, BenchPort
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.virtual_time import virtual


@virtual
async def test_entering_without_a_target_succeeds_and_only_the_signature_tells() -> None:
    place = rig()
    place.bench.remove(PORT)
    programmer = await place.open()
    assert await programmer.enter(None, None) == 125_000
    nothing = await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
    assert nothing != U4.signature.value
    place.bench.insert(PORT, place.target)
    await programmer.enter(None, None)
    there = await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
    assert there == U4.signature.value
    place.check()


@virtual
async def test_eeprom_goes_by_word_address_up_to_its_last_cell() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    settings = random.Random(2).randbytes(300)
    start = 1024 - len(settings)
    assert await programmer.write(U4, MemoryKind.EEPROM, [Segment(start, settings)], Watch()) == 1
    assert place.target.eeprom[start:] == settings
    assert set(place.target.eeprom[:start]) == {0xFF}
    for span in (Span(start, 1024), Span(start + 1, start + 2), Span(1023, 1024), Span(start + 3, start + 262)):
        assert (
            await programmer.read(MemoryKind.EEPROM, span, Watch()) == settings[span.start - start : span.stop - start]
        )
    with pytest.raises(LocalProtocolError):
        await programmer.write(U4, MemoryKind.EEPROM, [Segment(1023, b"\0\0")], Watch())
    place.check()


@virtual
async def test_new_clock_fuses_act_after_entering_again() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    before = place.target.clock_hz
    await programmer.transfer([avr_isp.write_fuse(MemoryKind.LFUSE, 0xDE)])
    await anyio.sleep(0.01)
    assert place.target.clock_hz == before
    await programmer.enter(U4, None)
    assert await programmer.transfer([avr_isp.read_fuse(MemoryKind.LFUSE)]) == b"\xde"
    assert place.target.clock_hz != before
    place.check()


@virtual
async def test_one_port_serves_board_after_board_without_resetting_the_programmer() -> None:
    place = rig(Flavour.UNO)
    programmer = await place.open()
    sketch = place.board.sketch
    for number in range(3):
        if number:
            place.bench.insert(PORT, AvrTarget(U4))
        await programmer.enter(U4, None)
        assert await programmer.transfer([avr_isp.read_signature(0)]) == b"\x1e"
        await programmer.leave()
        place.bench.remove(PORT)
    assert place.bench.opened == 1
    assert place.board.sketch is sketch
    assert place.board.mcu.lost == 0


@pytest.mark.parametrize(("flavour", "baud"), [(Flavour.UART, 19200), (Flavour.UART, 1_000_000)])
@pytest.mark.parametrize("name", ["atmega2560", "attiny85", "at90usb1286", "atmega328p"])
def test_parts_of_all_sizes_by_blocks_and_by_loads(name: str, flavour: Flavour, baud: int) -> None:
    part = load_parts().avr(name)

    @virtual
    async def session() -> None:
        target = AvrTarget(part)
        bench = BenchHardware()
        board = SerialProgrammer(flavour, baud=baud, target=target)
        bench.add(PORT, board)
        programmer = await DRIVER.open(bench, PORT, baud=baud, usb=board.usb)
        await programmer.enter(part, None)
        size = part.flash.page_bytes
        middle, top = part.flash.size_bytes // 2, part.flash.size_bytes
        places = [0, middle - size, middle, top - size]
        content = {place: random.Random(place).randbytes(size) for place in places}
        pages = [Segment(place, data) for place, data in content.items()]
        assert await programmer.write(part, MemoryKind.FLASH, pages, Watch()) == 4
        across = await programmer.read(MemoryKind.FLASH, Span(middle - size, middle + size), Watch())
        assert across == content[middle - size] + content[middle]
        assert await programmer.read(MemoryKind.FLASH, Span(top - size, top), Watch()) == content[top - size]
        assert await programmer.read(MemoryKind.FLASH, Span(0, size), Watch()) == content[0]
        await programmer.leave()
        assert all(target.flash[place : place + size] == data for place, data in content.items())
        assert target.violations == []

    session()


@virtual
async def test_an_extended_address_set_by_the_caller_is_not_mistaken_for_ours() -> None:
    part = load_parts().avr("atmega2560")
    target = AvrTarget(part)
    bench = BenchHardware()
    bench.add(PORT, SerialProgrammer(Flavour.UART, target=target))
    programmer = await DRIVER.open(bench, PORT)
    await programmer.enter(part, None)
    first, second = (random.Random(seed).randbytes(256) for seed in (1, 2))
    assert await programmer.write(part, MemoryKind.FLASH, [Segment(0, first)], Watch()) == 1
    await programmer.transfer([avr_isp.load_extended_address(1), avr_isp.read_signature(0)])
    assert await programmer.write(part, MemoryKind.FLASH, [Segment(256, second)], Watch()) == 1
    assert target.flash[:512] == first + second
    assert set(target.flash[512:]) == {0xFF}


@virtual
async def test_bytes_owed_to_a_block_are_paid_so_that_nothing_is_written() -> None:
    place = rig()
    programmer = await place.open_and_erase()
    link = SerialLink(await reopened(place, programmer))
    sketch = Sketch(link, window_of(None))
    await sketch.ensure()
    block = Chain((LoadAddress(WordAddress(0)),), ProgramPage(bytes(range(128))))
    await link.say(block.encode()[:-2])
    link.lose_sync(owed_bytes=2)
    await sketch.ensure()
    assert anyio.current_time() < 1.5, "long before a stuck board would be freed by force"
    assert set(place.target.flash) == {0xFF}


async def reopened(place: Rig, programmer: IspProgrammer) -> BenchPort:
    """Close the programmer, its target still in programming mode, and open its port bare."""
    await programmer.aclose()
    return await place.bench.open_serial(SerialSettings(port=PORT, baud=place.board.baud))


@pytest.mark.parametrize(
    ("flavour", "baud", "page_ms", "read_ms"),
    [
        (Flavour.UART, 19200, 104.5, 135.0),  # 73 of 133 bytes visible, 65 ms of work; 258 bytes on the line
        (Flavour.UNO, 115200, 75.0, 70.0),  # the sketch's own work and a converter's latency
        (Flavour.UART, 1_000_000, 42.0, 70.0),  # single loads: 129 instructions and 4.5 ms
        (Flavour.LEONARDO, 19200, 46.0, 70.0),
        (Flavour.TEENSYDUINO, 19200, 50.0, 70.0),
    ],
)
def test_the_line_and_the_sketch_are_used_to_the_full(
    flavour: Flavour, baud: int, page_ms: float, read_ms: float
) -> None:
    @virtual
    async def session() -> None:
        place = rig(flavour, baud=baud)
        programmer = await place.open_and_erase()
        code = random.Random(9).randbytes(48 * 128)
        pages = [Segment(at, code[at : at + 128]) for at in range(0, len(code), 128)]
        begun = anyio.current_time()
        assert await programmer.write(U4, MemoryKind.FLASH, pages, Watch()) == 48
        written = anyio.current_time()
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch()) == code
        assert (written - begun) * 1000 / 48 < page_ms + 3, "the first page and the measurement come on top"
        assert (anyio.current_time() - written) * 1000 / 24 < read_ms
        place.check()

    session()
