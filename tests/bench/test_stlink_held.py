"""Boards that make it hard to tell whether they are still there: debug pins turned off, protected, ids shared, bad wires."""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.bench.chain_station import BOOTLOADERS, PARTS, chain_station
from tests.bench.stlink_station import BLUEPILL, KEYBOARD, content_for, holds, new_board, stlinks, swd_recipe

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.errors import ErrorCode
from ispd.model.image import Image, Segment
from ispd.model.job import JobState, Verdict
from ispd.model.part import MemoryKind
from ispd.model.station import SlotState
from vbench.faults import GoesSilent, SckCeiling
from vbench.stlink import StLink
from vbench.stm32 import Habit, stm32_application
from vbench.stm32_board import Stm32Board
from vbench.swd import SwdWiring
from vbench.virtual_time import virtual


@pytest.mark.parametrize("habit", list(Habit))
@pytest.mark.parametrize("has_nrst", [False, True])
@virtual
async def test_firmware_that_keeps_the_debug_port_to_itself(tmp_path: Path, habit: Habit, has_nrst: bool) -> None:
    """Such a board is held as any other, where reset is wired; where not, it looks like no board, and is not flashed twice either."""
    content = stm32_application(3_000, seed=1, usb=KEYBOARD, start=0, habit=habit)
    options = RecipeOptions(files=(NamedBytes("keyboard.bin", content, None),), part=BLUEPILL.id)
    recipe = build_recipe(options, PARTS, BOOTLOADERS)
    first, second = new_board(1), new_board(2)
    hardware, specs = stlinks([first], cables=True)
    programmer = hardware.programmer("S1")
    assert isinstance(programmer, StLink)
    programmer.socket.wiring = SwdWiring(has_nrst=has_nrst)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        job = await bench.station.enqueue(recipe, slots=None, count=2)
        unit = await bench.verdict()
        assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
        assert any("turned SWD off, or sleeps" in warning for warning in unit.warnings)
        await anyio.sleep(20.0)
        units = await bench.units(job)
        assert [len(units), (await bench.station.job(job.id)).passed] == [1, 1]
        assert bench.station.slot("S1").state in (SlotState.PASSED, SlotState.WAITING)
        hardware.remove("S1")
        await anyio.sleep(2.0)
        hardware.insert("S1", second)
        job = await bench.ended(job)
        assert (job.state, job.passed) == (JobState.DONE, 2)
    assert holds(first, content)
    assert holds(second, content)


@virtual
async def test_a_sleeping_board_is_met_before_anybody_takes_it_out_again(tmp_path: Path) -> None:
    """It hears and asks to wait: no slower clock is tried on it before it is reset."""
    board = new_board(1)
    old = stm32_application(3_000, seed=9, usb=KEYBOARD, start=0, habit=Habit.SLEEPS)
    board.chip.flash[: len(old)] = old
    hardware, specs = stlinks([None], cables=True)
    programmer = hardware.programmer("S1")
    assert isinstance(programmer, StLink)
    programmer.socket.wiring = SwdWiring(has_nrst=True)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await bench.station.enqueue(swd_recipe(1), slots=None, count=1)
        await anyio.sleep(3.0)
        hardware.insert("S1", board)
        inserted = hardware.now()
        unit = await bench.verdict()
        assert unit.verdict is Verdict.PASSED
        assert hardware.now() - inserted < 4.0  # each slower clock takes as long to give up
    assert holds(board, content_for(1))


@virtual
async def test_a_board_that_was_locked_is_held_and_known_again(tmp_path: Path) -> None:
    board = new_board(1)
    recipe = replace(swd_recipe(1), lock=0x00)
    hardware, specs = stlinks([board])
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(recipe, slots=None, count=2)
        unit = await bench.verdict()
        assert (unit.verdict, unit.lock) == (Verdict.PASSED, 0x00)
        await anyio.sleep(10.0)
        assert bench.station.slot("S1").state is SlotState.PASSED
        assert (await bench.station.job(job.id)).passed == 1
        hardware.remove("S1")
        hardware.insert("S1", new_board(2))
        assert (await bench.verdict()).verdict is Verdict.PASSED
        assert (await bench.ended(job)).state is JobState.DONE


@virtual
async def test_boards_that_share_one_id_are_told_apart_by_being_taken_out(tmp_path: Path) -> None:
    boards = [new_board(0, uid=b"\0" * 12), new_board(0, uid=b"\0" * 12), Stm32Board(has_loader=False)]
    hardware, specs = stlinks([boards[0]])
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(swd_recipe(1), slots=None, count=3)
        for number, board in enumerate(boards):
            if number:
                hardware.remove("S1")
                await anyio.sleep(1.0)
                hardware.insert("S1", board)
            assert (await bench.verdict()).verdict is Verdict.PASSED
            await anyio.sleep(2.0)
        assert (await bench.ended(job)).passed == 3
    assert all(holds(board, content_for(1)) for board in boards)


@virtual
async def test_long_wires_get_a_slower_clock_and_what_was_written_is_read(tmp_path: Path) -> None:
    board = new_board(1, faults=[SckCeiling(hz=500_000.0)])
    hardware, specs = stlinks([board, None])
    async with chain_station(hardware, specs, tmp_path) as bench:
        (unit,) = await bench.once(swd_recipe(1), "S1")
        assert unit.verdict is Verdict.PASSED, unit.failure
        assert unit.sck_hz is not None
        assert 400_000 <= unit.sck_hz <= 500_000
        assert await bench.station.read("S1", MemoryKind.FLASH) == bytes(board.chip.flash)
        empty = await bench.ended(await bench.station.enqueue(swd_recipe(1), slots=["S2"], count=None))
        assert (empty.state, bool(empty.seen["S2"])) == (JobState.EMPTY, True)
    assert holds(board, content_for(1))


@pytest.mark.parametrize("accesses", [*range(1, 40, 3), 60, 90, 140, 200])
@virtual
async def test_a_contact_that_opens_at_any_moment_is_the_boards_trouble_alone(tmp_path: Path, accesses: int) -> None:
    """Nothing passes that is not there, and the slot's programmer is not blamed: the next board is flashed."""
    board, next_board = new_board(1, faults=[GoesSilent(after_instructions=accesses)]), new_board(2)
    hardware, specs = stlinks([board])
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(swd_recipe(1), slots=None, count=2)
        await anyio.sleep(15.0)
        state = bench.station.slot("S1").state
        assert state in (SlotState.WAITING, SlotState.PASSED, SlotState.FAILED, SlotState.REMOVED), bench.station.slot(
            "S1"
        )
        passed = (await bench.station.job(job.id)).passed
        assert not passed or holds(board, content_for(1))
        hardware.remove("S1")
        await anyio.sleep(1.0)
        hardware.insert("S1", next_board)
        with anyio.move_on_after(20.0):
            await bench.ended(job)
        assert (await bench.station.job(job.id)).passed == passed + 1
    assert holds(next_board, content_for(1))


@pytest.mark.parametrize("habit", list(Habit))
@virtual
async def test_firmware_that_turns_swd_off_at_its_first_instruction_is_replaced_under_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, habit: Habit
) -> None:
    """Nothing lets it run between the connection and its erase; a job without count meets it as any other board."""
    monkeypatch.setattr("vbench.stm32_board._HABIT_S", 0.0)
    board = new_board(1)
    board.chip.flash[:3_000] = stm32_application(3_000, seed=9, usb=KEYBOARD, start=0, habit=habit)
    hardware, specs = stlinks([board], cables=True)
    programmer = hardware.programmer("S1")
    assert isinstance(programmer, StLink)
    programmer.socket.wiring = SwdWiring(has_nrst=True)
    other = stm32_application(3_000, seed=1, usb=KEYBOARD, start=0, habit=habit)
    options = RecipeOptions(files=(NamedBytes("keyboard.bin", other, None),), part=BLUEPILL.id)
    too_large = replace(
        swd_recipe(2), flash=Image.of([Segment(0x0800_0000, stm32_application(70_000, seed=2, start=0))])
    )
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        probed = await bench.station.probe("S1")
        assert (probed.failure, probed.unique_id) == (None, board.swd.uid.hex().upper())
        (refused,) = await bench.once(too_large)
        assert refused.failure is not None
        assert (refused.failure.code, refused.warnings) == (ErrorCode.IMAGE_TOO_LARGE, ())
        assert board.swd.core.is_in_flash
        for _ in range(2):
            (unit,) = await bench.once(build_recipe(options, PARTS, BOOTLOADERS))
            assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
            assert holds(board, other)
            assert board.swd.core.is_in_flash
        (unit,) = await bench.once(swd_recipe(4))
        assert (unit.verdict, unit.warnings) == (Verdict.PASSED, ())
    assert holds(board, content_for(4))


@virtual
async def test_a_board_that_comes_while_the_slowest_clock_is_tried_is_not_kept_there(tmp_path: Path) -> None:
    """Looks take turns among the clocks: which one met a board first is chance, and 25 kHz would take minutes for a chip."""
    times = [1.0 + number * 0.0045 for number in (*range(5), *range(70, 90))]
    boards = [new_board(number) for number, _ in enumerate(times)]
    hardware, specs = stlinks([None])
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(swd_recipe(1), slots=None, count=len(boards))
        for board, after_s in zip(boards, times, strict=True):
            await anyio.sleep(after_s)
            hardware.insert("S1", board)
            unit = await bench.verdict()
            assert (unit.verdict, unit.sck_hz) == (Verdict.PASSED, 1_800_000), after_s
            hardware.remove("S1")
        assert (await bench.ended(job)).passed == len(boards)
