"""Boards that are not on the slot whose port they show up on never make it pass: USB cables exchanged in every way we know of."""

import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from tests.bench.chain_station import (
    BOOTLOADERS,
    LOADER,
    PART,
    PARTS,
    ChainStation,
    blank_board,
    chain_station,
    firmware,
    loaded_board,
    recipe,
    runs,
)

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.errors import JobError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.job import Job, Unit, Verdict
from ispd.model.recipe import PlanKind, Recipe
from ispd.model.station import SlotAction
from ispd.station.spec import SlotSpec
from vbench.board import Board
from vbench.board_faults import EraseLeaves
from vbench.firmware_image import bootloader_image
from vbench.hardware import BenchHardware
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

FAMILIES = [
    "atmel-dfu-32u4",
    "caterina-promicro16",
    "halfkay-32u4",
    "qmk-hid-32u4",
    "bootloadhid-m32a",
    "usbasploader-m328p",
]
DISEASE = EraseLeaves(chip_erases=2)
NOWHERE = "-"


def cabled(ports: str, *, lag_s: float = 0.02) -> tuple[BenchHardware, list[SlotSpec]]:
    """Give slots A0, A1 .. whose boards' cables are in these ports; port 0 is where A0 expects its board."""
    hardware = BenchHardware(hotplug_lag_s=lag_s)
    specs = []
    for number, port in enumerate(ports):
        spec = SlotSpec(name=f"A{number}", programmer="usbasp", path=f"1-1.{number}", target_usb=f"1-2.{number}")
        hardware.add(spec.name, UsbAsp(), path=spec.path, board_usb=None if port == NOWHERE else f"1-2.{port}")
        specs.append(spec)
    return hardware, specs


async def units_of(bench: ChainStation, jobs: Sequence[Job]) -> list[Unit]:
    """Return the last unit of each job, all of which end."""
    return [(await bench.units(await bench.ended(job)))[-1] for job in jobs]


def check_passed(
    units: Sequence[Unit], boards: Sequence[Board], apps: Sequence[Image], loader: Bootloader = LOADER
) -> None:
    """Compare each verdict "passed" with the cells of the board that is on the slot."""
    part = PARTS.avr(loader.parts[0])
    for unit in units:
        number = int(unit.slot[1:])
        assert unit.verdict is not Verdict.PASSED or runs(boards[number], apps[number], loader, part), unit.slot


@pytest.mark.parametrize("ports", ["10", "120", "-0", "-01"], ids=lambda ports: f"cables in {ports}")
@pytest.mark.parametrize("ill", [None, 0, 1], ids=lambda ill: f"ill {ill}")
@pytest.mark.parametrize("is_one_image", [True, False], ids=["one image", "an image each"])
@virtual
async def test_blank_boards_flashed_in_step(tmp_path: Path, ports: str, ill: int | None, is_one_image: bool) -> None:
    """They look alike. One image for all is no excuse: of an ill board another slot would tell, and what cures that slot's board erases what
    was passed."""
    hardware, specs = cabled(ports)
    boards = [blank_board(faults=[DISEASE] if number == ill else []) for number in range(len(ports))]
    for spec, board in zip(specs, boards, strict=True):
        hardware.insert(spec.name, board)
    apps = [firmware(0 if is_one_image else number) for number in range(len(ports))]
    async with chain_station(hardware, specs, tmp_path) as bench:
        jobs = [
            await bench.station.enqueue(recipe(app), slots=[spec.name], count=None)
            for app, spec in zip(apps, specs, strict=True)
        ]
        units = await units_of(bench, jobs)
    for unit, board in zip(units, boards, strict=True):
        assert unit.failure is not None
        expected = "board-unexpected" if unit.slot[1:] in ports else "bootloader-not-seen"
        assert (unit.verdict, unit.failure.code) == (Verdict.FAILED, expected)
        assert runs(board, Image(())), "the bootloader and nothing else: no byte went over USB"


@pytest.mark.parametrize("lag_s", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("ports", ["10", "120"], ids=lambda ports: f"cables in {ports}")
@pytest.mark.parametrize("name", FAMILIES)
@virtual
async def test_every_family(tmp_path: Path, name: str, ports: str, lag_s: float) -> None:
    """A tty that comes later than its device is nobody's leaving."""
    loader = BOOTLOADERS.get(name)
    part = PARTS.avr(loader.parts[0])
    hardware, specs = cabled(ports, lag_s=lag_s)
    boards = [blank_board(seed=number, part=part) for number in range(len(ports))]
    for spec, board in zip(specs, boards, strict=True):
        hardware.insert(spec.name, board)
    apps = [firmware(number, 2000 + 100 * number, part=part) for number in range(len(ports))]
    async with chain_station(hardware, specs, tmp_path) as bench:
        jobs = [
            await bench.station.enqueue(recipe(app, loader=loader, part=part), slots=[spec.name], count=None)
            for app, spec in zip(apps, specs, strict=True)
        ]
        units = await units_of(bench, jobs)
    assert [unit.verdict for unit in units] == [Verdict.FAILED] * len(ports)
    assert all(runs(board, Image(()), loader, part) for board in boards)


@pytest.mark.parametrize("gap_s", [5.0, 13.0, 14.0, 20.0, 60.0])
@pytest.mark.parametrize("ports", ["10", "102"], ids=lambda ports: f"cables in {ports}")
@pytest.mark.parametrize("name", ["atmel-dfu-32u4", "caterina-promicro16", "bootloadhid-m32a"])
@virtual
async def test_boards_put_in_one_after_the_other(tmp_path: Path, name: str, ports: str, gap_s: float) -> None:
    """A slot that holds its failed board looks at it now and then, which resets it: it leaves another slot's port, too."""
    loader = BOOTLOADERS.get(name)
    part = PARTS.avr(loader.parts[0])
    hardware, specs = cabled(ports)
    boards = [blank_board(seed=number, part=part) for number in range(len(ports))]
    app = firmware(1, 2000, part=part)
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(recipe(app, loader=loader, part=part), slots=None, count=100)
        for spec, board, after_s in zip(specs, boards, (0.0, gap_s, 0.1), strict=False):
            await anyio.sleep(after_s)
            hardware.insert(spec.name, board)
        await anyio.sleep(100)
        units = await bench.units(job)
    assert {unit.slot for unit in units} == {spec.name for spec in specs}
    check_passed(units, boards, [app] * len(ports), loader)
    assert [unit.slot for unit in units if unit.verdict is Verdict.PASSED] == (["A2"] if len(ports) == 3 else [])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["atmel-dfu-32u4", "caterina-promicro16"])
@virtual
async def test_boards_that_have_their_bootloader_from_the_factory(tmp_path: Path, name: str, seed: int) -> None:
    loader = BOOTLOADERS.get(name)
    part = PARTS.avr(loader.parts[0])
    hardware, specs = cabled("10")
    boards = [loaded_board(loader=loader, part=part) for _ in specs]
    app = firmware(1, 2000, part=part)
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(recipe(app, loader=loader, part=part), slots=None, count=1)
        hardware.insert("A0", boards[0])
        await anyio.sleep(random.Random(seed).uniform(0.05, 2.0))
        hardware.insert("A1", boards[1])
        await anyio.sleep(60)
        units = await bench.units(job)
    assert units
    check_passed(units, boards, [app, app], loader)


@pytest.mark.parametrize("ill", [0, 1])
@virtual
async def test_firmware_alone_where_a_rescue_would_erase_the_other_board(tmp_path: Path, ill: int) -> None:
    """Each slot flashes the board on its port, whatever is on its programmer; only a rescue has to know that these are one."""
    hardware, specs = cabled("10")
    boards = [loaded_board(faults=[DISEASE] if number == ill else []) for number in range(2)]
    for spec, board in zip(specs, boards, strict=True):
        hardware.insert(spec.name, board)
    app = firmware(0)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(2.0)
        jobs = [
            await bench.station.enqueue(recipe(app, PlanKind.CHAIN_ONLY), slots=[spec.name], count=None)
            for spec in specs
        ]
        units = await units_of(bench, jobs)
    for unit in units:
        on_port = 1 - int(unit.slot[1:])
        assert unit.verdict is (Verdict.NEEDS_RESCUE if on_port == ill else Verdict.PASSED)
        assert runs(boards[on_port], app) is (on_port != ill)


def bootloader_alone() -> Recipe:
    image = bootloader_image(LOADER, PART)
    file = NamedBytes("loader.bin", image.bytes_in(image.span), image.span.start)
    options = RecipeOptions(
        files=(file,), plan=PlanKind.ISP_ONLY, part=PART.id, bootloader=LOADER.id, accept_fuses=True
    )
    return build_recipe(options, PARTS, BOOTLOADERS)


@virtual
async def test_a_neighbour_that_gets_its_bootloader_and_nothing_else(tmp_path: Path) -> None:
    hardware, specs = cabled("10")
    boards = [blank_board(seed=number) for number in range(2)]
    for spec, board in zip(specs, boards, strict=True):
        hardware.insert(spec.name, board)
    app = firmware(0)
    async with chain_station(hardware, specs, tmp_path) as bench:
        jobs = [
            await bench.station.enqueue(recipe(app), slots=["A0"], count=None),
            await bench.station.enqueue(bootloader_alone(), slots=["A1"], count=None),
        ]
        units = await units_of(bench, jobs)
    assert [unit.verdict for unit in units] == [Verdict.FAILED, Verdict.PASSED]
    assert all(runs(board, Image(())) for board in boards)


@pytest.mark.parametrize("after_s", [0.5, 1.5, 2.5, 3.0])
@virtual
async def test_a_stray_board_that_is_plugged_in_meanwhile(tmp_path: Path, after_s: float) -> None:
    hardware, specs = cabled("10")
    board, stray = blank_board(), loaded_board()
    hardware.insert("A0", board)
    async with chain_station(hardware, specs[:1], tmp_path) as bench:
        job = await bench.station.enqueue(recipe(firmware(0)), slots=["A0"], count=None)
        await anyio.sleep(after_s)
        hardware.insert("A1", stray)
        (unit,) = await units_of(bench, [job])
    assert unit.failure is not None
    assert (unit.verdict, unit.failure.code) == (Verdict.FAILED, "board-unexpected")
    assert runs(stray, Image(())), "nothing was written to it"


@pytest.mark.parametrize("resets", ["probe", "identify", "learn", "job"])
@pytest.mark.parametrize("after_s", [2.5, 4.0, 8.0, 11.0])
@virtual
async def test_a_third_board_that_is_reset_at_the_wrong_moment(tmp_path: Path, after_s: float, resets: str) -> None:
    """The cable of A0's board is nowhere; on its port is A2's board, which A2 resets while A0 waits for its own to leave."""
    hardware, specs = cabled("-10")
    boards = [blank_board(seed=0), blank_board(seed=1), loaded_board()]
    apps = [firmware(number) for number in range(3)]
    hardware.insert("A0", boards[0])
    hardware.insert("A1", boards[1])
    async with chain_station(hardware, specs, tmp_path, watch_hotplug=True) as bench:
        jobs = [
            await bench.station.enqueue(recipe(apps[number]), slots=[f"A{number}"], count=None) for number in range(2)
        ]
        await anyio.sleep(0.4)
        hardware.insert("A2", boards[2])
        await anyio.sleep(after_s)
        match resets:
            case "probe":
                await bench.station.probe("A2")
            case "identify":
                await bench.station.set_slot("A2", SlotAction.IDENTIFY)
            case "learn":
                with suppress(JobError):  # its board is not where the configuration has it
                    await bench.station.learn("A2")
            case _:
                jobs.append(await bench.station.enqueue(recipe(apps[2]), slots=["A2"], count=None))
        units = await units_of(bench, jobs)
    assert (units[0].verdict, units[1].verdict) == (Verdict.FAILED, Verdict.PASSED)
    check_passed(units, boards, apps)
