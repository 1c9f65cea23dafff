"""One unit while it is flashed: what the executor reports goes to the journal first, then to everybody who watches."""

from collections.abc import Callable
from dataclasses import replace

from ispd.errors import ErrorCode, JobError
from ispd.flashing.observer import Identified, UnitOutcome
from ispd.flashing.target_state import TargetState
from ispd.model.job import Failure, JobState, StepRecord, Unit, Verdict
from ispd.station.floor import Floor
from ispd.station.queue import OpenJob

__all__ = ["UnitRun"]

_PROGRESS_INTERVAL_S = 0.2  # at most five progress events a second and unit


class UnitRun:
    """Observer of one run of :func:`ispd.flashing.whole.flash_whole`.

    :param firmware_bytes: what goes on over USB after ISP; progress counts it from the start.
    :param show: called with what the slot should show now: field values of :class:`ispd.model.station.Slot`.
    """

    def __init__(
        self, unit: Unit, entry: OpenJob, floor: Floor, *, show: Callable[..., None], firmware_bytes: int = 0
    ) -> None:
        self.unit = unit
        self._entry = entry
        self._floor = floor
        self._show = show
        self._before_bytes = 0
        self._after_bytes = firmware_bytes
        self._told_bytes = 0
        self._shown_at = floor.clock.monotonic() - _PROGRESS_INTERVAL_S

    async def identified(self, found: Identified) -> None:
        """Both looks agreed on a known part."""
        signature, part = str(found.signature), found.part.id
        self.unit = replace(
            self.unit,
            signature=signature,
            part=part,
            chip=found.chip,
            unique_id=found.unique_id,
            sck_hz=found.clock_hz,
        )
        self._show(part=part, signature=signature, sck_hz=found.clock_hz)

    async def about_to_write(self, before: TargetState, warnings: tuple[str, ...]) -> None:
        """Commit everything known about the board before its first byte changes."""
        self.unit = replace(self.unit, warnings=(*self.unit.warnings, *warnings))
        if not (self._is_rescue and self.unit.fuses_before):  # else how the board came is in the record already
            fuses = {memory.value: value for memory, value in before.fuses.items()}
            self.unit = replace(self.unit, fuses_before=fuses, lock_before=before.lock)
        await self._floor.journal.save_unit(self.unit)

    async def step_started(self, name: str) -> None:
        """Show what is going on."""
        self._show(step=name)

    async def step_finished(self, record: StepRecord) -> None:
        """Commit a step's result before the next one begins."""
        await self._floor.journal.add_step(self.unit.id, self.unit.attempts[-1].number, record)
        attempt = self.unit.attempts[-1]
        attempt = replace(attempt, steps=(*attempt.steps, record))
        self.unit = replace(self.unit, attempts=(*self.unit.attempts[:-1], attempt))

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Show progress, at most five times a second."""
        self._told_bytes = total_bytes
        done_bytes, total_bytes = done_bytes + self._before_bytes, total_bytes + self._before_bytes + self._after_bytes
        now = self._floor.clock.monotonic()
        if now - self._shown_at < _PROGRESS_INTERVAL_S and done_bytes < total_bytes:
            return
        self._shown_at = now
        share = done_bytes / total_bytes if total_bytes else 1.0
        self._show(progress=round(share, 4), bytes_done=done_bytes, bytes_total=total_bytes)

    def firmware_begins(self) -> None:
        """Count the firmware's bytes on top of those that ISP moved."""
        self._before_bytes, self._after_bytes = self._told_bytes, 0

    async def begin_again(self, failure: Failure) -> None:
        """Commit the verdict of this attempt and the intent to make another one, before anything is erased."""
        self.unit = await self._floor.queue.begin_again(self.unit, failure)
        self._after_bytes, self._before_bytes = self._told_bytes, 0
        self._show(step=None, note="the board is ill: rescued by its programmer")

    @property
    def _is_rescue(self) -> bool:
        return any(attempt.verdict is Verdict.NEEDS_RESCUE for attempt in self.unit.attempts[:-1])

    @property
    def stop_requested(self) -> bool:
        """True when :meth:`checkpoint` has something to do."""
        return self._floor.is_stopping() or self._entry.record.state in (JobState.PAUSED, JobState.CANCELLING)

    async def checkpoint(self) -> None:
        """Wait while the job is paused; raise ``JobError`` when it was cancelled or the daemon stops."""
        while True:
            reason = self._reason_to_stop()
            if reason is not None:
                raise reason
            if self._entry.record.state is not JobState.PAUSED:
                return
            self._show(note="paused")
            await self._floor.queue.changed.wait()  # nothing was awaited since the state was read
            self._show(note="")

    async def stopped(self) -> JobError:
        """Return, once the job was cancelled or the daemon stops, which of both. A pause lets the step come to its end."""
        while True:
            reason = self._reason_to_stop()
            if reason is not None:
                return reason
            await self._floor.queue.changed.wait()  # as above

    def _reason_to_stop(self) -> JobError | None:
        if self._floor.is_stopping():
            return JobError(ErrorCode.INTERRUPTED, "the daemon was stopped", hint="the board is flashed again")
        if self._entry.record.state is JobState.CANCELLING:
            return JobError(ErrorCode.CANCELLED, "the job was cancelled", hint="the board is not usable as it is")
        return None

    def close(self, outcome: UnitOutcome, finished: str) -> Unit:
        """Return the unit's final record."""
        verdict = outcome.verdict
        if outcome.failure is not None and outcome.failure.code == ErrorCode.INTERRUPTED:
            verdict = Verdict.INTERRUPTED
        attempt = replace(self.unit.attempts[-1], finished=finished, verdict=verdict, failure=outcome.failure)
        fuses = {memory.value: value for memory, value in outcome.fuses_before.items()}
        is_known = bool(self.unit.fuses_before) and (self._is_rescue or not fuses)
        self.unit = replace(
            self.unit,
            part=outcome.part or self.unit.part,
            signature=outcome.signature or self.unit.signature,
            chip=outcome.chip or self.unit.chip,
            unique_id=outcome.unique_id or self.unit.unique_id,
            application_usb=outcome.application_usb,
            sck_hz=outcome.sck_hz if outcome.sck_hz is not None else self.unit.sck_hz,
            verdict=verdict,
            failure=outcome.failure,
            finished=finished,
            fuses_before=self.unit.fuses_before if is_known else fuses,
            fuses_after={memory.value: value for memory, value in outcome.fuses_after.items()},
            lock_before=self.unit.lock_before if is_known else outcome.lock_before,
            lock=outcome.lock_after,
            warnings=tuple(dict.fromkeys((*self.unit.warnings, *outcome.warnings))),
            attempts=(*self.unit.attempts[:-1], attempt),
        )
        return self.unit
