"""Events: everything the daemon publishes. A sequence number orders them; a gap tells a reader to fetch state again."""

from dataclasses import dataclass
from enum import StrEnum

from ispd.model.job import Job, Unit
from ispd.model.station import Programmer, Slot

__all__ = ["Event", "EventKind"]


class EventKind(StrEnum):
    """What an event is about; the payload field of the same name is set."""

    JOB = "job"
    UNIT = "unit"
    SLOT = "slot"
    PROGRAMMER = "programmer"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change. ``seq`` grows by one per event of the station; ``resync`` carries no payload and means: events were
    dropped because this reader was slow, fetch the state again and go on from ``seq``."""

    seq: int
    time: str
    kind: EventKind
    job: Job | None = None
    unit: Unit | None = None
    slot: Slot | None = None
    programmer: Programmer | None = None
