"""New firmware for boards of which nobody wrote down which Caterina they have: only the port, and what is on it, counts."""

from pathlib import Path

from tests.bench.chain_station import BOOTLOADERS, PARTS, chain_station, firmware, loaded_board, runs

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.model.job import Verdict
from ispd.model.recipe import PlanKind
from ispd.station.spec import SlotSpec
from vbench.hardware import BenchHardware
from vbench.virtual_time import virtual


@virtual
async def test_boards_of_three_vendors_take_one_firmware(tmp_path: Path) -> None:
    loaders = [BOOTLOADERS.get(f"caterina-{name}") for name in ("promicro16", "leonardo", "feather32u4")]
    boards = [loaded_board(loader=loader) for loader in loaders]
    specs = [SlotSpec(name=f"A{number}", target_usb=f"1-2.{number}") for number in (1, 2, 3)]
    hardware = BenchHardware(hotplug_lag_s=0.02)
    for spec, board in zip(specs, boards, strict=True):
        assert spec.target_usb is not None
        hardware.add_port(spec.name, spec.target_usb, board)
    app = firmware(9)
    file = NamedBytes("app.bin", app.bytes_in(app.span))
    # as QMK's keyboard.json says it
    options = RecipeOptions(files=(file,), plan=PlanKind.CHAIN_ONLY, part="atmega32u4", bootloader="caterina")
    recipe = build_recipe(options, PARTS, BOOTLOADERS)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await hardware.sleep(2)
        units = await bench.once(recipe)
    assert [(unit.verdict, unit.failure) for unit in units] == [(Verdict.PASSED, None)] * 3
    assert all(runs(board, app, loader) for board, loader in zip(boards, loaders, strict=True))
