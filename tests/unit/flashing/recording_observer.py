"""An observer that writes down what it is told, and stops the unit at a chosen checkpoint."""

from collections.abc import Awaitable, Callable

from ispd.errors import ErrorCode, JobError
from ispd.flashing.observer import Identified
from ispd.flashing.target_state import TargetState
from ispd.model.job import StepRecord


def cancelled() -> JobError:
    return JobError(ErrorCode.CANCELLED, "the job was cancelled")


class RecordingObserver:
    """``stop_at`` is the number of the checkpoint that raises ``reason``; with ``every_page`` each page asks for one."""

    def __init__(
        self,
        *,
        stop_at: int | None = None,
        reason: Callable[[], JobError] = cancelled,
        every_page: bool = False,
        on_step: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.events: list[str] = []
        self.before: TargetState | None = None
        self.warnings: tuple[str, ...] = ()
        self.records: list[StepRecord] = []
        self.progressed: list[tuple[int, int]] = []
        self.checkpoints = 0
        self._stop_at = stop_at
        self._reason = reason
        self._every_page = every_page
        self._on_step = on_step
        self._has_moved = False

    async def identified(self, found: Identified) -> None:
        self.events.append(f"identified {found.part.id} {found.signature} {found.clock_hz}")

    async def about_to_write(self, before: TargetState, warnings: tuple[str, ...]) -> None:
        self.events.append("intent")
        self.before, self.warnings = before, warnings

    async def step_started(self, name: str) -> None:
        self.events.append(f"begin {name}")
        if self._on_step is not None:
            await self._on_step(name)

    async def step_finished(self, record: StepRecord) -> None:
        self.events.append(f"end {record.name}")
        self.records.append(record)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self._has_moved = True
        self.progressed.append((done_bytes, total_bytes))

    @property
    def stop_requested(self) -> bool:
        """Asked for every page: stop after each piece of work."""
        return self._every_page and self._has_moved

    async def checkpoint(self) -> None:
        self._has_moved = False
        number, self.checkpoints = self.checkpoints, self.checkpoints + 1
        if number == self._stop_at:
            raise self._reason()
