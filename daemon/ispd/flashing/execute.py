"""Runs the recipe on one unit: identify, plan, carry out step by step, verify, release the target, say how it ended.

What is retried and what is not: a read that differs is repeated twice, and counts as a read error (a warning) only
when both repetitions are right; nothing that was *written* is ever written again within an attempt, since a cell that
needs two writes is damaged and would be hidden by them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.catalog.recipe import admit
from ispd.errors import ErrorCode, Facts, IspdError, JobError, LinkClosedError, LocalProtocolError, TargetError
from ispd.flashing.plan import (
    CheckWritable,
    EraseChip,
    Leave,
    Plan,
    Reenter,
    Step,
    VerifyBits,
    VerifyCells,
    WriteCells,
    WriteFuse,
    WriteLock,
    plan_unit,
)
from ispd.flashing.readback import Readback, Tally
from ispd.flashing.sck import first_scks
from ispd.flashing.session import TargetSession, TargetState, failure_of, unknown_part
from ispd.flashing.verify import compare, not_blank_error
from ispd.model.image import Segment
from ispd.model.job import Failure, StepRecord, Verdict
from ispd.model.part import MemoryKind, Part, Signature
from ispd.model.recipe import Recipe
from ispd.programmers.contract import IspProgrammer
from ispd.transport.clock import Clock

__all__ = ["UnitObserver", "UnitOutcome", "flash_unit"]

_ENTRY_TRIES = 2
"""A crystal that starts slowly misses the first entry after its fuse was written."""

_IDLE_ROUNDS = 100
"""So many stopped writes in a row without a page finished are no pause but a driver that does nothing."""


class UnitObserver(Protocol):
    """Told what happens to the unit. What a coroutine raises ends the attempt, with the target released."""

    async def identified(self, signature: Signature, part: Part, sck_hz: int) -> None:
        """Two equal signatures of a known part were read."""

    async def about_to_write(self, before: TargetState, plan: Plan, warnings: tuple[str, ...]) -> None:
        """Everything was checked and nothing was changed yet: commit the intent now."""

    async def step_started(self, step: Step) -> None:
        """A step begins."""

    async def step_finished(self, record: StepRecord) -> None:
        """A step succeeded; the next one begins when this returns."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Bytes written and read back so far."""

    async def checkpoint(self) -> None:
        """Between steps and between pages: wait while paused; raise ``JobError`` (cancelled, interrupted) to stop."""

    @property
    def stop_requested(self) -> bool:
        """True when :meth:`checkpoint` should be called before the next page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitOutcome:
    """How the attempt ended. ``fuses_after`` and ``lock_after`` are what was read back after the last write."""

    verdict: Verdict
    failure: Failure | None = None
    part: str | None = None
    signature: str | None = None
    sck_hz: int | None = None
    fuses_before: Mapping[MemoryKind, int] = field(default_factory=dict)
    fuses_after: Mapping[MemoryKind, int] = field(default_factory=dict)
    lock_before: int | None = None
    lock_after: int | None = None
    warnings: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    seconds: float = 0.0


async def flash_unit(
    programmer: IspProgrammer,
    recipe: Recipe,
    *,
    parts: Parts,
    bootloaders: Bootloaders,
    clock: Clock,
    observer: UnitObserver,
) -> UnitOutcome:
    """Carry out ``recipe`` on the target behind ``programmer`` and return how it ended.

    Passed means: everything the recipe names, and every fuse byte, was read back after its last write and compared
    under its mask, and the target was released. Every declared error becomes an outcome; only cancellation and what
    the observer raises besides ``IspdError`` come out. Whatever happens the target is released from reset.
    """
    started_s = clock.monotonic()
    run = _UnitRun(TargetSession(programmer, clock), programmer, recipe, clock, observer)
    failed: IspdError | None = None
    try:
        await run.carry_out(parts, bootloaders)
    except IspdError as error:
        failed = error
    finally:
        stuck = await run.session.release()
    if stuck is not None and not isinstance(stuck, LinkClosedError):
        run.warnings.append(f"the target may still be held in reset: {stuck.message}")
    return replace(
        run.outcome,
        verdict=Verdict.PASSED if failed is None else _verdict(failed),
        failure=None if failed is None else failure_of(failed),
        warnings=tuple(dict.fromkeys(run.warnings)),
        steps=tuple(run.records),
        seconds=clock.monotonic() - started_s,
    )


def _verdict(error: IspdError) -> Verdict:
    match error:
        case LinkClosedError() | JobError(code=ErrorCode.INTERRUPTED):
            return Verdict.INTERRUPTED
        case JobError(code=ErrorCode.CANCELLED):
            return Verdict.CANCELLED
        case _:
            return Verdict.FAILED


class _UnitRun:
    """State of one attempt. ``outcome`` is completed piece by piece as facts become known."""

    def __init__(
        self, session: TargetSession, programmer: IspProgrammer, recipe: Recipe, clock: Clock, observer: UnitObserver
    ) -> None:
        self.session = session
        self.outcome = UnitOutcome(verdict=Verdict.FAILED)
        self.warnings: list[str] = []
        self.records: list[StepRecord] = []
        self._programmer = programmer
        self._recipe = recipe
        self._clock = clock
        self._observer = observer
        self._signature = Signature(bytes(3))

    async def carry_out(self, parts: Parts, bootloaders: Bootloaders) -> None:
        part = await self._identify(parts)
        before = await self.session.read_state(part)
        self.outcome = replace(self.outcome, fuses_before=before.fuses, lock_before=before.lock)
        self.warnings += admit(self._recipe, part, bootloaders, before.fuses)
        plan = plan_unit(self._recipe, part, self._programmer.capabilities, before)
        await self._observer.checkpoint()
        await self._observer.about_to_write(before, plan, tuple(self.warnings))
        tally = Tally(self._observer, plan.total_bytes)
        readback = Readback(self.session, part, self._observer.checkpoint, tally, self.warnings)
        for step in plan.steps:
            await self._observer.checkpoint()
            await self._observer.step_started(step)
            started, started_s = self._clock.wall(), self._clock.monotonic()
            await self._do(step, part, readback, tally)
            record = StepRecord(
                name=step.name,
                started=started.isoformat(timespec="milliseconds"),
                seconds=self._clock.monotonic() - started_s,
                bytes=step.bytes,
            )
            self.records.append(record)
            await self._observer.step_finished(record)

    async def _identify(self, parts: Parts) -> Part:
        """Enter, read the signature twice, find the part, and have the driver know it."""
        wanted = None if self._recipe.part is None else parts.get(self._recipe.part)
        sck_hz = await self._enter_first(wanted)
        found = parts.by_signature(self._signature)
        self.outcome = replace(self.outcome, signature=str(self._signature), sck_hz=sck_hz)
        if not found:
            raise unknown_part(self._signature)
        if wanted is not None and wanted.signature != self._signature:
            raise _wrong_part(wanted, found, self._signature)
        part = wanted or found[0]
        if wanted is None:
            sck_hz = await self.session.enter(part, sck_hz)
            self._expect_signature(await self.session.confirm_signature())
        self.outcome = replace(self.outcome, part=part.id, sck_hz=sck_hz)
        await self._observer.identified(self._signature, part, sck_hz)
        return part

    async def _enter_first(self, part: Part | None) -> int:
        wrong: TargetError | None = None
        for wanted_hz in first_scks(self._programmer.capabilities, self._recipe.sck_hz):
            try:
                sck_hz = await self.session.enter(part, wanted_hz)
                self._signature = await self.session.confirm_signature()
            except TargetError as error:
                wrong = wrong or error
            else:
                return sck_hz
        raise wrong or LocalProtocolError("the programmer names no SCK")

    def _expect_signature(self, signature: Signature) -> None:
        if signature != self._signature:
            raise TargetError(
                ErrorCode.SIGNATURE_UNSTABLE,
                f"the signature read {self._signature}, then {signature}",
                hint="was the board exchanged? keep it in place until the verdict",
            )

    async def _do(self, step: Step, part: Part, readback: Readback, tally: Tally) -> None:
        match step:
            case CheckWritable():
                await self._check_writable(step, part, readback)
            case EraseChip():
                await self.session.erase_chip(part)
                await readback.check_erased(step)
            case WriteFuse():
                await self.session.write_fuse(part, step.memory, step.value)
            case Reenter():
                await self._reenter(step, part)
            case WriteCells():
                await self._write(step.memory, step.pages, part, tally)
            case VerifyCells():
                await readback.verify_cells(step)
            case WriteLock():
                await self.session.write_lock(part, step.value)
            case VerifyBits():
                after = await readback.verify_bits(step.expected)
                self.outcome = replace(self.outcome, fuses_after=after.fuses, lock_after=after.lock)
            case Leave():
                await self.session.leave()

    async def _check_writable(self, step: CheckWritable, part: Part, readback: Readback) -> None:
        for span in step.spans:
            found = await readback.cells(MemoryKind.FLASH, span)
            stuck = [wrong for wrong in compare(step.expected, found) if wrong.expected & ~wrong.actual]
            if stuck:
                raise not_blank_error(part, stuck)

    async def _write(self, memory: MemoryKind, pages: Sequence[Segment], part: Part, tally: Tally) -> None:
        remaining = list(pages)
        idle_rounds = 0
        while remaining:
            done = await self.session.write(part, memory, remaining, tally)
            tally.settle(sum(len(page.data) for page in remaining[:done]))
            idle_rounds = 0 if done else idle_rounds + 1
            if idle_rounds >= _IDLE_ROUNDS:
                raise LocalProtocolError(f"writing {memory} makes no progress")
            remaining = remaining[done:]
            if remaining:
                await self._observer.checkpoint()

    async def _reenter(self, step: Reenter, part: Part) -> None:
        """Enter again at the step's SCK; where the target does not follow, at the one that worked before."""
        known_hz = self.outcome.sck_hz
        is_fixed = len(self._programmer.capabilities.sck_hz) < 2
        choices = dict.fromkeys((step.sck_hz, step.sck_hz if is_fixed else known_hz))
        await self.session.leave()
        for wanted_hz in choices:
            for _ in range(_ENTRY_TRIES):
                try:
                    sck_hz = await self.session.enter(part, wanted_hz)
                    self._expect_signature(await self.session.confirm_signature())
                except TargetError:
                    continue
                if wanted_hz != step.sck_hz:
                    self.warnings.append(f"the target does not follow SCK at {step.sck_hz} Hz; {sck_hz} Hz was used")
                self.outcome = replace(self.outcome, sck_hz=sck_hz)
                return
        raise _lost(step, part)


def _wrong_part(wanted: Part, found: tuple[Part, ...], signature: Signature) -> TargetError:
    names = " or ".join(part.name for part in found)
    return TargetError(
        ErrorCode.SIGNATURE_MISMATCH,
        f"the board has {names} (signature {signature}), not {wanted.name}",
        hint=f"take this board out, or enqueue for {found[0].id}",
        facts=Facts(part=found[0].id, memory=MemoryKind.SIGNATURE.value),
    )


def _lost(step: Reenter, part: Part) -> TargetError:
    if step.new_clock is None:
        hint = "check the contacts and the supply, then flash again"
        return TargetError(ErrorCode.TARGET_LOST, "the target does not answer after a reset", hint=hint)
    return TargetError(
        ErrorCode.TARGET_LOST,
        f"the target does not answer since its clock fuses were written (now: {step.new_clock})",
        hint=f"the board must supply this clock ({step.new_clock}): check the crystal and its solder joints; "
        "a clock fed into XTAL1 makes the part answer again",
        facts=Facts(part=part.id),
    )
