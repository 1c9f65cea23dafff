"""What a unit that is being flashed tells: step by step to an observer, and at the end as an outcome."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ispd.flashing.pace import UsbPace
from ispd.flashing.sck import FoundSck
from ispd.flashing.target_state import TargetState
from ispd.model.job import Failure, StepRecord, Verdict
from ispd.model.part import MemoryKind, Part, Signature

__all__ = ["Identified", "UnitObserver", "UnitOutcome"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """Who is on the slot: a known part.

    :param clock_hz: of ISP or SWD.
    :param chip: what it told besides, in words; ``unique_id`` its serial number in hexadecimal, None where it has none.
    """

    signature: Signature
    part: Part
    clock_hz: int
    chip: str = ""
    unique_id: str | None = None


class UnitObserver(Protocol):
    """Told what happens to the unit. What a coroutine raises ends the attempt, with the target released."""

    async def identified(self, found: Identified) -> None:
        """The target told twice, and the same, who it is."""

    async def about_to_write(self, before: TargetState, warnings: tuple[str, ...]) -> None:
        """Everything was checked and nothing was changed yet: commit the intent now."""

    async def step_started(self, name: str) -> None:
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
    """How the attempt ended.

    :param sck_hz: clock of ISP or SWD that was worked with, so far as it came.
    :param chip: see :class:`Identified`, like ``unique_id``.
    :param fuses_after: what was read back after the last write, like ``lock_after``.
    :param found_sck: what the slot should remember about SCK; None where nothing was learned.
    :param application_usb: USB id that the board's own port showed at last, None where nobody looked or nothing showed.
    :param usb_pace: how long the firmware took over USB; None where it did not come that way.
    """

    verdict: Verdict
    failure: Failure | None = None
    part: str | None = None
    signature: str | None = None
    chip: str = ""
    unique_id: str | None = None
    sck_hz: int | None = None
    found_sck: FoundSck | None = None
    application_usb: str | None = None
    usb_pace: UsbPace | None = None
    fuses_before: Mapping[MemoryKind, int] = field(default_factory=dict)
    fuses_after: Mapping[MemoryKind, int] = field(default_factory=dict)
    lock_before: int | None = None
    lock_after: int | None = None
    warnings: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    seconds: float = 0.0
