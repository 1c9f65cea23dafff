"""SCK as tables: which clocks each programmer tries on an unknown target, and which it proves once fuses are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.flashing.bench_unit import PARTS, factory

from ispd.flashing.sck import (
    ClockRange,
    FoundSck,
    LookTurns,
    SckKey,
    can_follow,
    candidates,
    clock_range,
    entry_rungs,
    follows_hz,
    found_again,
)
from ispd.model.part import MemoryKind
from ispd.programmers.contract import Capabilities

L = MemoryKind.LFUSE


def clocks(*sck_hz: int) -> Capabilities:
    return Capabilities(max_flash_bytes=None, sck_hz=tuple(sorted(sck_hz)), bulk=frozenset())


USBASP = clocks(500, 1000, 2000, 4000, 8000, 16_000, 32_000, 93_750, 187_500, 375_000, 750_000, 1_500_000)
USBTINY = clocks(*(int(1e6 / (n + 1.9)) for n in range(1, 251)))
BUS_PIRATE = clocks(30_000, 125_000, 250_000, 1_000_000, 2_000_000, 2_600_000, 4_000_000, 8_000_000)
ARDUINO = clocks(125_000)
OLD_USBASP = clocks(375_000)
ALL = {"usbasp": USBASP, "usbtiny": USBTINY, "buspirate": BUS_PIRATE, "arduino": ARDUINO, "old-usbasp": OLD_USBASP}


@pytest.mark.parametrize(
    ("programmer", "rungs"),
    [
        ("usbasp", (187_500, 93_750, 32_000, 16_000, 8000, 4000, 2000)),
        ("usbtiny", (169_491, 84_033, 41_841, 20_876, 10_427, 5211, 3969)),
        ("buspirate", (125_000, 30_000)),
        ("arduino", (None,)),
        ("old-usbasp", (None,)),
    ],
)
def test_ladder(programmer: str, rungs: tuple[int | None, ...]) -> None:
    """From what a 1 MHz part follows, by halves, to what one at 16 kHz follows or the slowest there is."""
    capabilities = ALL[programmer]
    assert entry_rungs(capabilities) == rungs
    assert entry_rungs(capabilities, fixed_hz=750_000) == (750_000,)
    if len(rungs) > 1:
        assert entry_rungs(capabilities, first_hz=rungs[1]) == rungs[1:]
        assert entry_rungs(capabilities, first_hz=375_000) == (375_000, *rungs)


@given(
    sck_hz=st.lists(st.integers(100, 8_000_000), min_size=2, max_size=300, unique=True),
    clock_hz=st.sampled_from([16_000, 128_000, 1_000_000, 2_000_000, 8_000_000, 16_000_000]),
    ceiling_hz=st.integers(1000, 10_000_000),
)
def test_ladder_meets_every_target_it_could(sck_hz: list[int], clock_hz: int, ceiling_hz: int) -> None:
    """Whatever clocks a programmer has: a rung suits each part at each length of wire that its slowest clock suits."""
    capabilities = clocks(*sck_hz)
    rungs = [hz for hz in entry_rungs(capabilities) if hz is not None]
    assert rungs == sorted(set(rungs), reverse=True)
    assert set(rungs) <= set(sck_hz)
    limit_hz = min(follows_hz(clock_hz), ceiling_hz)
    if min(sck_hz) <= limit_hz and limit_hz >= follows_hz(16_000):
        assert any(hz <= limit_hz for hz in rungs)


@pytest.mark.parametrize(
    ("name", "fuses", "least_hz", "most_hz", "safe_hz", "best_hz"),
    [
        ("atmega32u4", {"lfuse": 0x52}, 1_000_000, 1_000_000, 200_000, 200_000),
        ("atmega32u4", {"lfuse": 0x5E}, 1_000_000, 2_000_000, 200_000, 400_000),
        ("atmega32u4", {"lfuse": 0xDE}, 8_000_000, 16_000_000, 1_600_000, 2_666_666),
        ("atmega32u4", {"lfuse": 0xD8}, 400_000, 900_000, 80_000, 180_000),
        ("atmega32u4", {"lfuse": 0xC0}, 0, 20_000_000, 0, 3_333_333),
        ("atmega328p", {"lfuse": 0xF7}, 400_000, 20_000_000, 80_000, 3_333_333),
        ("attiny85", {"lfuse": 0xE1}, 16_000_000, 16_000_000, 2_666_666, 2_666_666),
        ("attiny85", {"lfuse": 0xE4}, 128_000, 128_000, 25_600, 25_600),
        ("attiny85", {"lfuse": 0x64}, 16_000, 16_000, 3200, 3200),
        ("attiny85", {"lfuse": 0xE6}, 32_768, 32_768, 6553, 6553),
        ("atmega32a", {}, 1_000_000, 1_000_000, 200_000, 200_000),
        ("atmega32a", {"lfuse": 0xFF}, 3_000_000, 8_000_000, 600_000, 1_600_000),
        ("atmega32a", {"lfuse": 0xFF, "hfuse": 0x89}, 1_000_000, 16_000_000, 200_000, 2_666_666),
        ("atmega32a", {"lfuse": 0xE6}, 900_000, 3_000_000, 180_000, 600_000),
    ],
)
def test_what_fuses_allow(
    name: str, fuses: dict[str, int], least_hz: int, most_hz: int, safe_hz: int, best_hz: int
) -> None:
    """Crystal ranges by CKSEL (and CKOPT), divided by CKDIV8; a fifth below 12 MHz, a sixth from there on."""
    part = PARTS.avr(name)
    found = clock_range(part, factory(part, **fuses))
    assert found == ClockRange(least_hz, most_hz)
    assert (found.safe_sck_hz, found.best_sck_hz) == (safe_hz, best_hz)


def test_reserved_clock_tells_nothing() -> None:
    """No promise, no guess; it counts as reachable, since refusing is the fuse guard's business."""
    part = PARTS.avr("atmega32u4")
    fuses = factory(part, lfuse=0xD1)
    assert clock_range(part, fuses) is None
    assert can_follow(part, fuses, 125_000)
    assert candidates(USBASP, None, entry_hz=93_750, is_clock_new=True, is_bold=True, found_hz=None) == (93_750,)


@pytest.mark.parametrize(
    ("fuses", "slowest_hz", "follows"),
    [(0xE4, 125_000, False), (0xE4, 30_000, True), (0xE4, 32_000, False), (0x64, 3969, True), (0x64, 30_000, False)],
)
def test_reach(fuses: int, slowest_hz: int, follows: bool) -> None:
    """A fourth of the target's clock is the end, strictly."""
    part = PARTS.avr("attiny85")
    assert can_follow(part, factory(part, lfuse=fuses), slowest_hz) is follows


CRYSTAL = ClockRange(8_000_000, 16_000_000)
DIVIDED = ClockRange(1_000_000, 2_000_000)
RC = ClockRange(8_000_000, 8_000_000)
FACTORY = ClockRange(1_000_000, 1_000_000)
SLOW = ClockRange(128_000, 128_000)
OUTSIDE = ClockRange(0, 20_000_000)


@pytest.mark.parametrize(
    ("programmer", "allowed", "entry_hz", "expected"),
    [
        ("usbasp", CRYSTAL, 187_500, (1_500_000, 750_000, 375_000, 187_500)),
        ("usbasp", DIVIDED, 187_500, (375_000, 187_500)),
        ("usbasp", FACTORY, 187_500, (187_500,)),
        ("usbasp", FACTORY, 32_000, (187_500, 93_750, 32_000)),
        ("usbtiny", CRYSTAL, 169_491, (344_827, 256_410, 169_491)),
        ("usbtiny", DIVIDED, 169_491, (344_827, 256_410, 169_491)),
        ("buspirate", CRYSTAL, 125_000, (2_600_000, 1_000_000, 250_000, 125_000)),
        ("buspirate", RC, 125_000, (1_000_000, 250_000, 125_000)),
        ("buspirate", OUTSIDE, 30_000, (2_600_000, 1_000_000, 250_000, 125_000, 30_000)),
    ],
)
def test_candidates(programmer: str, allowed: ClockRange, entry_hz: int, expected: tuple[int, ...]) -> None:
    """Fastest first, then what is safe, at last what is known to work; neighbours are not worth a trial each."""
    found = candidates(ALL[programmer], allowed, entry_hz=entry_hz, is_clock_new=False, is_bold=True, found_hz=None)
    assert found == expected


def test_candidates_of_a_slower_clock() -> None:
    """After fuses that slow the part down the clock in use is no way back: one step below what is safe is."""
    options = {"entry_hz": 187_500, "is_clock_new": True, "is_bold": True, "found_hz": None}
    assert candidates(USBASP, SLOW, **options) == (16_000, 8000)  # type: ignore[arg-type]  # keywords of candidates
    assert candidates(BUS_PIRATE, SLOW, **options) == (30_000,)  # type: ignore[arg-type]  # as above


def test_cautious_candidates_keep_to_the_promise() -> None:
    """Not bold: what the slowest crystal allowed follows, and nothing above."""
    cautious = {"entry_hz": 93_750, "is_clock_new": False, "is_bold": False, "found_hz": None}
    assert candidates(USBASP, DIVIDED, **cautious) == (187_500, 93_750)  # type: ignore[arg-type]  # as above
    assert candidates(USBASP, OUTSIDE, **cautious) == (93_750,)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("found_hz", "expected"),
    [
        (375_000, (375_000, 187_500)),
        (187_500, (187_500,)),
        (93_750, (93_750,)),
        (3_000_000, (1_500_000, 750_000, 375_000, 187_500)),
    ],
)
def test_candidates_begin_at_what_was_found(found_hz: int, expected: tuple[int, ...]) -> None:
    """What failed on an earlier board is not tried again; going further down stays possible."""
    assert candidates(USBASP, CRYSTAL, entry_hz=187_500, is_clock_new=True, is_bold=True, found_hz=found_hz) == expected


@given(
    programmer=st.sampled_from(["usbasp", "usbtiny", "buspirate"]),
    allowed=st.sampled_from([CRYSTAL, DIVIDED, RC, FACTORY, SLOW, OUTSIDE, ClockRange(400_000, 900_000)]),
    entry=st.integers(0, 6),
    is_clock_new=st.booleans(),
    is_bold=st.booleans(),
    found_hz=st.none() | st.integers(2000, 3_000_000),
)
def test_candidates_are_few_and_fall(
    programmer: str, allowed: ClockRange, entry: int, is_clock_new: bool, is_bold: bool, found_hz: int | None
) -> None:
    """Never above what the fuses can mean, never more than a score of trials, the way back always at the end."""
    capabilities = ALL[programmer]
    rungs = entry_rungs(capabilities)
    entry_hz = rungs[entry % len(rungs)]
    assert entry_hz is not None
    found = candidates(
        capabilities, allowed, entry_hz=entry_hz, is_clock_new=is_clock_new, is_bold=is_bold, found_hz=found_hz
    )
    assert list(found) == sorted(set(found), reverse=True)
    assert len(found) <= 18
    limit_hz = allowed.best_sck_hz if is_bold else allowed.safe_sck_hz
    assert all(hz <= limit_hz for hz in found[:-1])
    if not is_clock_new and found_hz is None:
        assert found[-1] == entry_hz


# looks


def test_looks_take_turns_and_come_home() -> None:
    """Each look tries at most two rungs; after a round each was tried; a board's rung is tried first from then on."""
    turns = LookTurns()
    rungs = entry_rungs(USBASP)
    seen = [turns.take(rungs) for _ in range(turns.round_looks(rungs))]
    assert {look[0] for look in seen} == {187_500}
    assert [look[1] for look in seen] == list(rungs[1:])
    turns.answered(8000)
    again = [turns.take(rungs) for _ in range(turns.round_looks(rungs))]
    assert {look[0] for look in again} == {8000}
    assert {look[1] for look in again} == set(rungs) - {8000}
    assert turns.take(entry_rungs(USBASP, fixed_hz=93_750)) == (93_750,)
    assert turns.take(entry_rungs(ARDUINO)) == (None,)
    assert [turns.round_looks(entry_rungs(one)) for one in (ARDUINO, BUS_PIRATE)] == [1, 2]
    assert LookTurns().take(entry_rungs(BUS_PIRATE)) == (125_000, 30_000)


def test_looks_follow_a_board_that_was_slowed_down() -> None:
    """A board whose new fuses slow it down must not count as taken out: it is looked for where it answers now."""
    turns, rungs = LookTurns(), entry_rungs(USBASP)
    turns.settle(rungs, 1_500_000)
    assert turns.take(rungs)[0] == 187_500
    turns.settle(rungs, 16_000)
    assert turns.take(rungs)[0] == 16_000
    turns.settle(rungs, 187_500)
    assert turns.take(rungs)[0] == 16_000  # slower than needed is no harm
    turns = LookTurns()
    turns.settle(entry_rungs(ARDUINO), 62_500)
    assert turns.take(entry_rungs(ARDUINO)) == (None,)


# remembering


def test_what_is_remembered() -> None:
    """A limit that was found counts its boards and is looked for again some time; a cautious board teaches nothing."""
    key = SckKey("atmega32u4", "crystal")
    found = found_again(key, None, 187_500, is_limit=True)
    assert found == FoundSck(key, 187_500, 1)
    assert found_again(key, None, 187_500, is_limit=False) is None
    assert found_again(key, FoundSck(key, 375_000, 4), 187_500, is_limit=False) == FoundSck(key, 375_000, 5)
    boards = 1
    while not found.is_stale:
        found = found_again(key, found, 187_500, is_limit=True)
        assert found is not None
        boards += 1
    assert boards == 50
