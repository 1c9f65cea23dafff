"""A Bus Pirate is found in whatever state it is, at whatever rate, and brought to the fastest one that works."""

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.buspirate_rig import CODE, PAGES, PORT, U4, V3, rig, signature

from ispd.errors import ErrorCode, ProgrammerError
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.transport.contract import SerialSettings
from vbench.faults import Mute
from vbench.virtual_time import run_virtual, virtual


@pytest.mark.parametrize(
    ("lines", "baud"),
    [
        ((b"m\n",), 115200),
        ((b"m\n", b"5\n"), 115200),
        ((b"b\n", b"10\n"), 115200),
        ((b"half a comm",), 115200),
        ((b"\0" * 7,), 115200),
        ((b"\0" * 20,), 115200),
        ((b"\0" * 20, b"\x01"), 115200),
        ((b"\0" * 20, b"\x01", b"\x1f123"), 115200),
        ((b"\0" * 20, b"\x01", b"\x06\x02\0\0"), 115200),
        ((b"\0" * 20, b"\x01", b"\x05\x02\x04\0\x01" + bytes(100)), 115200),
        ((b"\0" * 20, b"\x01", b"\x05\x04\x04\0\x01"), 115200),
        ((b"b\n", b"10\n", b"1\n"), 115200),
        ((b"b\n", b"10\n", b"1\n"), 2_000_000),
        ((b"b\n", b"10\n", b"15\n"), 250_000),
        ((b"b\n", b"9\n"), 115200),
    ],
)
@pytest.mark.parametrize("firmware", ["6.1", "8.0"])
def test_it_is_found_whatever_it_was_left_in(firmware: str, lines: tuple[bytes, ...], baud: int) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        await place.type(*lines, baud=baud)
        programmer = await place.open()
        assert programmer.identity.firmware.startswith(f"v{firmware}")
        await programmer.enter(None, None)
        assert await signature(programmer) == U4.signature.value
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_one_that_a_crash_left_at_2_mbaud_is_found_again() -> None:
    place = rig()
    first = await place.open_and_erase()
    assert place.bench.taps[0].rates[-1] == 2_000_000
    await first.write(U4, MemoryKind.FLASH, PAGES[:2], Watch())
    await place.bench.taps[0].port.aclose()  # no leave, no goodbye
    began = anyio.current_time()
    second = await place.open()
    assert anyio.current_time() - began < 1.5
    await second.enter(U4, None)
    assert await second.read(MemoryKind.FLASH, Span(0, 256), Watch()) == CODE[:256]
    await second.leave()
    place.check()


@virtual
async def test_a_reading_nobody_waits_for_any_more_is_sat_out() -> None:
    place = rig()
    await place.type(b"\0" * 20, b"\x01")
    port = await place.bench.open_serial(SerialSettings(port=PORT, baud=115200))
    await port.send(b"\x06\x02" + (0).to_bytes(4, "big") + (0xFFFF).to_bytes(4, "big"))
    await port.aclose()
    programmer = await place.open()
    assert anyio.current_time() > 5
    assert programmer.identity.firmware.startswith("v6.1")
    place.check()


@pytest.mark.parametrize(
    ("firmware", "refused", "lossy"),
    [
        ("6.1", {2_000_000}, set()),
        ("6.1", set(), {2_000_000}),
        ("8.0", set(), {250_000}),
        ("8.0", {800_000}, set()),
        ("8.0", set(), {800_000}),
        ("5.10", set(), {800_000}),
    ],
)
def test_a_rate_that_does_not_work_is_given_up(firmware: str, refused: set[int], lossy: set[int]) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        place.bench.refused, place.bench.lossy = frozenset(refused), frozenset(lossy)
        programmer = await place.open_and_erase()
        assert place.bench.taps[0].rates[-1] == 115200
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(CODE)), Watch()) == CODE
        await programmer.leave()
        place.check()

    run_virtual(session)


@pytest.mark.parametrize("baud", [None, 57600])
def test_silence_is_told_and_the_port_given_back(baud: int | None) -> None:
    async def session() -> None:
        place = rig(line_faults=[Mute(after_replies=0)])
        with pytest.raises(ProgrammerError) as silent:
            await place.open(baud)
        assert silent.value.code is ErrorCode.PROGRAMMER_SILENT
        assert anyio.current_time() < 20
        await place.bench.open_serial(SerialSettings(port=PORT, baud=115200))
        assert place.board.lost == 0

    run_virtual(session)


@pytest.mark.parametrize("firmware", ["5.2", "5.10", "6.1", "7.1-2024", "8.0"])
def test_a_converter_that_holds_bytes_back_only_costs_time(firmware: str) -> None:
    async def session() -> None:
        place = rig(V3, firmware, latency_s=16e-3)
        programmer = await place.open_and_erase()
        assert await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch()) == len(PAGES)
        assert await programmer.read(MemoryKind.FLASH, Span(0, len(CODE)), Watch()) == CODE
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_the_configured_rate_is_only_where_the_search_begins() -> None:
    place = rig()
    await place.open(57600)
    assert place.bench.taps[0].rates[0] == 57600
    assert place.bench.taps[0].rates[-1] == 2_000_000
