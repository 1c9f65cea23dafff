"""The target behind a programmer, as the station sees it: what is spoken to it, ISP or SWD, stays below."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.flashing.observer import UnitObserver, UnitOutcome
from ispd.flashing.sck import SckStart
from ispd.model.job import Failure
from ispd.model.part import Interface, MemoryKind, Part, Signature
from ispd.model.recipe import Recipe
from ispd.programmers.contract import Monitor, ProgrammerIdentity
from ispd.transport.clock import Clock

__all__ = ["ProbeFacts", "Sighting", "TargetInterface"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One look at a slot: what the signature read in words, the signature where it makes sense, the failure if not.

    ``rung_hz`` is the clock that was asked for when the signature answered. ``unique_id`` is the chip's serial number in hexadecimal,
    None where it has none, or did not tell it.
    """

    words: str
    signature: Signature | None
    failure: Failure | None
    rung_hz: int | None = None
    unique_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFacts:
    """All that a target tells about itself. Without a ``signature``, ``failure`` says why; a signature that no part
    has leaves ``parts`` empty and sets ``failure`` too.

    :param sck_hz: clock of ISP or SWD.
    :param clock: what the target runs from, in words, where its fuses tell.
    :param fuses: fuse or option bytes, like ``lock``.
    :param chip: what else it told, in words: revision, maker, core.
    :param flash_bytes: what it says of its flash, or its part's flash.
    """

    sck_hz: int
    signature: Signature | None = None
    parts: tuple[Part, ...] = ()
    fuses: Mapping[MemoryKind, int] = field(default_factory=dict)
    lock: int | None = None
    calibration: int | None = None
    clock: str | None = None
    chip: str = ""
    unique_id: str | None = None
    flash_bytes: int | None = None
    flash_page_bytes: int | None = None
    ram_bytes: int | None = None
    voltage_mv: int | None = None
    warnings: tuple[str, ...] = ()
    failure: Failure | None = None


class TargetInterface(Protocol):
    """The target behind one open programmer.

    Every method raises what concerns the programmer or its link (``LinkClosedError``, ``LinkTimeoutError``, ``RemoteProtocolError``,
    ``ProgrammerError``), and leaves the target running, whatever happens, cancellation included.
    """

    kind: Interface
    meets_anew: bool
    """Each board is met from the top of :meth:`rungs`: trying one takes milliseconds, and one bad contact slows no further board. False
    where the clock of the last board is the best guess for the next one.
    """
    reads_running: bool
    """:meth:`read` lets the target run on."""

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the port was opened."""

    def rungs(self, fixed_hz: int | None = None) -> tuple[int | None, ...]:
        """Return the clocks at which to try an unknown target, in order; None is the programmer's own.

        :param fixed_hz: what the recipe fixes: nothing else is tried then.
        """

    async def look(self, rungs: Sequence[int | None] | None = None) -> Sighting:
        """Look once what is there. A silent target is an answer.

        :param rungs: clocks to try, in order; None: all of :meth:`rungs`, which takes its time where nobody answers.
        """

    async def probe(self, parts: Parts) -> ProbeFacts:
        """Ask the target for everything it tells. A silent or unknown target is an answer."""

    async def read(self, parts: Parts, memory: MemoryKind, monitor: Monitor) -> bytes:
        """Return a whole memory; shorter only when ``monitor`` stopped it.

        Raises ``TargetError`` too: what is wrong with the signature; target-locked where reading is forbidden.
        """

    async def flash(
        self,
        recipe: Recipe,
        *,
        parts: Parts,
        bootloaders: Bootloaders,
        clock: Clock,
        observer: UnitObserver,
        start: SckStart,
    ) -> UnitOutcome:
        """Carry out ``recipe`` and return how it ended.

        Passed means: everything the recipe names, and every fuse or option byte, was read back after its last write and compared, and the
        target was let go. Every declared error becomes an outcome; only cancellation and what the observer raises besides ``IspdError``
        come out.

        :param start: what the slot knows about the clock.
        """

    async def identify(self, clock: Clock) -> None:
        """Make the programmer show which one it is, for a few seconds.

        Raises ``ProgrammerError`` (programmer-cannot), and leaves the target alone, where the programmer has no light that it can be told
        to switch.
        """

    def held(self) -> AbstractAsyncContextManager[None]:
        """Hold the target in reset for as long as the context lasts; afterwards it starts anew."""

    async def aclose(self) -> None:
        """Close the programmer; never raises."""
