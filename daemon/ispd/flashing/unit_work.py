"""What every attempt on a unit has, whatever is spoken to its target: steps with records, warnings, an outcome, a release."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from ispd.errors import IspdError, LinkClosedError
from ispd.flashing.observer import Identified, UnitObserver, UnitOutcome
from ispd.flashing.verdict import failure_of, verdict_after
from ispd.model.job import StepRecord, Verdict
from ispd.transport.clock import Clock

__all__ = ["UnitWork", "conclude"]


class _AnyStep(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def bytes(self) -> int: ...


S = TypeVar("S", bound=_AnyStep)


class UnitWork:
    """State of one attempt. ``outcome`` is completed piece by piece as facts become known."""

    def __init__(self, clock: Clock, observer: UnitObserver) -> None:
        self.clock = clock
        self.observer = observer
        self.outcome = UnitOutcome(verdict=Verdict.FAILED)
        self.warnings: list[str] = []
        self.records: list[StepRecord] = []

    def learn(self, **facts: Any) -> None:
        """Complete the outcome by values of its fields."""
        self.outcome = replace(self.outcome, **facts)

    async def identified(self, found: Identified) -> None:
        """Take note who is on the slot, and tell the observer."""
        self.learn(
            part=found.part.id,
            signature=str(found.signature),
            chip=found.chip,
            unique_id=found.unique_id,
            sck_hz=found.clock_hz,
        )
        await self.observer.identified(found)

    async def carry_out(self, steps: Sequence[S], do: Callable[[S], Awaitable[str]]) -> None:
        """Carry out steps one after the other, each recorded before the next one begins.

        :param do: carries out one step and returns what it found out, for the record.
        """
        for step in steps:
            await self.observer.checkpoint()
            await self.observer.step_started(step.name)
            started, started_s = self.clock.wall(), self.clock.monotonic()
            note = await do(step)
            record = StepRecord(
                name=step.name,
                started=started.isoformat(timespec="milliseconds"),
                seconds=self.clock.monotonic() - started_s,
                bytes=step.bytes,
                note=note,
            )
            self.records.append(record)
            await self.observer.step_finished(record)


async def conclude(
    work: UnitWork,
    carry_out: Callable[[], Awaitable[None]],
    release: Callable[[], Awaitable[IspdError | None]],
    *,
    stuck_words: str,
) -> UnitOutcome:
    """Run an attempt to its end, let the target go whatever happens, and return how it ended.

    Every declared error becomes an outcome; only cancellation and what the observer raises besides ``IspdError`` come out.

    :param release: returns why the target could not be let go, None where it could.
    :param stuck_words: what the target may be then.
    """
    started_s = work.clock.monotonic()
    failed: IspdError | None = None
    try:
        await carry_out()
    except IspdError as error:
        failed = error
    finally:
        stuck = await release()
    if stuck is not None and not isinstance(stuck, LinkClosedError):
        work.warnings.append(f"{stuck_words}: {stuck.message}")
    return replace(
        work.outcome,
        verdict=Verdict.PASSED if failed is None else verdict_after(failed),
        failure=None if failed is None else failure_of(failed),
        warnings=tuple(dict.fromkeys(work.warnings)),
        steps=tuple(work.records),
        seconds=work.clock.monotonic() - started_s,
    )
