"""From blank chip to running firmware: ISP, then the board's own USB port, on every slot at once. Chips are looked into."""

import random
from pathlib import Path

from tests.bench.chain_station import PART, blank_board, chain_station, firmware, recipe, runs

from ispd.model.job import Verdict
from ispd.model.recipe import PlanKind
from ispd.station.spec import SlotSpec
from vbench.board_faults import EraseLeaves
from vbench.hardware import BenchHardware
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

SLOTS = 8


def _specs() -> list[SlotSpec]:
    return [
        SlotSpec(name=f"A{number}", programmer="usbasp", path=f"1-1.{number}", target_usb=f"1-2.{number}")
        for number in range(SLOTS)
    ]


@virtual
async def test_eight_boards_at_once_each_end_with_their_own_firmware(tmp_path: Path) -> None:
    hardware = BenchHardware(hotplug_lag_s=0.02)
    boards = [blank_board(seed=number) for number in range(SLOTS)]
    apps = [firmware(number) for number in range(SLOTS)]
    for spec in random.Random(1).sample(_specs(), SLOTS):
        number = int(spec.name[1:])
        hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=spec.target_usb)
        hardware.insert(spec.name, boards[number])
    async with chain_station(hardware, _specs(), tmp_path) as bench:
        jobs = [
            await bench.station.enqueue(recipe(apps[number]), slots=[f"A{number}"], count=None)
            for number in range(SLOTS)
        ]
        for job in jobs:
            await bench.ended(job)
        units = [(await bench.units(job))[0] for job in jobs]
    assert [(unit.verdict, unit.failure) for unit in units] == [(Verdict.PASSED, None)] * SLOTS
    for unit, board, app in zip(units, boards, apps, strict=True):
        assert runs(board, app)
        assert (unit.plan, unit.application_usb, unit.part) == (PlanKind.CHAINED, "FEED:6060", PART.id)


@virtual
async def test_the_seeds_story_two_boards_that_cannot_get_blank_are_saved(tmp_path: Path) -> None:
    hardware = BenchHardware()
    ill = (2, 5)
    boards = [blank_board(faults=[EraseLeaves(chip_erases=2)] if number in ill else []) for number in range(SLOTS)]
    for spec, board in zip(_specs(), boards, strict=True):
        hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=spec.target_usb)
        hardware.insert(spec.name, board)
    app = firmware(7)
    async with chain_station(hardware, _specs(), tmp_path) as bench:
        units = await bench.once(recipe(app))
    assert len(units) == SLOTS
    for unit in units:
        number = int(unit.slot[1:])
        assert unit.verdict is Verdict.PASSED
        assert runs(boards[number], app)
        verdicts = [attempt.verdict for attempt in unit.attempts]
        assert verdicts == ([Verdict.NEEDS_RESCUE, Verdict.PASSED] if number in ill else [Verdict.PASSED])
        assert any("rescued by ISP" in warning for warning in unit.warnings) is (number in ill)
