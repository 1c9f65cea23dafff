"""Boards whose bootloader is ill: saved by ISP where the slot can, else sent to a slot that can."""

from pathlib import Path

import pytest
from tests.bench.chain_station import (
    BOOTLOADERS,
    LOADER,
    PART,
    PARTS,
    blank_board,
    chain_station,
    firmware,
    loaded_board,
    recipe,
    runs,
)

from ispd.catalog.options import NamedBytes
from ispd.catalog.rescue import as_rescue
from ispd.errors import ErrorCode, JobError, RefusedError
from ispd.model.job import Verdict
from ispd.model.recipe import PlanKind
from ispd.station.spec import SlotSpec
from vbench.board import Board
from vbench.board_faults import EraseLeaves
from vbench.firmware_image import bootloader_image
from vbench.hardware import BenchHardware
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

ISP = SlotSpec(name="A", programmer="usbasp", path="1-1.1", target_usb="1-2.1")
USB = SlotSpec(name="P", target_usb="1-2.9")
APP = firmware(3)
DISEASE = EraseLeaves(chip_erases=1)
"""Cured by the first chip erase there is."""
INCURABLE = EraseLeaves(chip_erases=99)


def hardware_of(on_isp: Board | None, on_usb: Board | None = None) -> BenchHardware:
    hardware = BenchHardware()
    hardware.add("A", UsbAsp(), path="1-1.1", board_usb="1-2.1")
    hardware.add_port("P", "1-2.9", on_usb)
    if on_isp is not None:
        hardware.insert("A", on_isp)
    return hardware


@virtual
async def test_a_chained_board_is_saved_within_its_unit(tmp_path: Path) -> None:
    board = blank_board(faults=[EraseLeaves(chip_erases=2)])
    async with chain_station(hardware_of(board), [ISP], tmp_path) as bench:
        (unit,) = await bench.once(recipe(APP), "A")
        (job,) = await bench.station.jobs(1, None)
    assert (unit.verdict, job.passed, job.failed) == (Verdict.PASSED, 1, 0)
    assert runs(board, APP)
    first, second = unit.attempts
    assert (first.verdict, first.failure and first.failure.code) == (Verdict.NEEDS_RESCUE, "not-blank")
    assert [step.name for step in first.steps[-3:]] == [
        "erase over USB",
        "erase over USB, try 2 of 3",
        "erase over USB, try 3 of 3",
    ]
    assert (second.verdict, second.steps[0].name) == (Verdict.PASSED, "erase")
    assert any("rescued by ISP" in warning for warning in unit.warnings)


@virtual
async def test_a_board_with_a_good_bootloader_is_saved_on_a_slot_that_has_isp_and_the_image(tmp_path: Path) -> None:
    board = loaded_board(faults=[DISEASE])
    board.target.core.lock = 0xEF
    async with chain_station(hardware_of(board), [ISP], tmp_path) as bench:
        (unit,) = await bench.once(recipe(APP, PlanKind.CHAIN_ONLY), "A")
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.NEEDS_RESCUE, Verdict.PASSED]
    assert (unit.verdict, unit.plan) == (Verdict.PASSED, PlanKind.CHAIN_ONLY)
    assert runs(board, APP)
    assert unit.fuses_after["hfuse"] == LOADER.fuses[next(m for m in LOADER.fuses if m.value == "hfuse")]


@virtual
async def test_a_board_that_isp_does_not_cure_fails_for_good(tmp_path: Path) -> None:
    async with chain_station(hardware_of(blank_board(faults=[INCURABLE])), [ISP], tmp_path) as bench:
        (unit,) = await bench.once(recipe(APP), "A")
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.NEEDS_RESCUE, Verdict.FAILED]
    assert unit.failure is not None
    assert (unit.verdict, unit.failure.code) == (Verdict.FAILED, "not-blank")
    assert "replace the chip" in unit.failure.hint


@pytest.mark.parametrize("with_loader", [True, False])
@virtual
async def test_elsewhere_the_unit_needs_rescue_and_is_saved_on_another_slot(tmp_path: Path, with_loader: bool) -> None:
    board = loaded_board(faults=[DISEASE])
    hardware = hardware_of(None, board)
    async with chain_station(hardware, [ISP, USB], tmp_path) as bench:
        (unit,) = await bench.once(recipe(APP, PlanKind.CHAIN_ONLY, with_loader=with_loader), "P")
        (job,) = await bench.station.jobs(1, None)
        assert unit.failure is not None
        assert (unit.verdict, unit.failure.code, len(unit.attempts)) == (Verdict.NEEDS_RESCUE, "not-blank", 1)
        assert "ispctl rescue" in unit.failure.hint
        assert (job.passed, job.failed) == (0, 1)

        hardware.remove("P")
        hardware.insert("A", board)
        found = await bench.station.recipe_to_rescue(None)
        assert found == await bench.station.recipe_to_rescue(unit.id)
        image = bootloader_image(LOADER, PART)
        files = [] if with_loader else [NamedBytes("boot.bin", image.bytes_in(image.span), image.span.start)]
        if not with_loader:
            with pytest.raises(RefusedError) as caught:
                as_rescue(found, PARTS, BOOTLOADERS)
            assert caught.value.code is ErrorCode.NOTHING_TO_RESCUE
        (saved,) = await bench.once(as_rescue(found, PARTS, BOOTLOADERS, files), "A")
    assert (saved.verdict, saved.plan, saved.failure) == (Verdict.PASSED, PlanKind.CHAINED, None)
    assert runs(board, APP)


@virtual
async def test_a_programmer_that_reaches_no_chip_leaves_the_board_to_another_slot(tmp_path: Path) -> None:
    """The header is not plugged in, so that nothing tells whose board this is: no rescue is begun."""
    board = loaded_board(faults=[DISEASE])
    hardware = BenchHardware()
    hardware.add("A", UsbAsp(), path="1-1.1")
    hardware.add_port("P", "1-2.1", board)
    async with chain_station(hardware, [ISP], tmp_path) as bench:
        (unit,) = await bench.once(recipe(APP, PlanKind.CHAIN_ONLY), "A")
    assert unit.failure is not None
    assert (unit.verdict, unit.failure.code) == (Verdict.NEEDS_RESCUE, "not-blank")
    assert "ispctl rescue" in unit.failure.hint
    assert "it is another board's" in unit.failure.hint
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.NEEDS_RESCUE]


@virtual
async def test_where_the_programmer_is_gone_no_second_attempt_is_begun(tmp_path: Path) -> None:
    board = loaded_board(faults=[DISEASE])
    hardware = BenchHardware()
    hardware.add("A", UsbAsp(), path="1-1.1", plugged=False)
    hardware.add_port("P", "1-2.1", board)
    async with chain_station(hardware, [ISP], tmp_path) as bench:
        (unit,) = await bench.once(recipe(APP, PlanKind.CHAIN_ONLY), "A")
    assert (unit.verdict, len(unit.attempts)) == (Verdict.NEEDS_RESCUE, 1)


@virtual
async def test_a_stop_during_the_rescue_is_taken_up_by_the_next_daemon(tmp_path: Path) -> None:
    board = blank_board(faults=[EraseLeaves(chip_erases=2)])
    async with chain_station(hardware_of(board), [ISP], tmp_path) as bench:
        job = await bench.station.enqueue(recipe(APP), slots=["A"], count=None)
        async for event in bench.events:
            if event.slot is not None and event.slot.step == "write flash" and "rescued" in event.slot.note:
                break
    fresh = Board(blank_board().target)
    fresh.target.flash[:] = board.target.flash
    async with chain_station(hardware_of(fresh), [ISP], tmp_path) as bench:
        await bench.ended(job)
        (unit,) = await bench.units(job)
    assert [attempt.verdict for attempt in unit.attempts] == [
        Verdict.NEEDS_RESCUE,
        Verdict.INTERRUPTED,
        Verdict.PASSED,
    ]
    assert runs(fresh, APP)


@pytest.mark.parametrize("count", [None, 1])
@virtual
async def test_a_rescue_over_usb_that_was_cut_short_is_begun_anew_though_no_bootloader_shows_up(
    tmp_path: Path, count: int | None
) -> None:
    board = loaded_board(faults=[DISEASE])
    async with chain_station(hardware_of(board), [ISP], tmp_path) as bench:
        job = await bench.station.enqueue(recipe(APP, PlanKind.CHAIN_ONLY), slots=["A"], count=count)
        async for event in bench.events:
            if event.slot is not None and event.slot.step == "write flash":
                break
    assert not runs(board, APP)
    fresh = blank_board()  # the same one: its bootloader is gone
    async with chain_station(hardware_of(fresh), [ISP], tmp_path) as bench:
        ended = await bench.ended(job)
        (unit,) = await bench.units(job)
    assert (ended.passed, unit.verdict) == (1, Verdict.PASSED)
    assert [attempt.verdict for attempt in unit.attempts] == [
        Verdict.NEEDS_RESCUE,
        Verdict.INTERRUPTED,
        Verdict.PASSED,
    ]
    assert runs(fresh, APP)


@virtual
async def test_a_chip_whose_lock_bits_keep_the_bootloader_from_writing_takes_the_same_lane(tmp_path: Path) -> None:
    board = loaded_board()
    board.target.core.lock = 0xFB  # BLB01 programmed: SPM may not write to the application section
    async with chain_station(hardware_of(board), [ISP], tmp_path) as bench:
        (unit,) = await bench.once(recipe(APP, PlanKind.CHAIN_ONLY), "A")
    assert [attempt.verdict for attempt in unit.attempts] == [Verdict.NEEDS_RESCUE, Verdict.PASSED]
    assert runs(board, APP)


@virtual
async def test_there_is_nothing_to_rescue(tmp_path: Path) -> None:
    async with chain_station(hardware_of(blank_board()), [ISP], tmp_path) as bench:
        with pytest.raises(JobError) as caught:
            await bench.station.recipe_to_rescue(None)
        assert caught.value.code is ErrorCode.NOTHING_TO_RESCUE
        with pytest.raises(JobError) as caught:
            await bench.station.recipe_to_rescue(7)
        assert caught.value.code is ErrorCode.UNKNOWN_UNIT
        (unit,) = await bench.once(recipe(APP), "A")
        with pytest.raises(JobError) as caught:
            await bench.station.recipe_to_rescue(unit.id)
        assert (caught.value.code, "ended passed" in caught.value.message) == (ErrorCode.NOTHING_TO_RESCUE, True)
