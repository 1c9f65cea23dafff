"""What a Bus Pirate writes and reads on each firmware, where it lands, and how long it takes."""

import random

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.buspirate_rig import CODE, PAGES, PARTS, PORT, U4, V3, V4, erase, rig, signature

from ispd.errors import ErrorCode, TargetError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import SerialSettings
from vbench.bus_pirate import BusPirateHardware
from vbench.bus_pirate_firmware import FIRMWARES
from vbench.faults import BusyForever
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual, virtual

# -- every firmware ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware", FIRMWARES)
@pytest.mark.parametrize("hardware", BusPirateHardware)
@pytest.mark.parametrize("sck_hz", [1_600_000, 400_000, 130_000])
def test_every_firmware_writes_and_reads_what_it_was_given(
    hardware: BusPirateHardware, firmware: str, sck_hz: int
) -> None:
    async def session() -> None:
        place = rig(hardware, firmware)
        assert place.target is not None
        programmer = await place.open_and_erase(sck_hz)
        assert programmer.identity.kind == "buspirate"
        assert await signature(programmer) == U4.signature.value
        watch = Watch()
        settings = random.Random(2).randbytes(11)
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, watch) == len(PAGES)
        assert await programmer.write(U4, MemoryKind.EEPROM, [Segment(3, settings)], watch) == 1
        assert watch.total == len(CODE) + len(settings)
        assert await programmer.read(MemoryKind.FLASH, Span(1, 0x301), watch) == (CODE + b"\xff")[1:]
        assert await programmer.read(MemoryKind.EEPROM, Span(3, 14), watch) == settings
        assert watch.total == 2 * (len(CODE) + len(settings))
        await programmer.leave()
        place.check()
        assert place.target.flash[: len(CODE)] == CODE
        assert place.target.eeprom[3:14] == settings
        await programmer.aclose()
        again = await place.open()
        assert again.identity == programmer.identity
        place.check()

    run_virtual(session)


@pytest.mark.parametrize(
    ("hardware", "firmware", "baud", "text"),
    [
        (V3, "5.2", 115200, "v5.2 on hardware v3.5"),
        (V3, "5.10", 250_000, "v5.10 (r559) on hardware v3.5"),
        (V3, "6.1", 2_000_000, "v6.1 r1676 on hardware v3.5"),
        (V3, "7.1", 2_000_000, "v7.1 on hardware v3.5"),
        (V3, "8.0", 250_000, "v8.0 on hardware v3.5"),
        (V4, "6.3-r2151", 115200, "v6.3-beta1 r2151 on hardware v4"),
        (V4, "7.1", 115200, "unknown firmware on hardware v4"),
    ],
)
def test_the_rate_is_what_hardware_and_firmware_take(
    hardware: BusPirateHardware, firmware: str, baud: int, text: str
) -> None:
    async def session() -> None:
        place = rig(hardware, firmware)
        programmer = await place.open()
        assert place.bench.taps[0].rates[-1] == baud
        assert programmer.identity.firmware == text
        assert hardware is V3 or place.bench.taps[0].rates == [115200]
        await programmer.aclose()
        terminal = await place.bench.open_serial(SerialSettings(port=PORT, baud=115200))
        await anyio.sleep(0.2)
        terminal.take()
        await terminal.send(b"\n")
        await anyio.sleep(0.1)
        if text.startswith("v"):
            assert terminal.take().endswith(b"HiZ>")

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["6.1", "7.1-2018", "8.0"])
def test_no_command_that_moves_reset_or_goes_unanswered_is_ever_sent(firmware: str) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        programmer = await place.open_and_erase()
        await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
        await programmer.leave()
        await programmer.aclose()
        for _, data in place.bench.taps[0].sent:
            assert not data.startswith(b"\x04")
            assert not (data.startswith(b"\x05") and data[3:5] == b"\x00\x00")

    run_virtual(session)


# -- parts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["at90usb1286", "atmega2560", "atmega1284p"])
@pytest.mark.parametrize("hardware", BusPirateHardware)
def test_flash_above_64_kib_is_written_and_read_where_it_belongs(name: str, hardware: BusPirateHardware) -> None:
    part = PARTS.avr(name)
    size, page = part.flash.size_bytes, part.flash.page_bytes

    async def session() -> None:
        target = AvrTarget(part, fuses={MemoryKind.LFUSE: part.fuses[0].default | 0x80})
        place = rig(hardware, target=target)
        programmer = await place.open()
        await programmer.enter(part, 1_000_000)
        await erase(programmer)
        await anyio.sleep(0.05)
        places = [0, 0x10000 - page, 0x10000, 0x20000 - 2 * page, size - page]
        code = {at: random.Random(at).randbytes(page) for at in places}
        pages = [Segment(at, data) for at, data in sorted(code.items())]
        assert await programmer.write(part, MemoryKind.FLASH, pages, Watch()) == len(pages)
        image = bytearray(b"\xff" * size)
        for segment in pages:
            image[segment.start : segment.span.stop] = segment.data
        for span in (Span(size - 3 * page - 1, size), Span(0xFF01, 0x10103), Span(0x1FC00, min(size, 0x20100))):
            watch = Watch()
            assert await programmer.read(MemoryKind.FLASH, span, watch) == image[span.start : span.stop]
            assert watch.total == len(span)
        await programmer.leave()
        place.check()
        assert target.flash == image

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["6.1", "8.0"])
def test_a_part_without_a_busy_bit_is_given_its_time(firmware: str) -> None:
    part = PARTS.avr("atmega32a")

    async def session() -> None:
        target = AvrTarget(part, fuses={MemoryKind.LFUSE: 0xE4})
        place = rig(V3, firmware, target=target)
        programmer = await place.open()
        await programmer.enter(part, 1_000_000)
        await erase(programmer)
        assert await programmer.write(part, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert await programmer.write(part, MemoryKind.EEPROM, [Segment(1, b"abc")], Watch()) == 1
        await programmer.leave()
        place.check()
        assert target.flash[: len(CODE)] == CODE
        assert target.eeprom[1:4] == b"abc"

    run_virtual(session)


@pytest.mark.parametrize("after_writes", [2, 3, 7])
def test_a_write_that_never_ends_is_told(after_writes: int) -> None:
    async def session() -> None:
        place = rig(chip_faults=[BusyForever(after_writes=after_writes)])
        programmer = await place.open_and_erase()
        with pytest.raises(TargetError) as busy:
            await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
        assert busy.value.code is ErrorCode.TARGET_BUSY
        await programmer.leave()

    run_virtual(session)


@virtual
async def test_a_stop_ends_between_pages_with_the_target_ready() -> None:
    place = rig()
    assert place.target is not None
    programmer = await place.open_and_erase()
    assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch(stop_after=3)) == 3
    assert await programmer.write(U4, MemoryKind.FLASH, PAGES[3:], Watch()) == 3
    some = await programmer.read(MemoryKind.FLASH, Span(0, 0x8000), Watch(stop_after=1))
    assert len(CODE) < len(some) < 0x8000
    assert some.startswith(CODE)
    await programmer.leave()
    place.check()


# -- how fast ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "firmware", "refused", "limit_s"),
    [
        (V3, "5.2", set(), 26.0),
        (V3, "5.10", set(), 5.3),
        (V3, "6.1", {2_000_000}, 14.8),
        (V3, "6.1", set(), 3.8),
        (V3, "8.0", set(), 4.0),
        (V4, "6.3-r2151", set(), 3.8),
    ],
)
def test_28_kib_are_written_and_verified_in_time(
    hardware: BusPirateHardware, firmware: str, refused: set[int], limit_s: float
) -> None:
    """avrdude takes 73 s at its default of 30 kHz, and at best 15 s where it is told to use 1 MHz."""

    async def session() -> None:
        place = rig(hardware, firmware)
        place.bench.refused = frozenset(refused)
        programmer = await place.open_and_erase()
        code = random.Random(28).randbytes(28 * 1024)
        began = anyio.current_time()
        pages = [Segment(at, code[at : at + 128]) for at in range(0, len(code), 128)]
        assert await programmer.write(U4, MemoryKind.FLASH, pages, Watch()) == len(pages)
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(code)), Watch()) == code
        assert anyio.current_time() - began < limit_s
        await programmer.leave()
        place.check()

    run_virtual(session)
