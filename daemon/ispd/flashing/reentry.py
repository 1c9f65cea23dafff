"""Entering programming mode again at a faster SCK, or with a new clock, and proving that the target follows."""

from dataclasses import dataclass

from ispd.errors import ErrorCode, Facts, TargetError
from ispd.flashing.readback import Readback
from ispd.flashing.session import TargetSession
from ispd.flashing.signature import blame_fixed_sck
from ispd.flashing.steps import Reenter
from ispd.flashing.verify import compare_bits
from ispd.model.part import AvrPart, Signature

__all__ = ["Entered", "reenter"]

_ENTRY_TRIES = 2
"""A crystal that starts slowly misses the first entry after its fuse was written."""

_PROOFS = 3
"""So many times signature, fuses and lock bits must read right before a clock is trusted."""


@dataclass(frozen=True, slots=True)
class Entered:
    """The SCK in use, and those that did not hold."""

    sck_hz: int
    refused_hz: tuple[int, ...]


async def reenter(
    session: TargetSession, part: AvrPart, step: Reenter, *, signature: Signature, readback: Readback
) -> Entered:
    """Enter at the first candidate that holds; the target is in programming mode then.

    The last candidate is no trial but the way back, so differences there are findings about the board. Raises
    ``TargetError``: target-lost where no candidate gets an answer, fuse-mismatch and lock-mismatch where the target answers
    and does not hold what was written.
    """
    refused: list[int] = []
    *faster, last = step.candidates
    for number, wanted_hz in enumerate(faster):
        tries = _ENTRY_TRIES if number == 0 and step.new_clock is not None else 1
        for _ in range(tries):
            await session.leave()
            sck_hz = await session.enter(part, wanted_hz)
            if await _holds(session, part, step, signature):
                return Entered(sck_hz, tuple(refused))
        refused.append(sck_hz)
    for _ in range(_ENTRY_TRIES):
        await session.leave()
        sck_hz = await session.enter(part, last)
        if await _answers(session, signature):
            await readback.verify_bits(step.known)
            return Entered(sck_hz, tuple(refused))
    raise _lost(step, part)


async def _holds(session: TargetSession, part: AvrPart, step: Reenter, signature: Signature) -> bool:
    """Tell whether everything that is known about the target reads right, again and again."""
    for _ in range(_PROOFS):
        if await session.read_signature() != signature.value:
            return False
        if compare_bits(part, step.known, (await session.read_state(part)).bits):
            return False
    return True


async def _answers(session: TargetSession, signature: Signature) -> bool:
    return all([await session.read_signature() == signature.value for _ in range(2)])


def _lost(step: Reenter, part: AvrPart) -> TargetError:
    if step.new_clock is None:
        hint = "check the contacts and the supply, then flash again"
        return TargetError(ErrorCode.TARGET_LOST, "the target does not answer after a reset", hint=hint)
    hint = (
        f"the board must supply this clock ({step.new_clock}): check the crystal and its solder joints; "
        "a clock fed into XTAL1 makes the part answer again"
    )
    error = TargetError(
        ErrorCode.TARGET_LOST,
        f"the target does not answer since its clock fuses were written (now: {step.new_clock})",
        hint=hint,
        facts=Facts(part=part.id),
    )
    return error if step.fixed_hz is None else blame_fixed_sck(error, step.fixed_hz)
