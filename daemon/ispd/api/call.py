"""One call of a method: who asks, over which connection, and of which station."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from anyio import CapacityLimiter

from ispd.api.declare import Privilege
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.chain.contract import ChainTool
from ispd.model.event import Event
from ispd.model.job import Job, Unit
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe
from ispd.model.station import Probe, Programmer, Slot, SlotAction, Station

__all__ = ["Allows", "Call", "EventSource", "Peer", "Session", "StationPort"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process at the other end, as the kernel names it; None where the transport can not tell."""

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None


Allows = Callable[[Peer, Privilege], Awaitable[bool]]
"""Tells whether a caller has a privilege; to know it may mean to wait for a server of accounts."""


class EventSource(Protocol):
    """Where events come from."""

    seq: int

    def subscribe(self, *, size: int = 256) -> AbstractContextManager[AsyncIterator[Event]]:
        """Receive the events published inside the context; a reader ``size`` behind gets one ``resync`` instead."""


class StationPort(Protocol):
    """What the handlers ask of the station. Unknown names and numbers raise ``JobError`` with the code saying so."""

    @property
    def parts(self) -> Parts:
        """The parts of the catalog."""

    @property
    def bootloaders(self) -> Bootloaders:
        """The bootloaders of the catalog."""

    @property
    def tools(self) -> Sequence[ChainTool]:
        """The follow-up tools there are."""

    @property
    def events(self) -> EventSource:
        """Every change, numbered."""

    async def enqueue(self, recipe: Recipe, *, slots: Sequence[str] | None, count: int | None) -> Job:
        """Record a job and return it."""

    async def jobs(self, limit: int, before: int | None) -> list[Job]:
        """Return jobs, newest first."""

    async def job(self, job_id: int) -> Job:
        """Return one job."""

    async def cancel(self, job_id: int) -> Job:
        """Stop a job between pages."""

    async def pause(self, job_id: int) -> Job:
        """Hold a job between pages."""

    async def resume(self, job_id: int) -> Job:
        """Let a paused job go on."""

    async def units(self, *, job: int | None, limit: int, before: int | None) -> list[Unit]:
        """Return units, newest first."""

    async def unit(self, unit_id: int) -> Unit:
        """Return one unit."""

    def slots(self) -> list[Slot]:
        """Return all slots."""

    def slot(self, name: str) -> Slot:
        """Return one slot."""

    async def set_slot(self, name: str, action: SlotAction) -> Slot:
        """Enable, disable or identify a slot."""

    async def probe(self, name: str) -> Probe:
        """Look at a slot's target."""

    async def learn(self, name: str) -> Slot:
        """Find out which USB port a slot's board is on, and keep it."""

    async def recipe_to_rescue(self, unit_id: int | None) -> Recipe:
        """Return the recipe of a unit that ended ``needs-rescue``; None: of the newest one."""

    async def read(self, name: str, memory: MemoryKind) -> bytes:
        """Read a whole memory of a slot's target."""

    def programmers(self) -> list[Programmer]:
        """Return the programmers that are connected."""

    def describe(self) -> Station:
        """Return the daemon's own facts."""


class Session(Protocol):
    """The connection a call came over."""

    def subscribe(self) -> int:
        """Send events from now on; return the number of the latest one. Harmless when already subscribed."""

    def unsubscribe(self) -> None:
        """Send no more events. Harmless when not subscribed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a handler gets besides its parameters.

    :param workers: bounds the threads that parse untrusted files, so that they never pile up.
    """

    station: StationPort
    session: Session
    peer: Peer
    allows: Allows
    workers: CapacityLimiter
