"""Which way is faster on a slot: measured there, kept, and chosen by."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.chain_station import blank_board, chain_station, firmware, recipe, runs

from ispd.flashing.pace import IspPace, SlotPace, UsbPace, choose_plan, isp_pace
from ispd.model.job import StepRecord, Verdict
from ispd.model.recipe import PlanKind
from ispd.station.spec import SlotSpec
from vbench.hardware import BenchHardware
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

SPEC = SlotSpec(name="A", programmer="usbasp", path="1-1.1", target_usb="1-2.1")
SECONDS = st.floats(min_value=0, max_value=100, allow_nan=False)


@pytest.mark.parametrize("usb", [None, UsbPace(1.0, 0.0001)])
@pytest.mark.parametrize("isp", [None, IspPace(0.0004)])
def test_each_way_is_taken_once_first_chained_then_merged(usb: UsbPace | None, isp: IspPace | None) -> None:
    chosen = choose_plan(SlotPace(isp=isp, usb=usb), 20_000)
    if usb is None:
        assert chosen is PlanKind.CHAINED
    elif isp is None:
        assert chosen is PlanKind.MERGED


def test_a_long_firmware_goes_over_usb_a_short_one_by_isp() -> None:
    pace = SlotPace(isp=IspPace(0.0004), usb=UsbPace(2.0, 0.0001))  # equal at 6,667 bytes
    assert choose_plan(pace, 6_000) is PlanKind.MERGED
    assert choose_plan(pace, 7_000) is PlanKind.CHAINED


@given(isp=SECONDS, fixed=SECONDS, byte=SECONDS, size=st.integers(1, 1 << 17))
def test_the_choice_is_never_slower_than_the_other_way(isp: float, fixed: float, byte: float, size: int) -> None:
    costs = {PlanKind.MERGED: isp * size, PlanKind.CHAINED: fixed + byte * size}
    chosen = choose_plan(SlotPace(isp=IspPace(isp), usb=UsbPace(fixed, byte)), size)
    assert costs[chosen] == min(costs.values())


def test_what_isp_did_besides_flash_does_not_count() -> None:
    def step(name: str, seconds: float) -> StepRecord:
        return StepRecord(name=name, started="", seconds=seconds)

    steps = [step("erase", 9.0), step("write flash", 3.0), step("verify flash", 1.0), step("write hfuse", 9.0)]
    assert isp_pace(steps, 2_000) == IspPace(0.002)
    assert isp_pace([step("erase", 9.0)], 2_000) is None
    assert isp_pace(steps, 0) is None


@virtual
async def test_a_slot_measures_both_ways_and_then_takes_the_faster_one(tmp_path: Path) -> None:
    async def next_way(size_bytes: int) -> PlanKind | None:
        hardware = BenchHardware()
        hardware.add("A", UsbAsp(), path="1-1.1", board_usb="1-2.1")
        board = blank_board()
        hardware.insert("A", board)
        app = firmware(size_bytes, size_bytes)
        async with chain_station(hardware, [SPEC], tmp_path) as bench:
            (unit,) = await bench.once(recipe(app, PlanKind.AUTO), "A")
            (job,) = await bench.station.jobs(1, None)
        assert (unit.verdict, job.plan) == (Verdict.PASSED, PlanKind.AUTO)
        assert runs(board, app), unit.plan
        return unit.plan

    assert await next_way(8_000) is PlanKind.CHAINED
    assert await next_way(8_000) is PlanKind.MERGED
    assert await next_way(300) is PlanKind.MERGED, "ISP is through before the bootloader even shows up"
    assert await next_way(28_000) is PlanKind.CHAINED
