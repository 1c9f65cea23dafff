"""Into programming mode with a USBasp, and the SCK it has in truth."""

import random
from dataclasses import replace

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.unit.programmers.usbasp_rig import (
    CONNECT,
    ENABLE,
    FACTORY,
    FAST_CLOCK,
    ONE_MHZ,
    PARTS,
    SET_SCK,
    Firmware,
    counts,
    erase,
    rig,
)

from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.model.span import Span
from ispd.wire import avr_isp
from vbench.target import AvrTarget, Circuit
from vbench.usbasp import UsbAsp
from vbench.usbasp_firmware import UsbAspFirmware
from vbench.virtual_time import virtual


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
    fast = AvrTarget(PARTS.avr("atmega32u4"), fuses=FAST_CLOCK, circuit=Circuit(crystal_hz=20e6))
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
