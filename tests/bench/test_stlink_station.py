"""Slots with ST-Links live like all others: in gang, beside ISP, with counts, interruptions, locks and restarts."""

from pathlib import Path

import anyio
import pytest
from tests.bench.chain_station import BOOTLOADERS, PARTS, blank_board, cells, chain_station, firmware
from tests.bench.chain_station import recipe as avr_recipe
from tests.bench.stlink_station import (
    BLUEPILL,
    KEYBOARD,
    content_for,
    holds,
    new_board,
    stlinks,
    swd_recipe,
)

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.errors import ErrorCode, ProgrammerError
from ispd.model.job import JobState, Verdict
from ispd.model.recipe import PlanKind
from ispd.model.station import SlotAction, SlotState
from ispd.station.spec import SlotSpec
from vbench.hardware import BenchHardware
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual


@virtual
async def test_sixteen_at_once_end_with_their_own_image(tmp_path: Path) -> None:
    """All ST-Links show one serial number; the record tells which chip got what."""
    boards = [new_board(number) for number in range(16)]
    hardware, specs = stlinks(boards)
    async with chain_station(hardware, specs, tmp_path) as bench:
        jobs = [
            await bench.station.enqueue(swd_recipe(seed), slots=[spec.name], count=None)
            for seed, spec in enumerate(specs)
        ]
        units = [(await bench.units(await bench.ended(job)))[0] for job in jobs]
        programmers = bench.station.programmers()
    assert {(one.kind, one.interface, one.serial) for one in programmers} == {
        ("stlink", BLUEPILL.interface, programmers[0].serial)
    }
    for seed, (unit, board) in enumerate(zip(units, boards, strict=True)):
        assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
        assert (unit.part, unit.signature, unit.plan) == (BLUEPILL.id, "0x0410", PlanKind.ISP_ONLY)
        assert unit.unique_id is not None
        assert (unit.unique_id.upper(), bool(unit.chip)) == (board.swd.uid.hex().upper(), True)
        assert holds(board, content_for(seed)), unit.slot


@virtual
async def test_a_mixed_station_serves_both_kinds_at_once(tmp_path: Path) -> None:
    bluepills, avrs = [new_board(number) for number in range(4)], [blank_board() for _ in range(4)]
    hardware, specs = stlinks(bluepills)
    for number, board in enumerate(avrs, start=1):
        hardware.add(f"A{number}", UsbAsp(), path=f"1-4.{number}")
        hardware.insert(f"A{number}", board)
        specs.append(SlotSpec(name=f"A{number}", path=f"1-4.{number}"))
    app = firmware(7)
    async with chain_station(hardware, specs, tmp_path) as bench:
        swd = await bench.station.enqueue(swd_recipe(5), slots=None, count=None)
        isp = await bench.station.enqueue(avr_recipe(app, PlanKind.MERGED), slots=None, count=None)
        swd, isp = await bench.ended(swd), await bench.ended(isp)
        assert (swd.passed, swd.slots, swd.failed) == (4, ("S1", "S2", "S3", "S4"), 0)
        assert (isp.passed, isp.slots, isp.failed) == (4, ("A1", "A2", "A3", "A4"), 0)
        assert set(swd.seen) == set(isp.slots)
        everybody = await bench.station.enqueue(swd_recipe(6, part=None), slots=None, count=None)
        verdicts = {unit.slot: unit.verdict for unit in await bench.units(await bench.ended(everybody))}
    assert verdicts == {f"S{n}": Verdict.PASSED for n in range(1, 5)} | {f"A{n}": Verdict.FAILED for n in range(1, 5)}
    assert all(holds(board, content_for(6)) for board in bluepills)
    assert all(cells(board, app) for board in avrs), "an STM32's image leaves an AVR as it was"


@virtual
async def test_an_avrs_image_without_a_part_leaves_an_stm32_as_it_was(tmp_path: Path) -> None:
    bluepill, avr = new_board(1, has_loader=True), blank_board()
    before, app = bytes(bluepill.chip.flash), firmware(7)
    hardware, specs = stlinks([bluepill])
    hardware.add("A1", UsbAsp(), path="1-4.1")
    hardware.insert("A1", avr)
    files = (NamedBytes("keyboard.bin", app.bytes_in(app.span), app.span.start),)
    recipe = build_recipe(RecipeOptions(files=files, accept_fuses=True), PARTS, BOOTLOADERS)
    async with chain_station(hardware, [*specs, SlotSpec(name="A1", path="1-4.1")], tmp_path) as bench:
        units = {unit.slot: unit for unit in await bench.once(recipe)}
    assert {name: unit.verdict for name, unit in units.items()} == {"S1": Verdict.FAILED, "A1": Verdict.PASSED}
    assert units["S1"].failure is not None
    assert (units["S1"].failure.code, bool(units["S1"].failure.hint)) == (ErrorCode.IMAGE_DOES_NOT_FIT, True)
    assert (bytes(bluepill.chip.flash), cells(avr, app)) == (before, True)


@pytest.mark.parametrize("gap_s", [0.0, 2.0], ids=["in no time", "by hand"])
@virtual
async def test_a_count_is_reached_by_boards_that_are_exchanged(tmp_path: Path, gap_s: float) -> None:
    boards = [new_board(number) for number in range(5)]
    hardware, specs = stlinks([boards[0]])
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(swd_recipe(3), slots=None, count=5)
        for number, board in enumerate(boards):
            if number:
                hardware.remove("S1")
                await anyio.sleep(gap_s)
                hardware.insert("S1", board)
            unit = await bench.verdict()
            assert (unit.verdict, unit.unique_id) == (Verdict.PASSED, board.swd.uid.hex().upper()), number
            if number < len(boards) - 1:
                await anyio.sleep(3.0)
                assert bench.station.slot("S1").state is SlotState.PASSED, "held, and looked at, and not flashed again"
        job = await bench.ended(job)
        assert (job.state, job.passed, job.failed) == (JobState.DONE, 5, 0)
    assert all(holds(board, content_for(3)) for board in boards)


@virtual
async def test_a_protected_board_is_opened_only_with_consent(tmp_path: Path) -> None:
    board = new_board(1, is_protected=True)
    hardware, specs = stlinks([board])
    before = bytes(board.chip.flash)
    async with chain_station(hardware, specs, tmp_path) as bench:
        (unit,) = await bench.once(swd_recipe(1))
        assert unit.failure is not None
        assert (unit.verdict, unit.failure.code) == (Verdict.FAILED, ErrorCode.TARGET_LOCKED)
        assert ("--unlock" in unit.failure.hint, bytes(board.chip.flash)) == (True, before)
        (unit,) = await bench.once(swd_recipe(1, unlock=True))
        assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
        assert "unlock" in [step.name for step in unit.attempts[-1].steps]
        assert (unit.lock_before == 0xA5, unit.lock in (None, 0xA5), bool(unit.warnings)) == (False, True, True)
        again = await bench.station.probe("S1")
        assert (again.lock, again.unique_id) == (0xA5, unit.unique_id)
    assert holds(board, content_for(1))


@virtual
async def test_an_st_link_that_is_pulled_at_any_moment_is_gone_on_with(tmp_path: Path) -> None:
    """Plugged in again, the board is flashed from the start, in its record; nothing passes that is not there."""
    interrupted = 0
    for number in range(16):
        board = new_board(number)
        hardware, specs = stlinks([board])
        folder = tmp_path / str(number)
        folder.mkdir()
        async with chain_station(hardware, specs, folder) as bench:
            await anyio.sleep(1.0)
            job = await bench.station.enqueue(swd_recipe(number), slots=["S1"], count=1)
            await anyio.sleep(0.02 + number * 0.016)
            hardware.unplug("S1")
            await anyio.sleep(2.0)
            hardware.plug("S1")
            job = await bench.ended(job)
            assert (job.state, job.passed) == (JobState.DONE, 1)
            (unit,) = await bench.units(job)
            assert unit.verdict is Verdict.PASSED
            assert [attempt.verdict for attempt in unit.attempts[:-1]] == [Verdict.INTERRUPTED] * (
                len(unit.attempts) - 1
            )
            interrupted += len(unit.attempts) > 1
        assert holds(board, content_for(number)), number
    assert interrupted >= 10


@virtual
async def test_pause_holds_a_board_and_cancel_ends_it(tmp_path: Path) -> None:
    board = new_board()
    hardware, specs = stlinks([board])
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        recipe = swd_recipe(2, size_bytes=40_000)
        job = await bench.station.enqueue(recipe, slots=["S1"], count=None)
        await anyio.sleep(0.8)
        assert bench.station.slot("S1").state is SlotState.BUSY
        await bench.station.pause(job.id)
        await anyio.sleep(60.0)
        assert (bench.station.slot("S1").state, bench.station.slot("S1").note) == (SlotState.BUSY, "paused")
        assert not holds(board, content_for(2, 40_000))
        await bench.station.resume(job.id)
        assert (await bench.ended(job)).passed == 1
        assert holds(board, content_for(2, 40_000))
        job = await bench.station.enqueue(swd_recipe(4, size_bytes=40_000), slots=["S1"], count=None)
        await anyio.sleep(0.8)
        await bench.station.cancel(job.id)
        job = await bench.ended(job)
        (unit,) = await bench.units(job)
        assert (job.state, unit.verdict) == (JobState.CANCELLED, Verdict.CANCELLED)
        assert not holds(board, content_for(4, 40_000))
        (unit,) = await bench.once(recipe)
        assert unit.verdict is Verdict.PASSED


async def begin_and_die(hardware: BenchHardware, specs: list[SlotSpec], folder: Path, after_s: float) -> None:
    """Let a daemon begin with a board and end without a word, its unit open."""
    with anyio.CancelScope() as life:
        async with chain_station(hardware, specs, folder) as bench:
            await anyio.sleep(1.0)
            await bench.station.enqueue(swd_recipe(9), slots=["S1"], count=1)
            await anyio.sleep(after_s)
            assert bench.station.slot("S1").state is SlotState.BUSY
            life.cancel()


@pytest.mark.parametrize("after_s", [0.1, 0.15, 0.2])
@pytest.mark.parametrize("is_exchanged", [False, True])
@virtual
async def test_what_a_dead_daemon_left_open_is_done_by_the_next(
    tmp_path: Path, is_exchanged: bool, after_s: float
) -> None:
    first = new_board(1)
    await begin_and_die(*stlinks([first]), tmp_path, after_s)
    board = new_board(2 if is_exchanged else 1)
    board.chip.flash[:] = first.chip.flash
    hardware, specs = stlinks([board])
    async with chain_station(hardware, specs, tmp_path) as bench:
        (job,) = await bench.station.jobs(1, None)
        job = await bench.ended(job)
        units = await bench.units(job)
    told: list[tuple[Verdict | None, int]] = [(unit.verdict, len(unit.attempts)) for unit in units]
    if is_exchanged:
        assert told == [(Verdict.INTERRUPTED, 1), (Verdict.PASSED, 1)], "another chip, another record"
    else:
        assert told == [(Verdict.PASSED, 2)]
    assert holds(board, content_for(9))


@virtual
async def test_a_finished_board_is_left_alone_over_a_restart(tmp_path: Path) -> None:
    board = new_board(1)
    hardware, specs = stlinks([board])
    async with chain_station(hardware, specs, tmp_path) as bench:
        job = await bench.station.enqueue(swd_recipe(1), slots=None, count=2)
        assert (await bench.verdict()).verdict is Verdict.PASSED
    for number, passed in ((1, 1), (2, 2)):
        board = new_board(number)
        hardware, specs = stlinks([board])
        async with chain_station(hardware, specs, tmp_path) as bench:
            await anyio.sleep(10.0)
            assert (await bench.station.job(job.id)).passed == passed, "the same chip is the same board"
    assert holds(board, content_for(1))


@virtual
async def test_an_st_link_in_place_of_an_isp_programmer_takes_over_the_slot(tmp_path: Path) -> None:
    hardware, specs = stlinks([new_board()])
    hardware.add("old", UsbAsp(), path="1-1.1", plugged=False)
    hardware.unplug("S1")
    hardware.plug("old")
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        hardware.unplug("old")
        hardware.plug("S1")
        await anyio.sleep(1.0)
        (unit,) = await bench.once(swd_recipe(1))
        assert unit.verdict is Verdict.PASSED
        with pytest.raises(ProgrammerError) as caught:
            await bench.station.set_slot("S1", SlotAction.IDENTIFY)
        assert (caught.value.code, bool(caught.value.hint)) == (ErrorCode.PROGRAMMER_CANNOT, True)


@virtual
async def test_looking_does_not_disturb_a_running_board(tmp_path: Path) -> None:
    """A finished board is looked at several times a second; its keyboard stays on the bus all the time."""
    board = new_board()
    hardware, specs = stlinks([board], cables=True)
    async with chain_station(hardware, specs, tmp_path) as bench:
        await anyio.sleep(1.0)
        await bench.station.enqueue(swd_recipe(1), slots=None, count=2)
        assert (await bench.verdict()).verdict is Verdict.PASSED
        await anyio.sleep(5.0)
        resets, accesses = board.swd.resets, board.swd.accesses
        assert bench.station.slot("S1").board_usb == KEYBOARD
        await anyio.sleep(20.0)
        assert (board.swd.resets, board.swd.accesses > accesses + 20) == (resets, True)
