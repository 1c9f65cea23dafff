"""Which SPI clock a target can follow, from what its fuses say about its own clock. Pure."""

from collections.abc import Mapping

from ispd.catalog.fuses import Clock, clock_of
from ispd.model.part import ClockSource, MemoryKind, Part
from ispd.programmers.contract import Capabilities

__all__ = ["can_follow", "fastest_sck", "first_scks", "safe_sck_hz"]

_UNKNOWN_CLOCK_HZ = 1_000_000
"""Slowest clock a factory-fresh part has: 8 MHz RC divided by 8 (data sheets, "Default Clock Source")."""

_MARGIN = 6
"""SCK high and low must each last 3 target clocks at 12 MHz and above, 2 below (data sheets, "Serial Programming
Characteristics"); one sixth suits both."""

_LIMIT = 4
"""Nothing answers at or above a fourth of the target's clock."""

# lowest crystal of each CKSEL pair (data sheet tables "Crystal Oscillator Operating Modes": ATmega32U4 6-3, ATmega8 4)
_CRYSTAL_MIN_HZ = {4: 400_000, 5: 900_000, 6: 3_000_000, 7: 8_000_000}
_CLASSIC_CRYSTAL_MIN_HZ = {5: 400_000, 6: 900_000, 7: 3_000_000}
_CLASSIC_FULL_SWING_MIN_HZ = 1_000_000
_FULL_SWING_MIN_HZ = 400_000


def _least_hz(part: Part, clock: Clock, fuses: Mapping[MemoryKind, int]) -> int | None:
    """Return the slowest system clock the fuses allow; None where they do not tell (external clock)."""
    if clock.hz is not None:
        return clock.hz
    if clock.source is ClockSource.FULL_SWING_CRYSTAL:
        return _FULL_SWING_MIN_HZ // clock.divided_by
    if clock.source is not ClockSource.CRYSTAL:
        return None
    cksel = part.bits["cksel"]
    pair = cksel.of(fuses[cksel.memory]) >> 1
    ckopt = part.bits.get("ckopt")
    if ckopt is None:
        least_hz = _CRYSTAL_MIN_HZ.get(pair)
    elif ckopt.is_programmed(fuses[ckopt.memory]):
        least_hz = _CLASSIC_FULL_SWING_MIN_HZ
    else:
        least_hz = _CLASSIC_CRYSTAL_MIN_HZ.get(pair)
    return None if least_hz is None else least_hz // clock.divided_by


def safe_sck_hz(part: Part, fuses: Mapping[MemoryKind, int]) -> int | None:
    """Return the fastest SCK that complete ``fuses`` promise to follow; None where they promise nothing."""
    least_hz = _least_hz(part, clock_of(part, fuses), fuses)
    return None if least_hz is None else least_hz // _MARGIN


def can_follow(part: Part, fuses: Mapping[MemoryKind, int], capabilities: Capabilities) -> bool:
    """Tell whether a target with these ``fuses`` can be talked to at the programmer's slowest SCK, as far as known."""
    hz = clock_of(part, fuses).hz
    return hz is None or min(capabilities.sck_hz) * _LIMIT < hz


def fastest_sck(capabilities: Capabilities, limit_hz: int) -> int | None:
    """Return the fastest SCK not above ``limit_hz``, the slowest there is otherwise; None where SCK is fixed."""
    if len(capabilities.sck_hz) < 2:
        return None
    return max((hz for hz in capabilities.sck_hz if hz <= limit_hz), default=min(capabilities.sck_hz))


def first_scks(capabilities: Capabilities, wanted_hz: int | None) -> tuple[int | None, ...]:
    """Return the clocks to try on an unknown target, in order; None is the programmer's own."""
    if wanted_hz is not None:
        return (wanted_hz,)
    if len(capabilities.sck_hz) < 2:
        return (None,)
    first = fastest_sck(capabilities, _UNKNOWN_CLOCK_HZ // _MARGIN)
    return tuple(dict.fromkeys((first, min(capabilities.sck_hz))))
