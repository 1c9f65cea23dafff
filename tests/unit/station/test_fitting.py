"""A job goes to programmers that speak what its part is programmed by, and waits for no other; boards are told apart by their serial numbers."""

from pathlib import Path

import anyio
import pytest
from tests.unit.station.fake_targets import AVR, STM32, Chip, FakeStation, fake_station

from ispd.errors import ErrorCode, JobError, ProgrammerError
from ispd.model.image import Image, Segment
from ispd.model.job import JobState, Verdict
from ispd.model.recipe import Recipe
from ispd.model.station import SlotAction
from vbench.virtual_time import virtual

FLASH = Image.of([Segment(0, bytes(range(64)))])
FOR_AVR, FOR_STM32, FOR_ANY = (Recipe(flash=FLASH, part=part) for part in (AVR.id, STM32.id, None))
SPEAKS_ISP = "its programmer speaks ISP; STM32F103xB is programmed by SWD"
SPEAKS_SWD = "its programmer speaks SWD; ATmega32U4 is programmed by ISP"
MIXED = {"A": "usbasp", "B": "stlink"}
X, Y = "0673FF485753", "0673FF485754"


@virtual
async def test_of_a_mixed_station_a_job_takes_the_slots_for_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = {"A": Chip(AVR), "B": Chip(STM32)}
    async with fake_station(monkeypatch, tmp_path, MIXED, chips) as bench:
        for recipe, slot, seen in ((FOR_STM32, "B", {"A": SPEAKS_ISP}), (FOR_AVR, "A", {"B": SPEAKS_SWD})):
            for count in (None, 1):
                job = await bench.station.enqueue(recipe, slots=None, count=count)
                assert (job.slots, job.seen) == ((slot,), seen)
                job = await bench.ended(job)
                assert (job.state, job.passed, job.seen) == (JobState.DONE, 1, seen)
        both = await bench.ended(await bench.station.enqueue(FOR_ANY, slots=None, count=None))
        assert (both.slots, both.passed) == (("A", "B"), 2), "each board's own identity decides"
    assert all(recipe.part != AVR.id for recipe in chips["B"].recipes)


@virtual
async def test_slots_named_for_the_wrong_part_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": None}) as bench:
        for slots in (["A"], ["B", "A"]):
            with pytest.raises(JobError) as caught:
                await bench.station.enqueue(FOR_STM32, slots=slots, count=3)
            assert (caught.value.code, caught.value.message) == (ErrorCode.PROGRAMMER_CANNOT, f"slot A: {SPEAKS_ISP}")
            assert caught.value.hint
        bench.unplug("B")
        await anyio.sleep(1.0)
        with pytest.raises(JobError) as caught:
            await bench.station.enqueue(FOR_STM32, slots=None, count=None)
        assert (caught.value.code, SPEAKS_ISP in caught.value.message) == (ErrorCode.NO_SLOT, True)
        job = await bench.station.enqueue(FOR_STM32, slots=["B"], count=1)
        assert job.seen == {}, "nobody knows yet what will be plugged in there"
        assert await bench.station.jobs(10, None) == [job], "what was refused was not recorded"


@virtual
async def test_a_programmer_that_comes_later_and_is_none_for_the_job_does_not_hold_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of this slot alone ends, told why; one with other slots goes on there."""
    chips = {"A": Chip(AVR), "B": Chip(STM32), "C": Chip(AVR)}
    async with fake_station(monkeypatch, tmp_path, {**MIXED, "C": "stlink"}, chips) as bench:
        bench.unplug("C")
        await anyio.sleep(1.0)
        alone = await bench.station.enqueue(FOR_STM32, slots=["C"], count=2)
        shared = await bench.station.enqueue(FOR_STM32, slots=["B", "C"], count=2)
        bench.replace("C", "usbasp")
        alone = await bench.ended(alone)
        assert (alone.state, alone.seen) == (JobState.EMPTY, {"C": SPEAKS_ISP})
        assert (await bench.verdict()).slot == "B"
        behind = await bench.ended(await bench.station.enqueue(FOR_AVR, slots=["C"], count=None))
        assert behind.passed == 1, "a job that this slot cannot do keeps none from it that it can do"
        assert not (await bench.station.job(shared.id)).state.is_final
        bench.headers["B"].chip = None
        await anyio.sleep(1.0)
        bench.headers["B"].chip = Chip(STM32)
        shared = await bench.ended(shared)
        assert (shared.state, shared.passed, shared.seen) == (JobState.DONE, 2, {"C": SPEAKS_ISP})
    assert [recipe.part for recipe in chips["C"].recipes] == [AVR.id]


@virtual
async def test_a_job_comes_back_to_a_slot_with_the_right_programmer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = {"A": Chip(STM32, X), "B": None}
    async with fake_station(monkeypatch, tmp_path, {"A": "stlink", "B": "stlink"}, chips) as bench:
        job = await bench.station.enqueue(FOR_STM32, slots=["A", "B"], count=2)
        assert (await bench.verdict()).slot == "A"
        bench.replace("A", "usbasp")
        await anyio.sleep(1.0)
        assert (await bench.station.job(job.id)).seen == {"A": SPEAKS_ISP}
        bench.headers["A"].chip = Chip(STM32, Y)
        await anyio.sleep(5.0)
        assert (await bench.station.job(job.id)).passed == 1
        bench.replace("A", "stlink")
        job = await bench.ended(job)
        assert (job.state, job.passed, job.seen) == (JobState.DONE, 2, {})


@virtual
async def test_a_programmer_exchanged_between_a_look_and_the_flashing_goes_on_with_its_own_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": Chip(STM32)}) as bench:
        header, avr = bench.headers["B"], Chip(AVR)

        def swap(number: int) -> None:
            if number == 2:
                bench.replace("B", "usbasp")

        header.looks = swap
        first = await bench.station.enqueue(FOR_STM32, slots=["B"], count=1)
        second = await bench.station.enqueue(Recipe(flash=FLASH), slots=["B"], count=1)
        first = await bench.ended(first)
        assert (first.state, first.passed, first.seen) == (JobState.EMPTY, 0, {"B": SPEAKS_ISP})
        header.chip = avr
        with anyio.fail_after(60.0):
            async for event in bench.events:
                assert event.slot is None or event.slot.failure is None, event.slot
                if event.job is not None and event.job.id == second.id and event.job.state.is_final:
                    break
    assert len(avr.recipes) == 1


async def exchange(bench: FakeStation, chip: Chip) -> None:
    """Exchange the board on slot B so fast that no look shows the slot empty."""
    bench.headers["B"].chip = chip
    await anyio.sleep(4.0)


@virtual
async def test_boards_exchanged_between_two_looks_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first one told its serial number only once its protection was removed, and over a restart."""
    first, second = Chip(STM32, X), Chip(STM32, Y)
    nameless, zeros = Chip(STM32), Chip(STM32, "00" * 12)
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": first}) as bench:
        first.tells_id = False
        job = await bench.station.enqueue(FOR_STM32, slots=["B"], count=5)
        await bench.verdict()
        first.tells_id = True
        await anyio.sleep(4.0)
        assert len(first.recipes) == 1, "the same board, which tells more now"
        await exchange(bench, second)
        await exchange(bench, nameless)
        await exchange(bench, zeros)
        assert [len(chip.recipes) for chip in (first, second, nameless, zeros)] == [1, 1, 0, 0]
        assert [unit.unique_id for unit in await bench.units(job)] == [X, Y]
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": second}) as bench:
        await anyio.sleep(4.0)
        assert len(second.recipes) == 1, "held over the restart"
    third = Chip(STM32, "0673FF485755")
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": third}) as bench:
        await anyio.sleep(4.0)
        assert len(third.recipes) == 1, "exchanged while no daemon ran"
        await bench.station.cancel(job.id)
        assert (await bench.ended(job)).passed == 3


@pytest.mark.parametrize("is_exchanged", [False, True])
@virtual
async def test_an_interrupted_board_goes_on_in_its_record_and_another_one_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_exchanged: bool
) -> None:
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": Chip(STM32, X)}) as bench:
        job = await bench.station.enqueue(FOR_STM32, slots=["B"], count=1)
        await anyio.sleep(1.0)
        bench.unplug("B")
        assert (await bench.verdict()).verdict is Verdict.INTERRUPTED
        if is_exchanged:
            bench.headers["B"].chip = Chip(STM32, Y)
        bench.replace("B", "stlink")
        await bench.ended(job)
        units = [(unit.unique_id, unit.verdict, len(unit.attempts)) for unit in await bench.units(job)]
        same, other = [(X, Verdict.PASSED, 2)], [(X, Verdict.INTERRUPTED, 1), (Y, Verdict.PASSED, 1)]
        assert units == (other if is_exchanged else same)


@virtual
async def test_clocks_of_one_kind_of_programmer_are_not_asked_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot remembers a slow board's clock as long as its programmer stays."""
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": Chip(AVR, slowest_hz=100_000), "B": None}) as bench:
        for _ in range(2):
            job = await bench.ended(await bench.station.enqueue(FOR_ANY, slots=["A"], count=None))
            assert job.passed == 1, job.seen
        asked = bench.headers["A"].asked
        assert (asked[0][0], asked[-1][0]) == (375_000, 93_750)
        asked.clear()
        bench.headers["A"].chip = Chip(STM32)
        bench.replace("A", "stlink")
        await anyio.sleep(1.0)
        assert (await bench.ended(await bench.station.enqueue(FOR_ANY, slots=["A"], count=None))).passed == 1
        assert {hz for rungs in asked for hz in rungs} <= {1_800_000, 480_000, 125_000}


@virtual
async def test_one_slow_board_slows_no_other_by_swd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = Chip(STM32, X, slowest_hz=500_000), Chip(STM32, Y)
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": slow}) as bench:
        job = await bench.station.enqueue(FOR_STM32, slots=["B"], count=2)
        assert (await bench.verdict()).sck_hz == 480_000
        await exchange(bench, fast)
        (_, unit) = await bench.units(await bench.ended(job))
        assert unit.sck_hz == 1_800_000


@virtual
async def test_a_programmer_without_a_light_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_station(monkeypatch, tmp_path, MIXED, {"A": None, "B": None}) as bench:
        with pytest.raises(ProgrammerError) as caught:
            await bench.station.set_slot("B", SlotAction.IDENTIFY)
        assert caught.value.code is ErrorCode.PROGRAMMER_CANNOT
        kinds = [(one.kind, str(one.interface), one.serial) for one in bench.station.programmers()]
        assert kinds[0][:2] == ("usbasp", "isp")
        assert kinds[1][:2] == ("stlink", "swd")


@virtual
async def test_a_disabled_slot_with_the_wrong_programmer_ends_the_jobs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_station(
        monkeypatch, tmp_path, {"A": "stlink", "B": "stlink"}, {"A": Chip(STM32), "B": None}
    ) as bench:
        bench.unplug("B")
        await anyio.sleep(1.0)
        ahead = await bench.station.enqueue(FOR_STM32, slots=["B"], count=5)
        job = await bench.station.enqueue(FOR_STM32, slots=["A", "B"], count=None)
        await bench.station.set_slot("B", SlotAction.DISABLE)
        bench.replace("B", "usbasp")
        job, ahead = await bench.ended(job), await bench.ended(ahead)
        assert (job.state, job.passed, job.seen) == (JobState.DONE, 1, {"B": SPEAKS_ISP})
        assert (ahead.state, ahead.seen) == (JobState.EMPTY, {"B": SPEAKS_ISP})
