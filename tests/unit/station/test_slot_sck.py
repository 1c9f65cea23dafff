"""SCK on a whole station: each programmer meets slow parts and bad wires, and a slot remembers what it found."""

from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest
from tests.unit.station.workbench import PARTS, workbench

from ispd.flashing.sck import FoundSck, SckKey
from ispd.model.image import Image, Segment
from ispd.model.job import JobState, Unit, Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe
from ispd.model.station import SlotState
from vbench.faults import Fault, SckCeiling
from vbench.target import AvrTarget, Circuit
from vbench.violation import ViolationKind
from vbench.virtual_time import virtual

L = MemoryKind.LFUSE
CONTENT = bytes(range(1, 201))
RECIPE = Recipe(flash=Image.of([Segment(0, CONTENT)]), accept_fuses=True)
UNDIVIDED = Recipe(flash=RECIPE.flash, fuses={L: 0xDE}, accept_fuses=True)
SLOWED = Recipe(flash=RECIPE.flash, fuses={L: 0xE4}, accept_fuses=True)
"""ATtiny85: from now on the 128 kHz oscillator."""


def board(*faults: Fault, name: str = "atmega32u4", lfuse: int | None = None, crystal_hz: float = 16e6) -> AvrTarget:
    fuses = {} if lfuse is None else {L: lfuse}
    return AvrTarget(PARTS.avr(name), faults=faults, fuses=fuses, circuit=Circuit(crystal_hz=crystal_hz))


def notes(unit: Unit) -> str:
    return "; ".join(step.note for step in unit.attempts[-1].steps if step.note)


def check_passed(unit: Unit, target: AvrTarget) -> None:
    assert (unit.verdict, unit.failure) == (Verdict.PASSED, None)
    assert bytes(target.flash[: len(CONTENT)]) == CONTENT
    assert not target.in_reset
    # a USBasp whose target stays silent tries again by itself 19.8 ms after its reset pulse, 0.2 ms before the data sheet
    broken = [str(one) for one in target.violations if one.kind is not ViolationKind.ENTRY_TOO_EARLY]
    assert not broken, broken


FACTORY = {"usbasp": 375_000, "usbtiny": 344_827, "buspirate": 250_000}
FACTORY_8_MHZ = {"usbasp": 187_500, "usbtiny": 169_491, "buspirate": 125_000}
FAST = {"usbasp": 1_500_000, "usbtiny": 344_827, "buspirate": 2_000_000}
CEILING_100_KHZ = {"usbasp": 93_750, "usbtiny": 91_743, "buspirate": 31_250}
CEILING_260_KHZ = {"usbasp": 187_500, "usbtiny": 256_410, "buspirate": 250_000}
SLOW_128_KHZ = {"usbasp": 16_000, "usbtiny": 25_062, "buspirate": 31_250}


@pytest.mark.parametrize("kind", ["usbasp", "usbtiny", "buspirate"])
@pytest.mark.parametrize(
    ("make", "recipe", "expected"),
    [
        pytest.param({}, RECIPE, FACTORY, id="factory-crystal-divided"),
        pytest.param({"crystal_hz": 8e6}, RECIPE, FACTORY_8_MHZ, id="factory-crystal-8-MHz-divided"),
        pytest.param({"lfuse": 0x52}, RECIPE, FACTORY_8_MHZ, id="factory-rc-1-MHz"),
        pytest.param({}, UNDIVIDED, FAST, id="no-longer-divided"),
        pytest.param({"ceiling": 100_000}, UNDIVIDED, CEILING_100_KHZ, id="wires-to-100-kHz"),
        pytest.param({"ceiling": 260_000}, RECIPE, CEILING_260_KHZ, id="ceiling-between-safe-and-best"),
        pytest.param({"name": "attiny85", "lfuse": 0xE4}, RECIPE, SLOW_128_KHZ, id="128-kHz"),
        pytest.param({"name": "attiny85"}, SLOWED, SLOW_128_KHZ, id="slowed-to-128-kHz"),
    ],
)
@virtual
async def test_every_programmer_finds_the_clock_of_its_board(
    kind: str, make: dict[str, object], recipe: Recipe, expected: Mapping[str, int], tmp_path: Path
) -> None:
    """Met, raised as far as target and wires go, verified; the record holds the clock that was worked with."""
    options = dict(make)
    ceiling = options.pop("ceiling", None)
    faults = [SckCeiling(hz=float(str(ceiling)))] if ceiling is not None else []
    target = board(*faults, **options)  # type: ignore[arg-type]  # options of board
    async with workbench(tmp_path, kind) as bench:
        unit = await bench.once(target, recipe)
    check_passed(unit, target)
    assert unit.sck_hz == expected[kind]


@virtual
async def test_remembered_across_a_restart(tmp_path: Path) -> None:
    """What stepped back once does not step back again on the next board, nor in the daemon's next life."""
    wires = SckCeiling(hz=300_000)
    key = SckKey("atmega32u4", "crystal or resonator, divided by 8")
    async with workbench(tmp_path, "usbasp") as bench:
        first = await bench.once(board(wires), RECIPE)
        second = await bench.once(board(wires), RECIPE)
        assert await bench.journal.found_sck("A1", "usbasp") == {key: FoundSck(key, 187_500, 2)}
        assert await bench.journal.found_sck("A1", "usbtiny") == {}
    assert (first.sck_hz, second.sck_hz) == (187_500, 187_500)
    assert "375000 Hz did not hold" in notes(first)
    assert notes(second) == ""
    async with workbench(tmp_path, "usbasp") as bench:
        third = await bench.once(board(wires), RECIPE)
        assert (third.sck_hz, notes(third)) == (187_500, "")
        other = await bench.once(board(wires), UNDIVIDED)  # another clock, looked for from its own top
        assert "1500000" in notes(other)
        fixed = await bench.once(board(wires), Recipe(flash=RECIPE.flash, sck_hz=93_750))
        assert (fixed.sck_hz, notes(fixed)) == (93_750, "")
        assert await bench.journal.found_sck("A1", "usbasp") == {}
        anew = await bench.once(board(), RECIPE)
        assert (anew.sck_hz, notes(anew)) == (375_000, "SCK 187500 Hz, then 375000 Hz")


@virtual
async def test_board_that_slows_down_is_flashed_once(tmp_path: Path) -> None:
    """After its fuses made it slow a board answers further down only: it was not taken out, so it is left alone."""
    slowest = Recipe(flash=Image.of([Segment(0, CONTENT[:20])]), fuses={L: 0x64}, accept_fuses=True)
    async with workbench(tmp_path, "usbasp") as bench:
        target = bench.insert(board(name="attiny85"))
        job = await bench.enqueue(slowest, count=2)
        first = await bench.next_unit()
        assert (first.verdict, first.sck_hz) == (Verdict.PASSED, 2000)
        await anyio.sleep(20.0)
        assert bench.station.slot("A1").state is SlotState.PASSED
        assert target.erase_count == 1
    target = board(name="attiny85", lfuse=0x64)  # the same board, on a bench whose time begins anew
    async with workbench(tmp_path, "usbasp", target=target) as bench:
        await anyio.sleep(20.0)
        assert target.erase_count == 0, "held across a restart, too"
        bench.remove()
        await anyio.sleep(3.0)
        bench.insert(board(name="attiny85"))
        assert (await bench.next_unit()).verdict is Verdict.PASSED
        assert (await bench.ended(job)).state is JobState.DONE


@pytest.mark.parametrize(
    ("kind", "longest_s"), [("usbasp", 3.0), ("usbtiny", 2.0), ("buspirate", 2.0), ("stk500v1", 1.0)]
)
@virtual
async def test_empty_slot_is_looked_at_quickly(kind: str, longest_s: float, tmp_path: Path) -> None:
    """However long the ladder, a fresh board is seen almost at once on a slot that was empty for a long time."""
    async with workbench(tmp_path, kind) as bench:
        await bench.enqueue(RECIPE, count=2)
        for wait_s in (5.0, 7.77):
            await anyio.sleep(wait_s)
            bench.insert(board())
            put_at = anyio.current_time()
            while bench.station.slot("A1").state is not SlotState.BUSY:
                await anext(bench.events)
            assert anyio.current_time() - put_at < longest_s
            await bench.next_unit()
            bench.remove()


@virtual
async def test_job_without_count_looks_down_the_whole_ladder(tmp_path: Path) -> None:
    """A 16 kHz part is found by a job that flashes what is there; an empty slot is told in words, and soon."""
    async with workbench(tmp_path, "usbasp") as bench:
        target = board(name="attiny85", lfuse=0x64)
        unit = await bench.once(target, Recipe(flash=Image.of([Segment(0, b"slow")])))
        assert (unit.verdict, unit.sck_hz) == (Verdict.PASSED, 2000)
        began = anyio.current_time()
        job = await bench.ended(await bench.enqueue(RECIPE))
        assert job.state is JobState.EMPTY
        assert "no target answers" in job.seen["A1"]
        assert anyio.current_time() - began < 20.0


@virtual
async def test_fixed_clock_is_the_only_one_looked_with(tmp_path: Path) -> None:
    """A job that fixes SCK sees no board that needs another, and says so."""
    async with workbench(tmp_path, "usbasp") as bench:
        bench.insert(board())
        job = await bench.ended(await bench.enqueue(Recipe(flash=RECIPE.flash, sck_hz=1_500_000)))
        assert job.state is JobState.EMPTY
        assert "fixes SCK at 1500000 Hz" in job.seen["A1"]
