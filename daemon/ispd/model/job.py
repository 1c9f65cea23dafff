"""Jobs, units and attempts: what ``enqueue`` creates, the boards it meets, and each run of the recipe on a board."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ispd.model.recipe import PlanKind, SourceFile

__all__ = ["MAX_OUTPUT", "Attempt", "Failure", "Job", "JobState", "StepRecord", "Unit", "Verdict"]

MAX_OUTPUT = 8192
"""Characters of a tool's output that a record keeps: the first and the last half of them."""


class JobState(StrEnum):
    """Life of a job. ``cancelling``: no unit starts any more, running ones stop at their next page."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    DONE = "done"
    EMPTY = "empty"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """True once nothing about the job can change any more."""
        return self in (JobState.DONE, JobState.EMPTY, JobState.CANCELLED)


class Verdict(StrEnum):
    """How a unit ended."""

    PASSED = "passed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    NEEDS_RESCUE = "needs-rescue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a unit did not pass. ``address`` is a byte address in ``memory``; ``hint`` is the operator's next move."""

    code: str
    message: str
    hint: str = ""
    memory: str | None = None
    address: int | None = None
    expected: int | None = None
    actual: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One finished step: when it began (ISO 8601, UTC), how long it took, how many bytes it moved, what it found out.

    ``output`` is what an outside tool printed, both its streams, cut to :data:`MAX_OUTPUT` characters.
    """

    name: str
    started: str
    seconds: float
    bytes: int = 0
    note: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of the recipe on a unit."""

    number: int
    started: str
    finished: str | None = None
    verdict: Verdict | None = None
    failure: Failure | None = None
    steps: tuple[StepRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One board that a job met on a slot: its complete record.

    Fuse maps are keyed by memory name (``lfuse`` ..) and hold raw bytes as read. ``image_sha256`` is the digest of the
    canonical image written to flash, empty where none was; ``sources`` are the files it was made of. ``plan`` is the way that
    was taken (never ``auto``); ``chip`` is what the chip told of itself besides its signature, in words, ``unique_id`` its serial number in
    hexadecimal, where it has one; ``target_usb`` is where the board's own USB port is, ``application_usb`` what it showed there at last.
    """

    id: int
    job: int
    slot: str
    started: str
    part: str | None = None
    signature: str | None = None
    chip: str = ""
    unique_id: str | None = None
    plan: PlanKind | None = None
    target_usb: str | None = None
    application_usb: str | None = None
    verdict: Verdict | None = None
    failure: Failure | None = None
    sck_hz: int | None = None
    finished: str | None = None
    image_sha256: str = ""
    sources: tuple[SourceFile, ...] = ()
    fuses_before: Mapping[str, int] = field(default_factory=dict)
    fuses_after: Mapping[str, int] = field(default_factory=dict)
    lock_before: int | None = None
    lock: int | None = None
    warnings: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What ``enqueue`` created. ``count`` None: each board present now, once. ``seen``: per slot, what a job without
    ``count`` found there, in words, and for every job why a slot's programmer is none for its part."""

    id: int
    state: JobState
    created: str
    slots: tuple[str, ...]
    count: int | None = None
    part: str | None = None
    bootloader: str | None = None
    plan: PlanKind = PlanKind.ISP_ONLY
    finished: str | None = None
    passed: int = 0
    failed: int = 0
    running: int = 0
    image_sha256: str = ""
    sources: tuple[SourceFile, ...] = ()
    warnings: tuple[str, ...] = ()
    seen: Mapping[str, str] = field(default_factory=dict)
