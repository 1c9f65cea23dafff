"""Firmware over USB alone, by the tools of all kinds of bootloaders, on slots without programmers."""

from pathlib import Path

import pytest
from tests.bench.chain_station import (
    BOOTLOADERS,
    PART,
    PARTS,
    cells,
    chain_station,
    firmware,
    loaded_board,
    recipe,
    runs,
)

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.model.image import Image
from ispd.model.job import JobState, Verdict
from ispd.model.recipe import PlanKind, Recipe
from ispd.station.spec import SlotSpec
from vbench.board_faults import Vanishes
from vbench.firmware_image import application_image
from vbench.hardware import BenchHardware
from vbench.stm32 import APPLICATION, stm32_application
from vbench.stm32_board import Stm32Board
from vbench.virtual_time import virtual

FLASH_START = 0x0800_0000
SPECS = [SlotSpec(name=f"P{number}", target_usb=f"1-2.{number}") for number in range(6)]


def bluepill(content: bytes) -> Recipe:
    file = NamedBytes("keyboard.bin", content, FLASH_START + APPLICATION)
    options = RecipeOptions(files=(file,), plan=PlanKind.CHAIN_ONLY, bootloader="stm32duino-pc13")
    return build_recipe(options, PARTS, BOOTLOADERS)


@virtual
async def test_bluepills_whose_serial_numbers_are_all_alike_get_their_own_firmware(tmp_path: Path) -> None:
    hardware = BenchHardware(hotplug_lag_s=0.02)
    boards = [Stm32Board() for _ in SPECS]
    contents = [stm32_application(3000 + 200 * number, seed=number) for number in range(len(SPECS))]
    for spec, board in zip(SPECS, boards, strict=True):
        hardware.add_port(spec.name, str(spec.target_usb), board)
    async with chain_station(hardware, SPECS, tmp_path) as bench:
        jobs = [
            await bench.station.enqueue(bluepill(content), slots=[spec.name], count=None)
            for spec, content in zip(SPECS, contents, strict=True)
        ]
        ended = [await bench.ended(job) for job in jobs]
        units = [unit for job in jobs for unit in await bench.units(job)]
    assert [dict(job.seen) for job in ended] == [{}] * len(SPECS)
    assert [(unit.verdict, unit.failure, unit.part) for unit in units] == [(Verdict.PASSED, None, "stm32f103xb")] * len(
        SPECS
    )
    for board, content in zip(boards, contents, strict=True):
        assert bytes(board.chip.flash[APPLICATION : APPLICATION + len(content)]) == content


@virtual
async def test_a_bluepill_that_leaves_in_the_middle_never_passes(tmp_path: Path) -> None:
    for transfer in range(2, 30, 3):
        folder = tmp_path / str(transfer)
        folder.mkdir()
        hardware = BenchHardware()
        board = Stm32Board(faults=[Vanishes(transfer=transfer)])
        hardware.add_port("P0", "1-2.0", board)
        content = stm32_application(8000, seed=transfer)
        async with chain_station(hardware, SPECS[:1], folder) as bench:
            job = await bench.ended(await bench.station.enqueue(bluepill(content), slots=["P0"], count=None))
            units = await bench.units(job)
        holds = bytes(board.chip.flash[APPLICATION : APPLICATION + len(content)]) == content
        assert holds or all(unit.verdict is not Verdict.PASSED for unit in units)


CATERINA = BOOTLOADERS.get("caterina-promicro16")


def sketch(seed: int) -> Image:
    """Return an Arduino sketch: it has a serial port, and starts the bootloader when that is touched at 1200 baud."""
    return application_image(PART, 3000, seed=seed, usb=CATERINA.usb_application[0], has_serial_port=True)


@pytest.mark.parametrize("count", [None, 1])
@virtual
async def test_a_running_sketch_is_asked_for_its_bootloader_and_left_alone_once_it_has_its_verdict(
    tmp_path: Path, count: int | None
) -> None:
    board = loaded_board(loader=CATERINA, app=sketch(1))
    hardware = BenchHardware(hotplug_lag_s=0.02)
    hardware.add_port("P0", "1-2.0", board)
    new = sketch(2)
    async with chain_station(hardware, SPECS[:1], tmp_path) as bench:
        await hardware.sleep(2)
        assert [str(device.usb) for device in hardware.devices()] == list(CATERINA.usb_application)
        asked = recipe(new, PlanKind.CHAIN_ONLY, loader=CATERINA, with_loader=False)
        job = await bench.ended(await bench.station.enqueue(asked, slots=["P0"], count=count))
        units = await bench.units(job)
        further = await bench.station.enqueue(asked, slots=["P0"], count=2)
        await hardware.sleep(60)
        more = await bench.units(further)
    assert [(unit.verdict, unit.failure) for unit in units] == [(Verdict.PASSED, None)]
    assert runs(board, new, CATERINA)
    assert [unit.verdict for unit in more] == [Verdict.PASSED], "a job that wants two takes it once, and then holds it"


@virtual
async def test_a_sketch_without_a_bootloader_is_asked_a_few_times_and_then_left_alone(tmp_path: Path) -> None:
    old = sketch(1)
    board = loaded_board(loader=CATERINA, app=old)
    section = CATERINA.section
    assert section is not None
    board.target.flash[section.start + 64] ^= 0xFF  # its bootloader is dead: nothing of it shows up
    hardware = BenchHardware(hotplug_lag_s=0.02)
    hardware.add_port("P0", "1-2.0", board)
    async with chain_station(hardware, SPECS[:1], tmp_path) as bench:
        await hardware.sleep(2)
        asked = recipe(sketch(2), PlanKind.CHAIN_ONLY, loader=CATERINA, with_loader=False)
        job = await bench.ended(await bench.station.enqueue(asked, slots=["P0"], count=None))
    assert job.state is JobState.EMPTY
    assert CATERINA.title in job.seen["P0"]
    assert cells(board, old)


@pytest.mark.parametrize("name", ["caterina-promicro16", "lufa-dfu-32u4", "bootloadhid-m32a", "usbasploader-m32a"])
@virtual
async def test_boards_with_any_bootloader_at_once(tmp_path: Path, name: str) -> None:
    loader = BOOTLOADERS.get(name)
    part = PARTS.avr(loader.parts[0])
    hardware = BenchHardware(hotplug_lag_s=0.02)
    boards = [loaded_board(loader=loader, part=part) for _ in SPECS]
    for spec, board in zip(SPECS, boards, strict=True):
        hardware.add_port(spec.name, str(spec.target_usb), board)
    app = firmware(5, 2500, part=part)
    async with chain_station(hardware, SPECS, tmp_path) as bench:
        units = await bench.once(recipe(app, PlanKind.CHAIN_ONLY, loader=loader, part=part, with_loader=False))
    assert [(unit.verdict, unit.failure) for unit in units] == [(Verdict.PASSED, None)] * len(SPECS)
    assert all(runs(board, app, loader, part) for board in boards)


@virtual
async def test_two_boards_that_a_tool_cannot_tell_apart_are_both_left_alone(tmp_path: Path) -> None:
    loader = BOOTLOADERS.get("halfkay-32u4")
    hardware = BenchHardware()
    boards = [loaded_board(loader=loader) for _ in range(2)]
    before = [bytes(board.target.flash) for board in boards]
    for spec, board in zip(SPECS, boards, strict=False):
        hardware.add_port(spec.name, str(spec.target_usb), board)
    only = recipe(firmware(5), PlanKind.CHAIN_ONLY, loader=loader, with_loader=False)
    async with chain_station(hardware, SPECS[:2], tmp_path) as bench:
        units = await bench.once(only)
        assert [unit.verdict for unit in units] == [Verdict.FAILED] * 2
        told = {unit.slot: unit.failure.message for unit in units if unit.failure is not None}
        assert ("1-2.1" in told["P0"], "1-2.0" in told["P1"]) == (True, True)
        assert [bytes(board.target.flash) for board in boards] == before
        hardware.remove("P1")
        (unit,) = await bench.once(only, "P0")
    assert unit.verdict is Verdict.PASSED
    assert runs(boards[0], firmware(5), loader)
