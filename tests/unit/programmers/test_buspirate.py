"""The Bus Pirate driver on the emulated firmwares: its way into programming mode, its supply, its clocks."""

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.buspirate_rig import PAGES, PARTS, PORT, U4, V3, rig, signature

from ispd.errors import LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.programmers.buspirate import DRIVER
from ispd.transport.contract import PortKind, UsbIdentity
from ispd.wire import avr_isp
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual, virtual


@pytest.mark.parametrize(
    ("firmware", "limits"),
    [
        (
            "6.1",
            {None: 125_000, 20_000: 31_250, 124_999: 31_250, 200_000: 125_000, 1_600_000: 1_000_000, 9**9: 2_000_000},
        ),
        ("8.0", {None: 125_000, 400_000: 250_000, 2_600_000: 2_000_000}),
        ("7.1", {None: 125_000, 400_000: 250_000, 2_600_000: 1_000_000}),
    ],
)
def test_the_fastest_clock_not_above_the_limit_is_used(firmware: str, limits: dict[int | None, int]) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        programmer = await place.open()
        for limit, used in limits.items():
            assert await programmer.enter(None, limit) == used
            assert place.board.pins.sck_hz == used
            assert await signature(programmer) == U4.signature.value
            assert used in programmer.capabilities.sck_hz
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_the_inverted_edge_is_found_with_the_first_target_and_remembered() -> None:
    place = rig(V3, "7.1-2018", empty=True)
    programmer = await place.open()
    await programmer.enter(None, None)
    assert await signature(programmer) == b"\xff\xff\xff"
    await programmer.leave()
    for _ in range(2):
        place.bench.insert(PORT, AvrTarget(U4))
        began = anyio.current_time()
        await programmer.enter(None, None)
        last_s = anyio.current_time() - began
        assert await signature(programmer) == U4.signature.value
        await programmer.leave()
        place.bench.remove(PORT)
    assert last_s < 0.08
    place.check()


@pytest.mark.parametrize("firmware", ["5.10", "8.0"])
def test_the_rate_follows_the_clock_where_bytes_pass_straight_on(firmware: str) -> None:
    async def session() -> None:
        place = rig(V3, firmware)
        programmer = await place.open()
        rates = place.bench.taps[0].rates
        assert rates[-1] == 250_000
        for part, sck_hz, baud in [
            (U4, 1_600_000, 800_000),
            (None, None, 800_000),  # a look
            (U4, 200_000, 800_000),  # fuses: no rate is slow enough, and little is sent
            (U4, 2_000_000, 800_000),
            (U4, 400_000, 250_000),
        ]:
            before = len(rates)
            await programmer.enter(part, sck_hz)
            assert await signature(programmer) == U4.signature.value
            assert rates[-1] == baud
            assert len(rates) == before or rates[before - 1] != baud
        await programmer.leave()
        place.check()

    run_virtual(session)


@virtual
async def test_entering_again_latches_new_clock_fuses() -> None:
    place = rig(target=AvrTarget(PARTS.avr("atmega328p")))
    programmer = await place.open()
    part = PARTS.avr("atmega328p")
    await programmer.enter(part, 200_000)
    await programmer.transfer([avr_isp.write_fuse(MemoryKind.LFUSE, 0xE2)])
    await anyio.sleep(0.01)
    assert await programmer.enter(part, 1_600_000) == 1_000_000
    assert await signature(programmer) == part.signature.value
    await programmer.leave()
    place.check()


@pytest.mark.parametrize("own_supply", [False, True])
def test_the_supply_is_on_only_in_programming_mode(own_supply: bool) -> None:
    async def session() -> None:
        place = rig(own_supply=own_supply)
        assert place.target is not None
        programmer = await place.open()
        for _ in range(2):
            assert not place.feeds()
            await programmer.enter(None, None)
            assert place.feeds()
            assert place.target.in_reset
            assert await signature(programmer) == U4.signature.value
            await programmer.leave()
            await programmer.leave()
            assert place.target.powered == own_supply
            place.check()

    run_virtual(session)


@virtual
async def test_nothing_but_looking_works_before_entering() -> None:
    place = rig()
    programmer = await place.open()
    await programmer.leave()
    with pytest.raises(LocalProtocolError):
        await signature(programmer)
    await programmer.enter(None, None)
    with pytest.raises(LocalProtocolError):
        await programmer.write(U4, MemoryKind.FLASH, PAGES, Watch())
    with pytest.raises(LocalProtocolError):
        await programmer.read(MemoryKind.LFUSE, Span(0, 1), Watch())
    with pytest.raises(LocalProtocolError):
        await programmer.transfer([b"\x30\x00\x00"])
    await programmer.enter(U4, None)
    with pytest.raises(LocalProtocolError):
        await programmer.write(U4, MemoryKind.FLASH, [Segment(64, bytes(128))], Watch())
    await programmer.leave()
    place.check()


def test_only_the_v4_is_claimed() -> None:
    assert DRIVER.port_kind is PortKind.SERIAL
    assert DRIVER.claims(UsbIdentity(vendor_id=0x04D8, product_id=0xFB00))
    assert not DRIVER.claims(UsbIdentity(vendor_id=0x0403, product_id=0x6001, product="FT232R USB UART"))
    assert not DRIVER.claims(UsbIdentity(vendor_id=0x1209, product_id=0x7331))
