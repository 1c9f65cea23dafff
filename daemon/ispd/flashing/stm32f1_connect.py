"""Taking hold of an STM32F1 that may be slow, asleep, or running firmware that turned its debug pins off."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from ispd.errors import ErrorCode, IspdError, TargetError
from ispd.flashing.stm32f1_identify import ChipId, read_id
from ispd.programmers.swd_contract import SwdCapabilities, SwdConnection, SwdProgrammer, SwdSettings

__all__ = ["Hold", "Visit", "swd_rungs", "take_hold", "visit"]

_SLOWER_HZ: Final = (480_000, 125_000, 25_000)
"""For longer and longer wires; 25 kHz is the slowest that does not take minutes for a chip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A connected chip. ``rung_hz`` is the clock that was asked for; ``was_reset``: it answered only under reset."""

    connection: SwdConnection
    id: ChipId
    rung_hz: int | None
    was_reset: bool


def swd_rungs(capabilities: SwdCapabilities, *, fixed_hz: int | None = None) -> tuple[int | None, ...]:
    """Return the clocks at which to try a target, in order: the programmer's default, then slower ones for long wires.

    :param fixed_hz: what the recipe fixes: nothing else is tried then.
    """
    if fixed_hz is not None:
        return (fixed_hz,)
    if len(capabilities.clock_hz) < 2:
        return (None,)
    slower = [max((hz for hz in capabilities.clock_hz if hz <= limit), default=None) for limit in _SLOWER_HZ]
    rungs = dict.fromkeys(
        (capabilities.default_hz, *(hz for hz in slower if hz is not None and hz < capabilities.default_hz))
    )
    return tuple(rungs)


async def take_hold(programmer: SwdProgrammer, rungs: Sequence[int | None], *, may_reset: bool = True) -> Hold:
    """Connect and read the id at the first clock that works: without disturbing the board, and under reset only where that fails.

    :param may_reset: False to leave out the latter, but for a board that hears and only asks to wait.

    What was connected is let go of by the caller, whatever comes out. Raises ``TargetError``: what was wrong at the first clock.
    """
    wrong: TargetError | None = None
    is_asleep = False
    for under_reset in (False, True):
        if under_reset and not (may_reset or is_asleep):
            break
        for rung_hz in rungs:
            settings = SwdSettings(clock_hz=rung_hz, under_reset=under_reset)
            try:
                connection = await programmer.connect(settings)
                found_id = await read_id(programmer)
            except TargetError as error:
                wrong = wrong or error
                if error.code == ErrorCode.TARGET_BUSY:
                    # it hears, and asks to wait, as long as its program sleeps: a reset helps, a slower clock does not
                    is_asleep = True
                    break
            else:
                return Hold(connection=connection, id=found_id, rung_hz=rung_hz, was_reset=under_reset)
    raise wrong or TargetError(ErrorCode.TARGET_NOT_RESPONDING, "the programmer has no SWD clock to try")


@dataclass(slots=True)
class Visit:
    """A visit to a target. ``is_silent``: it was reset and runs, and answers no more: only the programmer's side is left to end."""

    is_silent: bool = False


@asynccontextmanager
async def visit(programmer: SwdProgrammer) -> AsyncIterator[Visit]:
    """Let go of the target in the end, whatever happens; it runs then. A release that fails is an error of the visit."""
    stuck: IspdError | None = None
    here = Visit()
    try:
        yield here
    finally:
        with anyio.CancelScope(shield=True):
            try:
                await programmer.disconnect()
            except IspdError as error:
                stuck = error
    if stuck is not None and not (here.is_silent and isinstance(stuck, TargetError)):
        raise stuck
