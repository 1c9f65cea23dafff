"""What an error means for a unit, whatever is spoken to it."""

from ispd.errors import ErrorCode, Facts, IspdError, JobError, LinkClosedError, ProgrammerError, TargetError
from ispd.model.job import Failure, Verdict
from ispd.model.part import Interface, MemoryKind, Part, Signature

__all__ = ["check_spoken", "failure_of", "unknown_part", "verdict_after", "wrong_part"]


def verdict_after(error: IspdError) -> Verdict:
    """Return the verdict of an attempt that an error ended; a programmer that was pulled out interrupted it."""
    match error:
        case LinkClosedError() | JobError(code=ErrorCode.INTERRUPTED):
            return Verdict.INTERRUPTED
        case JobError(code=ErrorCode.CANCELLED):
            return Verdict.CANCELLED
        case _:
            return Verdict.FAILED


def failure_of(error: IspdError) -> Failure:
    """Return an error as part of a record."""
    return Failure(
        code=error.code.value,
        message=error.message,
        hint=error.hint,
        memory=error.facts.memory,
        address=error.facts.address,
        expected=error.facts.expected,
        actual=error.facts.actual,
    )


def unknown_part(signature: Signature) -> TargetError:
    """Return the error for a sound signature that no part of the catalog has."""
    return TargetError(
        ErrorCode.SIGNATURE_UNKNOWN,
        f"no part in the catalog has signature {signature}",
        hint="`ispctl parts` lists the known ones; a data file adds a part",
    )


def wrong_part(wanted: Part, found: tuple[Part, ...], signature: Signature) -> TargetError:
    """Return the error for a board with another part than the recipe names."""
    names = " or ".join(part.name for part in found)
    return TargetError(
        ErrorCode.SIGNATURE_MISMATCH,
        f"the board has {names} (signature {signature}), not {wanted.name}",
        hint=f"take this board out, or enqueue for {found[0].id}",
        facts=Facts(part=found[0].id, memory=MemoryKind.SIGNATURE.value),
    )


def check_spoken(part: Part, interface: Interface) -> None:
    """Raise ``ProgrammerError`` (programmer-cannot) for a part that is not programmed by what the programmer speaks."""
    if part.interface is not interface:
        raise ProgrammerError(
            ErrorCode.PROGRAMMER_CANNOT,
            f"this programmer speaks {interface.upper()}; {part.name} is programmed by {part.interface.upper()}",
            hint=f"use a slot whose programmer speaks {part.interface.upper()}",
            facts=Facts(part=part.id),
        )
