"""Bootloader by SWD, firmware by dfu-util: each board on its own port, the ill ones saved, and ports learnt."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from tests.bench.chain_station import chain_station
from tests.bench.stlink_station import (
    KEYBOARD,
    chained_recipe,
    content_for,
    holds,
    holds_chain,
    new_board,
    stlinks,
    swd_recipe,
)

from ispd.errors import ErrorCode, JobError
from ispd.model.job import Unit, Verdict
from ispd.model.recipe import PlanKind
from ispd.station.spec import SlotSpec
from vbench.board_faults import NeverEnumerates, Stalls, Vanishes
from vbench.faults import LostPage
from vbench.hardware import BenchHardware
from vbench.stlink import StLink
from vbench.stm32 import APPLICATION
from vbench.stm32_board import Stm32Board, Stm32Fault
from vbench.stm32f1 import Stm32F1Fault
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual


def steps(unit: Unit) -> list[str]:
    return [step.name for step in unit.attempts[-1].steps]


@pytest.mark.parametrize("fixed_pull_up", [True, False])
@pytest.mark.parametrize("has_loader", [False, True], ids=["blank", "with an old firmware"])
@virtual
async def test_four_at_once_by_way_of_their_own_ports(tmp_path: Path, fixed_pull_up: bool, has_loader: bool) -> None:
    boards = [new_board(number, fixed_pull_up=fixed_pull_up, has_loader=has_loader) for number in range(4)]
    hardware, specs = stlinks(boards, cables=True)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(2.0)
        jobs = [
            await bench.station.enqueue(chained_recipe(seed), slots=[spec.name], count=None)
            for seed, spec in enumerate(specs)
        ]
        for spec, job in zip(specs, jobs, strict=True):
            (unit,) = await bench.units(await bench.ended(job))
            assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
            assert (unit.plan, unit.target_usb, unit.application_usb) == (PlanKind.CHAINED, spec.target_usb, KEYBOARD)
            assert (len(unit.attempts), unit.unique_id is not None) == (1, True)
            assert "write flash" in steps(unit)
    assert [holds_chain(board, seed) for seed, board in enumerate(boards)] == [True] * 4


@virtual
async def test_a_board_whose_bootloader_refuses_is_saved_by_swd(tmp_path: Path) -> None:
    """It refuses a part of its firmware, once; within the unit, with the record of how."""
    board = new_board(1, faults=[Stalls(transfer=12)])
    hardware, specs = stlinks([board], cables=True)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        (unit,) = await bench.once(chained_recipe(1))
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.NEEDS_RESCUE, Verdict.PASSED], unit.failure
    assert any("SWD" in warning for warning in unit.warnings)
    assert holds_chain(board, 1)


@virtual
async def test_a_board_that_needs_rescue_is_brought_to_a_slot_with_an_st_link(tmp_path: Path) -> None:
    board = new_board(1, has_loader=True, faults=[Stalls(transfer=12)])
    hardware, specs = stlinks([None], cables=True)
    hardware.add_port("P", "1-2.9", board)
    async with chain_station(hardware, [*specs, SlotSpec(name="P", target_usb="1-2.9")], tmp_path) as bench:
        await anyio.sleep(1.0)
        (unit,) = await bench.once(chained_recipe(1, PlanKind.CHAIN_ONLY, with_loader=False), "P")
        assert unit.verdict is Verdict.NEEDS_RESCUE
        hardware.remove("P")
        hardware.insert("S1", board)
        await anyio.sleep(1.0)
        (unit,) = await bench.once(chained_recipe(1), "S1")
    assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
    assert holds_chain(board, 1)


@virtual
async def test_a_rescue_by_swd_is_none_for_a_slot_with_isp(tmp_path: Path) -> None:
    """The board is told to need rescue elsewhere; its slot's programmer is not tried on it."""
    board = new_board(1, has_loader=True, faults=[Stalls(transfer=12)])
    hardware = BenchHardware(hotplug_lag_s=0.02)
    hardware.add("A", UsbAsp(), path="1-1.1")
    hardware.add_port("P", "1-2.1", board)
    spec = SlotSpec(name="A", path="1-1.1", target_usb="1-2.1")
    async with chain_station(hardware, [spec], tmp_path) as bench:
        await anyio.sleep(1.0)
        with pytest.raises(JobError) as caught:
            await bench.station.enqueue(chained_recipe(1), slots=["A"], count=None)
        assert caught.value.code is ErrorCode.PROGRAMMER_CANNOT
        (unit,) = await bench.once(chained_recipe(1, PlanKind.CHAIN_ONLY), "A")
    assert unit.failure is not None
    assert (unit.verdict, len(unit.attempts)) == (Verdict.NEEDS_RESCUE, 1)
    assert "speaks ISP; STM32F103xB is programmed by SWD" in unit.failure.hint


@virtual
async def test_a_rescue_that_was_cut_short_is_not_gone_on_with_by_another_kind_of_programmer(tmp_path: Path) -> None:
    """The daemon dies while it saves a board by SWD; the next one finds a USBasp there, and says so."""
    board = new_board(1, has_loader=True, faults=[Stalls(transfer=12)])
    hardware, specs = stlinks([board], cables=True)
    with anyio.CancelScope() as life:
        async with chain_station(hardware, specs, tmp_path) as bench:
            await anyio.sleep(1.0)
            await bench.station.enqueue(chained_recipe(1, PlanKind.CHAIN_ONLY), slots=["S1"], count=None)
            async for event in bench.events:
                if event.unit is not None and len(event.unit.attempts) > 1:
                    life.cancel()
                    break
    hardware = BenchHardware(hotplug_lag_s=0.02)
    hardware.add("S1", UsbAsp(), path="1-1.1")
    async with chain_station(hardware, specs, tmp_path) as bench:
        (job,) = await bench.station.jobs(1, None)
        job = await bench.ended(job)
        (unit,) = await bench.units(job)
    assert "speaks ISP; STM32F103xB is programmed by SWD" in job.seen["S1"]
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.NEEDS_RESCUE, Verdict.INTERRUPTED]


@virtual
async def test_boards_whose_usb_cables_are_exchanged_do_not_pass_with_each_others_firmware(tmp_path: Path) -> None:
    boards = [new_board(number) for number in range(2)]
    hardware = BenchHardware(hotplug_lag_s=0.02)
    specs = [SlotSpec(name=name, path=f"1-1.{name}", target_usb=f"1-2.{name}") for name in "12"]
    for board, name, crossed in zip(boards, "12", "21", strict=True):
        hardware.add(name, StLink(), path=f"1-1.{name}", board_usb=f"1-2.{crossed}")
        hardware.insert(name, board)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(2.0)
        jobs = [
            await bench.station.enqueue(chained_recipe(seed), slots=[name], count=None)
            for seed, name in enumerate("12")
        ]
        for job in jobs:
            (unit,) = await bench.units(await bench.ended(job))
            assert unit.failure is not None
            assert (unit.verdict, unit.failure.code) == (Verdict.FAILED, ErrorCode.BOARD_UNEXPECTED)
            assert "cable" in unit.failure.hint


@pytest.mark.parametrize(
    ("faults", "codes"),
    [
        ([LostPage(APPLICATION + 0x0800)], {ErrorCode.VERIFY_MISMATCH, ErrorCode.APPLICATION_NOT_SEEN}),
        ([LostPage(0x0400)], {ErrorCode.VERIFY_MISMATCH}),
        ([Vanishes(transfer=12)], {ErrorCode.BOOTLOADER_NOT_SEEN}),
        ([NeverEnumerates(enumeration=1)], {ErrorCode.BOOTLOADER_NOT_SEEN}),
    ],
    ids=["lost page of the firmware", "lost page of the bootloader", "vanishes", "bootloader silent"],
)
@virtual
async def test_an_ill_board_does_not_pass(
    tmp_path: Path, faults: Sequence[Stm32Fault | Stm32F1Fault], codes: set[ErrorCode]
) -> None:
    board = new_board(1, faults=faults)
    hardware, specs = stlinks([board], cables=True)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        (unit,) = await bench.once(chained_recipe(1))
    assert unit.verdict in (Verdict.FAILED, Verdict.NEEDS_RESCUE)
    assert unit.failure is not None
    assert (unit.failure.code in codes, bool(unit.failure.hint)) == (True, True), unit.failure


@virtual
async def test_an_st_link_pulled_while_it_writes_the_bootloader_begins_the_chain_anew(tmp_path: Path) -> None:
    for number in range(6):
        board = new_board(number)
        hardware, specs = stlinks([board], cables=True)
        folder = tmp_path / str(number)
        folder.mkdir()
        async with chain_station(hardware, specs, folder) as bench:
            await anyio.sleep(1.0)
            job = await bench.station.enqueue(chained_recipe(number), slots=None, count=1)
            await anyio.sleep(0.1 + 0.1 * number)
            hardware.unplug("S1")
            await anyio.sleep(1.0)
            hardware.plug("S1")
            (unit,) = await bench.units(await bench.ended(job))
            assert unit.verdict is Verdict.PASSED
        assert holds_chain(board, number), number


def learning_bench(*boards: Stm32Board) -> tuple[BenchHardware, list[SlotSpec]]:
    """ST-Links whose boards' ports nobody knows, and a keyboard that has nothing to do with them."""
    hardware = BenchHardware(hotplug_lag_s=0.02)
    specs = []
    for number, board in enumerate(boards, start=1):
        hardware.add(f"S{number}", StLink(), path=f"1-1.{number}", board_usb=f"1-2.{number}")
        hardware.insert(f"S{number}", board)
        specs.append(SlotSpec(name=f"S{number}", path=f"1-1.{number}"))
    hardware.add_port("desk", "1-2.9", Stm32Board(application=b""))
    return hardware, specs


@pytest.mark.parametrize("fixed_pull_up", [True, False])
@virtual
async def test_a_port_is_learnt_by_a_board_that_is_held_and_starts_anew(tmp_path: Path, fixed_pull_up: bool) -> None:
    """A Bluepill stays on the bus while it is held; when its program starts it leaves it for a moment."""
    boards = [new_board(number, fixed_pull_up=fixed_pull_up, has_loader=True) for number in range(2)]
    hardware, specs = learning_bench(*boards)
    async with chain_station(hardware, specs, tmp_path, watch_hotplug=True) as bench:
        await anyio.sleep(2.0)
        before = [bytes(board.chip.flash) for board in boards]
        assert [(await bench.station.learn(name)).target_usb for name in ("S1", "S2")] == ["1-2.1", "1-2.2"]
        assert [bytes(board.chip.flash) for board in boards] == before
        (unit,) = await bench.once(chained_recipe(3), "S2")
        assert (unit.verdict, unit.target_usb) == (Verdict.PASSED, "1-2.2")
    assert holds_chain(boards[1], 3)


@virtual
async def test_a_board_without_a_program_teaches_no_port(tmp_path: Path) -> None:
    board = new_board()
    hardware, specs = learning_bench(board)
    async with chain_station(hardware, specs, tmp_path, watch_hotplug=True) as bench:
        await anyio.sleep(2.0)
        with pytest.raises(JobError) as caught:
            await bench.station.learn("S1")
        assert caught.value.code is ErrorCode.NOT_PAIRED
        (unit,) = await bench.once(swd_recipe(1), "S1")
        assert unit.verdict is Verdict.PASSED
        await anyio.sleep(1.0)
        assert (await bench.station.learn("S1")).target_usb == "1-2.1", "now it has one"
    assert holds(board, content_for(1))
