"""Bluepills on ports without a programmer, from the daemon's side: only firmware, by dfu-util, each its own."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from tests.bench.chain_station import BOOTLOADERS, PARTS, chain_station

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.model.job import Verdict
from ispd.model.recipe import PlanKind, Recipe
from ispd.station.spec import SlotSpec
from vbench.board_faults import NeverEnumerates, Stalls, Vanishes
from vbench.faults import LostPage
from vbench.hardware import BenchHardware
from vbench.stm32 import APPLICATION, stm32_application
from vbench.stm32_board import Stm32Board, Stm32Fault
from vbench.virtual_time import virtual

KEYBOARD = "FEED:0103"


def content_for(seed: int) -> bytes:
    return stm32_application(9_000, seed=seed, usb=KEYBOARD)


def recipe(seed: int) -> Recipe:
    files = (NamedBytes("keyboard.bin", content_for(seed), None),)
    options = RecipeOptions(files=files, plan=PlanKind.CHAIN_ONLY, bootloader="stm32duino-pc13")
    return build_recipe(options, PARTS, BOOTLOADERS)


def hardware_with(*boards: Stm32Board) -> tuple[BenchHardware, list[SlotSpec]]:
    hardware = BenchHardware(hotplug_lag_s=0.02)
    specs = [SlotSpec(name=f"P{number}", target_usb=f"1-{number}") for number in range(1, len(boards) + 1)]
    for spec, board in zip(specs, boards, strict=True):
        assert spec.target_usb is not None
        hardware.add_port(f"port {spec.name}", spec.target_usb, board)
    return hardware, specs


def holds(board: Stm32Board, seed: int) -> bool:
    content = content_for(seed)
    return board.chip.flash[APPLICATION : APPLICATION + len(content)] == content


@virtual
async def test_four_at_once_with_the_same_serial_number_end_with_their_own(tmp_path: Path) -> None:
    boards = [Stm32Board(flash_bytes=0x1_0000 * (1 + number % 2)) for number in range(4)]
    hardware, specs = hardware_with(*boards)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        jobs = [
            await bench.station.enqueue(recipe(seed), slots=[spec.name], count=None) for seed, spec in enumerate(specs)
        ]
        for job in jobs:
            (unit,) = await bench.units(await bench.ended(job))
            assert (unit.verdict, unit.application_usb) == (Verdict.PASSED, KEYBOARD), unit.failure
    assert [holds(board, seed) for seed, board in enumerate(boards)] == [True] * 4


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ([LostPage(APPLICATION + 0x0800)], "application-not-seen"),
        ([Vanishes(transfer=12)], "bootloader-not-seen"),
        ([Stalls(transfer=12)], "tool-failed"),
        ([NeverEnumerates(enumeration=2)], "application-not-seen"),
    ],
    ids=["lost page", "vanishes", "stalls", "stays silent"],
)
@virtual
async def test_an_ill_one_does_not_pass(tmp_path: Path, faults: Sequence[Stm32Fault], code: str) -> None:
    hardware, specs = hardware_with(Stm32Board(faults=faults))
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        (unit,) = await bench.once(recipe(1))
    assert unit.verdict in (Verdict.FAILED, Verdict.NEEDS_RESCUE)
    assert unit.failure is not None
    assert (unit.failure.code, bool(unit.failure.hint)) == (code, True)
