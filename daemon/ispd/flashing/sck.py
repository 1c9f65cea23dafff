"""Which SPI clock (SCK) a target can follow: from what its fuses say about its own clock, and by trying. Pure.

A target is met down a *ladder* of clocks (:func:`entry_rungs`), since nothing is known about it yet: first one that a
factory-fresh part follows, then slower and slower ones, for long wires and for slow clocks alike. Once its fuses were read,
:func:`candidates` names faster clocks to prove, fastest first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ispd.catalog.fuses import clock_of
from ispd.model.part import AvrPart, ClockSource, MemoryKind
from ispd.programmers.contract import Capabilities

__all__ = [
    "ClockRange",
    "FoundSck",
    "LookTurns",
    "SckKey",
    "SckStart",
    "can_follow",
    "candidates",
    "clock_range",
    "entry_rungs",
    "fastest_within",
    "follows_hz",
    "found_again",
]

_FACTORY_CLOCK_HZ = 1_000_000
"""Slowest clock a factory-fresh part has: 8 MHz RC divided by 8 (data sheets, "Default Clock Source")."""

_SLOWEST_CLOCK_HZ = 16_000
"""Slowest clock worth a rung: the 128 kHz oscillator divided by 8."""

_FAST_CLOCK_HZ = 12_000_000
_MARGIN = 5
_FAST_MARGIN = 6
_LIMIT = 4
"""SCK high and low must each last more than 2 target clocks below 12 MHz, so SCK must stay below a fourth, and a fifth is
used; 3 clocks from 12 MHz up, which is a sixth (data sheets, "Serial Programming Characteristics")."""

_CANDIDATE_STEP = 0.75
"""Clocks closer together than this are not worth a trial each: USBtinyISP could be set to 250 different ones."""

_TRY_AGAIN_BOARDS = 50
"""After so many boards the faster clocks are tried again: one dirty contact does not slow a slot down for ever."""

# Lowest and highest crystal of each CKSEL pair (data sheet tables "Crystal Oscillator Operating Modes": ATmega32U4 6-3,
# ATmega328 9-5, ATmega8 4; "External RC Oscillator Operating Modes": ATmega8 8)
_CRYSTAL_HZ = {4: (400_000, 900_000), 5: (900_000, 3_000_000), 6: (3_000_000, 8_000_000), 7: (8_000_000, 16_000_000)}
_CLASSIC_CRYSTAL_HZ = {5: (400_000, 900_000), 6: (900_000, 3_000_000), 7: (3_000_000, 8_000_000)}
_CLASSIC_FULL_SWING_HZ = (1_000_000, 16_000_000)
_FULL_SWING_HZ = (400_000, 20_000_000)
_EXTERNAL_HZ = (0, 20_000_000)
_EXTERNAL_RC_HZ = {
    5: (100_000, 900_000),
    6: (900_000, 3_000_000),
    7: (3_000_000, 8_000_000),
    8: (8_000_000, 12_000_000),
}


def follows_hz(clock_hz: int) -> int:
    """Return the fastest SCK that a target running at ``clock_hz`` follows, with some margin."""
    return clock_hz // (_MARGIN if clock_hz < _FAST_CLOCK_HZ else _FAST_MARGIN)


@dataclass(frozen=True, slots=True)
class ClockRange:
    """The system clocks that fuse bytes allow, in Hz; ``least_hz`` 0 where they promise nothing."""

    least_hz: int
    most_hz: int

    @property
    def safe_sck_hz(self) -> int:
        """SCK that every clock of the range follows: the rule changes at 12 MHz, so the slowest is not always the least."""
        if self.least_hz < _FAST_CLOCK_HZ <= self.most_hz:
            return min(follows_hz(self.least_hz), follows_hz(_FAST_CLOCK_HZ))
        return follows_hz(self.least_hz)

    @property
    def best_sck_hz(self) -> int:
        """SCK that the fastest clock of the range follows."""
        return follows_hz(self.most_hz)


def clock_range(part: AvrPart, fuses: Mapping[MemoryKind, int]) -> ClockRange | None:
    """Return the system clocks that complete ``fuses`` allow; None for a reserved setting."""
    clock = clock_of(part, fuses)
    if clock.hz is not None:
        return ClockRange(clock.hz, clock.hz)
    cksel = part.bits["cksel"]
    setting = cksel.of(fuses[cksel.memory])
    ckopt = part.bits.get("ckopt")
    found: tuple[int, int] | None = None
    match clock.source:
        case ClockSource.FULL_SWING_CRYSTAL:
            found = _FULL_SWING_HZ
        case ClockSource.CRYSTAL:
            if ckopt is None:
                found = _CRYSTAL_HZ.get(setting >> 1)
            elif ckopt.is_programmed(fuses[ckopt.memory]):
                found = _CLASSIC_FULL_SWING_HZ
            else:
                found = _CLASSIC_CRYSTAL_HZ.get(setting >> 1)
        case ClockSource.EXTERNAL_RC:
            found = _EXTERNAL_RC_HZ.get(setting)
        case ClockSource.EXTERNAL:
            found = _EXTERNAL_HZ
    return None if found is None else ClockRange(found[0] // clock.divided_by, found[1] // clock.divided_by)


def can_follow(part: AvrPart, fuses: Mapping[MemoryKind, int], slowest_hz: int) -> bool:
    """Tell whether a target with these ``fuses`` can be talked to at ``slowest_hz``, as far as they tell."""
    clocks = clock_range(part, fuses)
    return clocks is None or slowest_hz * _LIMIT < clocks.most_hz


def fastest_within(capabilities: Capabilities, limit_hz: float) -> int:
    """Return the programmer's fastest SCK not above ``limit_hz``, the slowest there is where all are above."""
    return max((hz for hz in capabilities.sck_hz if hz <= limit_hz), default=min(capabilities.sck_hz))


# meeting a target


def entry_rungs(
    capabilities: Capabilities, *, fixed_hz: int | None = None, first_hz: int | None = None
) -> tuple[int | None, ...]:
    """Return the clocks at which to try an unknown target, in order; None is the programmer's own and only one.

    :param fixed_hz: what the recipe fixes: nothing else is tried then.
    :param first_hz: begin at this rung, where the board has answered before.
    """
    if fixed_hz is not None:
        return (fixed_hz,)
    if len(capabilities.sck_hz) < 2:
        return (None,)
    rungs = [fastest_within(capabilities, follows_hz(_FACTORY_CLOCK_HZ))]
    while rungs[-1] > follows_hz(_SLOWEST_CLOCK_HZ) and rungs[-1] > min(capabilities.sck_hz):
        rungs.append(fastest_within(capabilities, rungs[-1] / 2))
    if first_hz is None:
        return tuple(rungs)
    return (first_hz, *(hz for hz in rungs if hz < first_hz))


class LookTurns:
    """Which rungs the next look at one slot tries, so that each look stays quick: the rung where its last board answered
    (at first the ladder's first), and one of the others, taking turns. State of a slot."""

    def __init__(self) -> None:
        self._home_hz: int | None = None
        self._turn = 0

    def take(self, rungs: Sequence[int | None]) -> tuple[int | None, ...]:
        """Return the one or two of ``rungs`` that the next look tries."""
        home, others = self._split(rungs)
        if not others:
            return (home,)
        turn, self._turn = self._turn, self._turn + 1
        return (home, others[turn % len(others)])

    def round_looks(self, rungs: Sequence[int | None]) -> int:
        """Return how many looks it takes until each rung was tried."""
        return max(1, len(self._split(rungs)[1]))

    def settle(self, rungs: Sequence[int | None], sck_hz: int) -> None:
        """Take note that the board on the slot was worked on at ``sck_hz``: it may follow no faster one from now on."""
        home, others = self._split(rungs)
        if home is not None and home > sck_hz:
            self._home_hz = max((hz for hz in others if hz is not None and hz <= sck_hz), default=sck_hz)

    def answered(self, rung_hz: int | None) -> None:
        """Take note of the rung at which a board answered."""
        self._home_hz = rung_hz

    def _split(self, rungs: Sequence[int | None]) -> tuple[int | None, list[int | None]]:
        home = rungs[0]
        # a single rung is the programmer's only one, or fixed by a recipe
        if len(rungs) > 1 and self._home_hz is not None:
            home = self._home_hz
        return home, [hz for hz in rungs if hz != home]


# working on it


@dataclass(frozen=True, slots=True)
class SckKey:
    """What the SCK that was found depends on, besides slot and programmer: the part, and its clock in words."""

    part: str
    clock: str


@dataclass(frozen=True, slots=True)
class FoundSck:
    """The SCK at which boards of one kind work on a slot; ``boards`` passed since it was looked for from the top."""

    key: SckKey
    sck_hz: int
    boards: int = 1

    @property
    def is_stale(self) -> bool:
        """True when the faster clocks should be tried again."""
        return self.boards >= _TRY_AGAIN_BOARDS


def found_again(key: SckKey, found: FoundSck | None, sck_hz: int, *, is_limit: bool) -> FoundSck | None:
    """Return what is to be remembered after a board passed at ``sck_hz``; None where nothing was learned.

    :param found: what was remembered and relied on for this board.
    :param is_limit: False where faster clocks were neither tried nor ruled out by ``found``.
    """
    boards = 1 if found is None else found.boards + 1
    if is_limit:
        return FoundSck(key, sck_hz, boards)
    return None if found is None else FoundSck(key, found.sck_hz, boards)


@dataclass(frozen=True, slots=True, kw_only=True)
class SckStart:
    """What a slot knows about SCK before a unit: the rung where its board answered, and what was found on earlier ones."""

    rung_hz: int | None = None
    found: Mapping[SckKey, FoundSck] = field(default_factory=dict)


def candidates(
    capabilities: Capabilities,
    clocks: ClockRange | None,
    *,
    entry_hz: int,
    is_clock_new: bool,
    is_bold: bool,
    found_hz: int | None,
) -> tuple[int, ...]:
    """Return the clocks to prove on a target, fastest first; the last one is believed to work anyway.

    :param clocks: what the fuses that are in force now allow, None where they tell nothing.
    :param entry_hz: the clock in use, which the target followed until now.
    :param is_clock_new: the target was entered with another system clock: ``entry_hz`` may be too fast now.
    :param is_bold: begin with what the fastest clock allowed would follow, else with what is safe.
    :param found_hz: begin here at most, since faster clocks failed on an earlier board.
    """
    if clocks is None:
        return (entry_hz,)
    safe_hz = clocks.safe_sck_hz
    last_hz = entry_hz
    if is_clock_new and 0 < safe_hz < entry_hz:
        # an oscillator off its nominal frequency may need one step less
        last_hz = fastest_within(capabilities, safe_hz / 2)
    first_hz = max(clocks.best_sck_hz if is_bold else safe_hz, last_hz)
    if found_hz is not None:
        first_hz, last_hz = min(first_hz, found_hz), min(last_hz, found_hz)
    wanted = [hz for hz in sorted(capabilities.sck_hz, reverse=True) if last_hz < hz <= first_hz]
    return (*_thinned(wanted, keep_hz=fastest_within(capabilities, safe_hz)), last_hz)


def _thinned(falling: Sequence[int], *, keep_hz: int) -> list[int]:
    """Return clocks some way apart, ``keep_hz`` among them where it was."""
    kept: list[int] = []
    for hz in falling:
        if not kept or hz <= kept[-1] * _CANDIDATE_STEP or hz == keep_hz:
            kept.append(hz)
    return kept
