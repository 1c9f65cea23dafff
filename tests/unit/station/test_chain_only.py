"""Jobs over USB alone: bootloaders that show up on slots' ports get their firmware, in parallel, each board once."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs
from tests.bench.chain_station import (
    ChainStation,
    blank_board,
    chain_station,
    firmware,
    loaded_board,
    recipe,
    runs,
)
from tests.unit.flashing.scripted_chain import ScriptedPort, ScriptedTool

from ispd.chain.contract import ChainTool, ChainWork, Desk
from ispd.model.image import Image
from ispd.model.job import Job, JobState, Unit, Verdict
from ispd.model.recipe import PlanKind, Recipe
from ispd.model.station import SlotAction, SlotState
from ispd.station.spec import SlotSpec
from vbench.board import Board
from vbench.board_faults import EraseLeaves, Vanishes
from vbench.hardware import BenchHardware
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

P, Q = (SlotSpec(name=name, target_usb=f"1-2.{at}") for at, name in enumerate("PQ", start=1))
APP = firmware(1)


def ports(*boards: Board | None) -> BenchHardware:
    hardware = BenchHardware(hotplug_lag_s=0.02)
    for name, at, board in zip("PQ", (1, 2), (*boards, None, None), strict=False):
        hardware.add_port(name, f"1-2.{at}", board)
    return hardware


def only(app: Image = APP, *, with_loader: bool = False) -> Recipe:
    return recipe(app, PlanKind.CHAIN_ONLY, with_loader=with_loader)


async def count_job(bench: ChainStation, count: int, *slots: str) -> Job:
    return await bench.station.enqueue(only(), slots=slots or None, count=count)


@virtual
async def test_a_job_without_count_flashes_what_is_there_now_and_tells_what_was_on_the_other_ports(
    tmp_path: Path,
) -> None:
    board = loaded_board()
    async with chain_station(ports(board), [P, Q], tmp_path) as bench:
        job = await bench.ended(await bench.station.enqueue(only(), slots=None, count=None))
        (unit,) = await bench.units(job)
        assert (unit.verdict, unit.slot, unit.plan) == (Verdict.PASSED, "P", PlanKind.CHAIN_ONLY)
        assert (unit.signature, unit.part, unit.target_usb) == (None, "atmega32u4", "1-2.1")
        assert (job.state, job.passed, list(job.seen)) == (JobState.DONE, 1, ["Q"])
        assert "nothing is on USB port 1-2.2" in job.seen["Q"]
        assert bench.station.slot("P").state is SlotState.PASSED
        assert bench.station.slot("Q").state is SlotState.IDLE
    assert runs(board, APP)


@virtual
async def test_a_running_firmware_is_left_alone(tmp_path: Path) -> None:
    other = firmware(9)
    board = loaded_board(app=other)
    async with chain_station(ports(board), [P], tmp_path) as bench:
        await anyio.sleep(1.0)
        assert bench.station.slot("P").board_usb == "FEED:6060"
        job = await bench.ended(await bench.station.enqueue(only(), slots=["P"], count=None))
        assert (job.state, await bench.units(job)) == (JobState.EMPTY, [])
    assert "FEED:6060" in job.seen["P"]
    assert runs(board, other)


@virtual
async def test_board_after_board_on_all_ports_at_once(tmp_path: Path) -> None:
    hardware = ports()
    boards: list[Board] = []
    async with chain_station(hardware, [P, Q], tmp_path) as bench:
        job = await count_job(bench, 6)

        async def operator(name: str) -> None:
            for _ in range(3):
                board = loaded_board()
                boards.append(board)
                with bench.station.events.subscribe() as events, anyio.fail_after(60.0):
                    hardware.insert(name, board)
                    async for event in events:
                        if event.unit is not None and event.unit.slot == name and event.unit.verdict is not None:
                            break
                await anyio.sleep(5.0)  # it lies there: it is not flashed again
                hardware.remove(name)
                await anyio.sleep(4.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(operator, "P")
            tasks.start_soon(operator, "Q")
        job = await bench.ended(job)
        units = await bench.units(job)
    assert (job.passed, job.failed, len(units)) == (6, 0, 6)
    assert all(runs(board, APP) for board in boards)


@virtual
async def test_a_board_with_its_verdict_is_held_until_its_port_was_empty_also_across_a_restart(tmp_path: Path) -> None:
    """A board that goes back into its bootloader by itself is the same one."""
    ill = loaded_board(faults=[EraseLeaves(chip_erases=9)])
    hardware = ports(ill)
    async with chain_station(hardware, [P], tmp_path) as bench:
        job = await count_job(bench, 1, "P")
        unit = await bench.verdict()
        assert unit.verdict is Verdict.NEEDS_RESCUE
        await anyio.sleep(30.0)
        assert len(await bench.units(job)) == 1
    again = loaded_board()
    async with chain_station(ports(again), [P], tmp_path) as bench:
        await anyio.sleep(30.0)
        assert len(await bench.units(job)) == 1, "it may be the same board"
        bench.hardware.remove("P")
        await anyio.sleep(3.0)
        bench.hardware.insert("P", loaded_board())
        ended = await bench.ended(job)
        assert (ended.passed, ended.failed) == (1, 1), "needs-rescue counts as not passed"
        assert [one.verdict for one in await bench.units(job)] == [Verdict.NEEDS_RESCUE, Verdict.PASSED]


@virtual
async def test_what_the_daemons_stop_cut_short_is_begun_anew(tmp_path: Path) -> None:
    board = loaded_board()
    async with chain_station(ports(board), [P], tmp_path) as bench:
        job = await bench.station.enqueue(only(), slots=["P"], count=None)
        async for event in bench.events:
            if event.slot is not None and event.slot.step == "write over USB":
                break
    fresh = loaded_board()
    fresh.target.flash[:] = board.target.flash
    async with chain_station(ports(fresh), [P], tmp_path) as bench:
        ended = await bench.ended(job)
        (unit,) = await bench.units(job)
    assert (ended.state, ended.passed, unit.verdict) == (JobState.DONE, 1, Verdict.PASSED)
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.INTERRUPTED, Verdict.PASSED]
    assert runs(fresh, APP)


@virtual
async def test_a_cancel_in_the_middle_ends_the_unit_and_the_job_at_once(tmp_path: Path) -> None:
    async with chain_station(ports(loaded_board()), [P], tmp_path) as bench:
        job = await count_job(bench, 5, "P")
        async for event in bench.events:
            if event.slot is not None and event.slot.step == "write over USB":
                break
        begun = anyio.current_time()
        await bench.station.cancel(job.id)
        ended = await bench.ended(job)
        assert anyio.current_time() - begun < 1.0
        (unit,) = await bench.units(job)
    assert (ended.state, unit.verdict) == (JobState.CANCELLED, Verdict.CANCELLED)
    assert unit.attempts[-1].steps[-1].name == "write over USB"


@virtual
async def test_a_board_that_is_pulled_out_fails_and_the_next_one_is_flashed(tmp_path: Path) -> None:
    hardware = ports(loaded_board())
    async with chain_station(hardware, [P], tmp_path) as bench:
        job = await count_job(bench, 1, "P")
        async for event in bench.events:
            if event.slot is not None and event.slot.step == "write over USB":
                break
        hardware.remove("P")
        unit = await bench.verdict()
        assert (unit.verdict, unit.failure and unit.failure.code) == (Verdict.FAILED, "bootloader-not-seen")
        await anyio.sleep(5.0)
        good = loaded_board()
        hardware.insert("P", good)
        ended = await bench.ended(job)
    assert (ended.passed, ended.failed) == (1, 1)
    assert runs(good, APP)


@virtual
async def test_a_slot_that_is_disabled_begins_no_board(tmp_path: Path) -> None:
    hardware = ports()
    async with chain_station(hardware, [P], tmp_path) as bench:
        job = await count_job(bench, 1, "P")
        await anyio.sleep(1.0)
        await bench.station.set_slot("P", SlotAction.DISABLE)
        hardware.insert("P", loaded_board())
        await anyio.sleep(10.0)
        assert await bench.units(job) == []
        assert bench.station.slot("P").state is SlotState.DISABLED
        await bench.station.set_slot("P", SlotAction.ENABLE)
        assert (await bench.ended(job)).passed == 1


@virtual
async def test_a_slot_with_a_programmer_is_looked_at_over_usb_only(tmp_path: Path) -> None:
    """Also where the programmer is not there: nobody resets the board to look at it."""
    hardware = BenchHardware()
    hardware.add("A", UsbAsp(), path="1-1.1", board_usb="1-2.1", plugged=False)
    board = loaded_board()
    hardware.insert("A", board)
    spec = SlotSpec(name="A", programmer="usbasp", path="1-1.1", target_usb="1-2.1")
    async with chain_station(hardware, [spec], tmp_path) as bench:
        (unit,) = await bench.once(only(), "A")
        await anyio.sleep(5.0)
        assert bench.station.slot("A").state is SlotState.VACANT
    assert (unit.verdict, runs(board, APP)) == (Verdict.PASSED, True)


@virtual
async def test_a_blank_board_is_none(tmp_path: Path) -> None:
    async with chain_station(ports(blank_board()), [P], tmp_path) as bench:
        job = await bench.ended(await bench.station.enqueue(only(), slots=["P"], count=None))
    assert (job.state, list(job.seen)) == (JobState.EMPTY, ["P"])


@pytest.mark.parametrize("transfer", [3, 20, 60])
@virtual
async def test_a_board_that_falls_off_the_bus_by_itself_never_passes(tmp_path: Path, transfer: int) -> None:
    board = loaded_board(faults=[Vanishes(transfer=transfer)])
    async with chain_station(ports(board), [P], tmp_path) as bench:
        (unit,) = await bench.once(only(), "P")
    assert (unit.verdict, unit.failure and unit.failure.code) == (Verdict.FAILED, "bootloader-not-seen")


class Broken(ScriptedTool):
    """Fails in a way that nobody foresaw."""

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        raise KeyError(work.bootloader.id, desk)


@virtual
async def test_what_nobody_foresaw_is_one_boards_verdict_and_the_next_one_is_begun(tmp_path: Path) -> None:
    hardware = ports(loaded_board(), loaded_board())
    tools = [Broken(ScriptedPort())]
    with capture_logs() as logs:
        units, first, third = await _three_boards(hardware, tmp_path, tools)
    assert [entry["event"] for entry in logs] == ["internal error on a slot"] * 3
    assert (first, third.slot) == ({"P", "Q"}, "P")
    assert [(unit.verdict, unit.failure and unit.failure.code) for unit in units] == [(Verdict.FAILED, "internal")] * 3


async def _three_boards(
    hardware: BenchHardware, folder: Path, tools: Sequence[ChainTool]
) -> tuple[list[Unit], set[str], Unit]:
    async with chain_station(hardware, [P, Q], folder, tools=tools) as bench:
        job = await count_job(bench, 5)
        first = {(await bench.verdict()).slot for _ in "PQ"}
        hardware.remove("P")
        await anyio.sleep(3.0)
        hardware.insert("P", loaded_board())
        third = await bench.verdict()
        return await bench.units(job), first, third


@virtual
async def test_a_paused_job_begins_no_board_and_ends_the_step_it_is_at(tmp_path: Path) -> None:
    hardware = ports(loaded_board())
    async with chain_station(hardware, [P], tmp_path) as bench:
        job = await count_job(bench, 1, "P")
        async for event in bench.events:
            if event.slot is not None and event.slot.step == "erase over USB":
                break
        await bench.station.pause(job.id)
        await anyio.sleep(60.0)
        (unit,) = await bench.units(job)
        assert (unit.verdict, unit.attempts[0].steps[-1].name) == (None, "erase over USB")
        assert bench.station.slot("P").note == "paused"
        await bench.station.resume(job.id)
        assert (await bench.ended(job)).passed == 1
