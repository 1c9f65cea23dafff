"""One slot at work: waits for a job, for a board, flashes it, waits for its removal. Its trouble stays its own."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio
import structlog

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, IspdError, JobError, LinkClosedError
from ispd.flashing.execute import flash_unit
from ispd.flashing.target import Sighting, look
from ispd.model.job import Failure, Unit, Verdict
from ispd.model.part import Signature
from ispd.model.station import Slot, SlotState
from ispd.programmers.contract import IspProgrammer
from ispd.station.events import EventHub
from ispd.station.journal import Journal
from ispd.station.presence import Presence, PresenceChange
from ispd.station.programmer_host import ProgrammerHost
from ispd.station.queue import JobQueue, OpenJob
from ispd.station.slot_state import check_change
from ispd.station.spec import SlotSpec
from ispd.station.unit_run import UnitRun
from ispd.transport.clock import Clock, timestamp
from ispd.transport.contract import PortEvent

__all__ = ["Floor", "SlotRunner"]

T = TypeVar("T")

log = structlog.get_logger()

_LOOK_INTERVAL_S = 0.15  # between two looks at a settled slot; a look itself takes about 0.1 s on an ArduinoISP
_CONFIRM_INTERVAL_S = 0.02  # a change is confirmed at once
_LOOKS_ONCE = 4  # looks a job without count spends on a slot that shows nothing stable
_LISTING_S = 2.0  # after a start: jobs taken up again wait so long for the ports to be listed
_RETRY_S = 2.0  # how often a missing fixed port is tried
_QUARANTINE_RETRY_S = 10.0
_TROUBLES_TO_QUARANTINE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What all slots of a station share."""

    parts: Parts
    bootloaders: Bootloaders
    queue: JobQueue
    journal: Journal
    events: EventHub
    clock: Clock
    is_stopping: Callable[[], bool]

    def now(self) -> str:
        """Return the wall time as records hold it."""
        return timestamp(self.clock)


class SlotRunner:
    """Runs one slot. ``settled`` is set once the programmer that is plugged in was tried."""

    def __init__(self, spec: SlotSpec, host: ProgrammerHost, floor: Floor) -> None:
        self.spec = spec
        self.host = host
        self._floor = floor
        self._programmer_lock = anyio.Lock()
        self._is_disabled = False
        self._troubles = 0
        self._listed_at = 0.0
        self.settled = anyio.Event()
        self.view = Slot(name=spec.name, state=SlotState.VACANT, programmer=spec.programmer, port=host.port)

    # ------------------------------------------------------------------ what others may do

    async def run(self) -> None:
        """Serve jobs until the daemon stops."""
        self._listed_at = self._floor.clock.monotonic() + _LISTING_S
        while not self._floor.is_stopping():
            await self._turn()

    def enable(self) -> None:
        """Let the slot work again; also ends a quarantine."""
        self._is_disabled = False
        self._troubles = 0
        if self.view.state in (SlotState.DISABLED, SlotState.QUARANTINED):
            self._to(SlotState.IDLE if self.host.is_open else SlotState.VACANT, failure=None, note="")
        self._floor.queue.changed.fire()

    def disable(self) -> None:
        """Take no further board; one that is being flashed is finished first."""
        self._is_disabled = True
        if self.view.state is not SlotState.BUSY:
            self._to(SlotState.DISABLED, job=None, note="disabled by hand")
        self._floor.queue.changed.fire()

    @property
    def is_usable(self) -> bool:
        """True where a job may count on this slot: it has a programmer, or one is just being opened."""
        if self.view.state is SlotState.VACANT:
            return self.host.port is not None and not self.settled.is_set()
        return self.view.state is not SlotState.DISABLED

    def plugged(self, event: PortEvent) -> None:
        """Take note that the programmer is there."""
        self.host.plugged(event)
        self.settled = anyio.Event()
        self._troubles = 0
        self._show(port=event.port, failure=None, note="its programmer is being opened")
        self._floor.queue.changed.fire()

    async def in_bootloader(self, event: PortEvent, title: str) -> None:
        """Take note that the programmer runs its own bootloader; a running unit notices that it is gone."""
        await self.host.in_bootloader(event, title)
        self._troubles = 0
        self._floor.queue.changed.fire()

    async def unplugged(self) -> None:
        """Take note that the programmer is gone; a running unit notices by itself."""
        await self.host.unplugged()
        self._troubles = 0
        self._floor.queue.changed.fire()

    async def use_programmer(self, use: Callable[[IspProgrammer], Awaitable[T]]) -> T:
        """Run ``use`` on the open programmer while no board is being flashed.

        Raises ``JobError`` slot-busy during a unit, and whatever opening the programmer or ``use`` raises.
        """
        if self.view.state is SlotState.BUSY:
            raise JobError(
                ErrorCode.SLOT_BUSY, f"slot {self.spec.name} is flashing a board", hint="wait until it is finished"
            )
        async with self._programmer_lock:
            try:
                return await use(await self.host.programmer())
            except LinkClosedError:
                await self.host.drop()
                raise

    # ------------------------------------------------------------------ one turn

    async def _turn(self) -> None:
        """Do the one thing that is next; every kind of trouble with the programmer ends here.

        Raises ``IspdError`` with ``journal-failed``: without records no slot may go on.
        """
        queue = self._floor.queue
        if self._is_disabled:
            await self._stand_by()
            return
        try:
            with _wall(self.spec.name):
                async with self._programmer_lock:
                    self._opened(await self.host.programmer())
                entry = queue.next_for(self.spec.name)
                if entry is None:
                    self._rest()
                    await self._wait_for_change()
                elif entry.is_once:
                    await self._serve_once(entry)
                else:
                    await self._serve_count(entry)
            self._troubles = 0
        except IspdError as error:
            if error.code is ErrorCode.JOURNAL_FAILED:
                raise
            await self._trouble(error)

    async def _stand_by(self) -> None:
        """Wait while disabled; a job without count is told not to wait for this slot."""
        if self.view.state is not SlotState.DISABLED:
            self._to(SlotState.DISABLED, job=None, note="disabled by hand")
        entry = self._floor.queue.next_for(self.spec.name)
        if entry is not None and entry.is_once:
            await self._floor.queue.note_seen(entry, self.spec.name, "the slot is disabled")
        else:
            await self._wait_for_change()

    def _opened(self, programmer: IspProgrammer) -> None:
        self.settled.set()
        identity = programmer.identity
        if self.view.state in (SlotState.VACANT, SlotState.QUARANTINED, SlotState.DISABLED):
            self._to(SlotState.IDLE, programmer=identity.kind, port=identity.port, failure=None, note="")

    def _rest(self) -> None:
        if self.view.state not in (SlotState.PASSED, SlotState.FAILED):
            self._to(SlotState.IDLE, job=None, step=None, progress=0.0, note="")

    async def _trouble(self, error: IspdError) -> None:
        """The programmer is missing or failing: show it, tell a job without count, and wait before trying again."""
        await self.host.drop()
        self.settled.set()
        self._troubles += 1
        failure = failure_of(error)
        is_gone = error.code in (ErrorCode.LINK_CLOSED, ErrorCode.PORT_NOT_FOUND) or self.host.port is None
        if not is_gone and self._troubles >= _TROUBLES_TO_QUARANTINE:
            self._to(SlotState.QUARANTINED, failure=failure, note="its programmer keeps failing", job=None)
        else:
            self._to(SlotState.VACANT, failure=failure, note=error.message, job=None, step=None)
        entry = self._floor.queue.next_for(self.spec.name)
        if entry is not None and entry.is_once and self._is_hopeless(error):
            await self._floor.queue.note_seen(entry, self.spec.name, f"{error.message}; {error.hint}")
        is_quarantined = self.view.state is SlotState.QUARANTINED
        with anyio.move_on_after(_QUARANTINE_RETRY_S if is_quarantined else self._retry_s(is_gone=is_gone)):
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        """Wait until the queue, the slot or the daemon's life changed; call right after looking at them."""
        if not self._floor.is_stopping():
            await self._floor.queue.changed.wait()

    def _is_hopeless(self, error: IspdError) -> bool:
        """A link lost once is opened again at once; anything else, or twice in a row, ends a job without count here."""
        if error.code is ErrorCode.PORT_NOT_FOUND and self._listing_left_s() > 0:
            return False
        return error.code is not ErrorCode.LINK_CLOSED or self._troubles > 1

    def _listing_left_s(self) -> float:
        """How long a port that comes with hotplug may still be missing because the first listing is under way."""
        return 0.0 if self.host.is_fixed else max(0.0, self._listed_at - self._floor.clock.monotonic())

    def _retry_s(self, *, is_gone: bool) -> float:
        if is_gone and self._troubles == 1:
            return 0.0
        if self.host.port is None:
            return self._listing_left_s() or float("inf")
        return _RETRY_S

    # ------------------------------------------------------------------ serving a job

    async def _serve_once(self, entry: OpenJob) -> None:
        """Flash the board that is there now, once; or note what was seen."""
        self._arm(entry)
        presence = Presence()
        for _ in range(_LOOKS_ONCE):
            sighting = await self._look()
            if presence.feed(sighting.signature) is PresenceChange.INSERTED:
                break
        if self._is_disabled:
            return
        if presence.board is not None and entry.reserve(self.spec.name):
            await self._flash(entry, presence.board)
        elif entry.wants(self.spec.name):
            await self._floor.queue.note_seen(entry, self.spec.name, describe(sighting))
            self._to(SlotState.IDLE, note=describe(sighting), job=None)

    async def _serve_count(self, entry: OpenJob) -> None:
        """Meet board after board until the job is through or the slot is taken away from it.

        A board is held once it has its verdict (from before a restart, too): untouched until it was taken out.
        """
        presence = Presence(board=board_of(entry.last_units.get(self.spec.name)))
        is_held = presence.board is not None
        if not is_held:
            self._arm(entry)
        while entry.wants(self.spec.name) and not self._is_disabled and not self._floor.is_stopping():
            change = presence.feed((await self._look()).signature)
            if change is PresenceChange.REMOVED:
                is_held = False
                if self.view.state in (SlotState.PASSED, SlotState.FAILED):
                    self._to(SlotState.REMOVED)
                self._arm(entry)
            if presence.board is not None and not is_held and not self._is_disabled and entry.reserve(self.spec.name):
                is_held = True
                await self._flash(entry, presence.board)
            with anyio.move_on_after(_LOOK_INTERVAL_S if presence.is_settled else _CONFIRM_INTERVAL_S):
                await self._wait_for_change()

    def _arm(self, entry: OpenJob) -> None:
        self._to(
            SlotState.WAITING,
            job=entry.job.id,
            unit=None,
            part=None,
            signature=None,
            step=None,
            progress=0.0,
            bytes_done=0,
            bytes_total=0,
            failure=None,
            note="",
        )

    async def _look(self) -> Sighting:
        async with self._programmer_lock:
            return await look(await self.host.programmer())

    async def _flash(self, entry: OpenJob, signature: Signature) -> None:
        """Flash one reserved board, with its record around it."""
        floor = self._floor
        self._to(SlotState.BUSY, job=entry.job.id, signature=str(signature))
        async with self._programmer_lock:
            programmer, unit = await self._begin_unit(entry, signature)
            self._show(unit=unit.id)
            run = UnitRun(
                unit,
                entry,
                journal=floor.journal,
                queue=floor.queue,
                clock=floor.clock,
                show=self._show,
                is_stopping=floor.is_stopping,
            )
            outcome = await flash_unit(
                programmer,
                entry.recipe,
                parts=floor.parts,
                bootloaders=floor.bootloaders,
                clock=floor.clock,
                observer=run,
            )
        unit = run.close(outcome, floor.now())
        await floor.queue.finish(entry, unit)
        self._show_verdict(unit)
        await floor.queue.settle(entry)
        if unit.failure is not None and unit.failure.code == ErrorCode.LINK_CLOSED:
            raise LinkClosedError(self.host.port or self.spec.name)

    async def _begin_unit(self, entry: OpenJob, signature: Signature) -> tuple[IspProgrammer, Unit]:
        """Make sure of the programmer, then commit the intent; give the reservation back where either fails."""
        floor = self._floor
        intent = Unit(
            id=0,
            job=entry.job.id,
            slot=self.spec.name,
            started=floor.now(),
            signature=str(signature),
            image_sha256=entry.job.image_sha256,
            sources=entry.job.sources,
            warnings=entry.job.warnings,
        )
        try:
            return await self.host.programmer(), await floor.queue.begin(entry, intent)
        except IspdError:
            floor.queue.abandon(entry, self.spec.name)
            raise

    def _show_verdict(self, unit: Unit) -> None:
        state = SlotState.PASSED if unit.verdict is Verdict.PASSED else SlotState.FAILED
        self._to(
            state,
            failure=unit.failure,
            step=None,
            progress=1.0 if unit.verdict is Verdict.PASSED else self.view.progress,
            passed=self.view.passed + (unit.verdict is Verdict.PASSED),
            failed=self.view.failed + (unit.verdict is not Verdict.PASSED),
        )

    # ------------------------------------------------------------------ what the slot shows

    def _to(self, state: SlotState, **fields: object) -> None:
        check_change(self.view.state, state)
        self._show(state=state, **fields)

    def _show(self, **fields: object) -> None:
        view = replace(self.view, **fields)  # type: ignore[arg-type]  # names of Slot's own fields
        if view != self.view:
            self.view = view
            self._floor.events.publish(view)


def failure_of(error: IspdError) -> Failure:
    """Return an error as a record holds it."""
    facts = error.facts
    return Failure(
        code=error.code,
        message=error.message,
        hint=error.hint,
        memory=facts.memory,
        address=facts.address,
        expected=facts.expected,
        actual=facts.actual,
    )


def describe(sighting: Sighting) -> str:
    """Put what a look showed into words."""
    if sighting.signature is not None:
        return f"signature {sighting.signature}, not twice in a row: bad contact?"
    if sighting.failure is not None:
        return f"{sighting.failure.message}; {sighting.failure.hint}"
    return f"signature reads {sighting.raw.hex(' ').upper()}"


def board_of(unit: Unit | None) -> Signature | None:
    """Return the signature of a board that has its verdict and may still be there; None where the slot is free."""
    if unit is None or unit.signature is None or unit.verdict in (None, Verdict.INTERRUPTED):
        return None
    return Signature(bytes.fromhex(unit.signature))


@contextmanager
def _wall(slot: str) -> Iterator[None]:
    """The wall between slots: what nobody foresaw becomes this slot's trouble, and is logged in full."""
    try:
        yield
    except IspdError:
        raise
    except Exception as error:
        log.exception("internal error on a slot", slot=slot)
        raise IspdError(
            ErrorCode.INTERNAL,
            f"internal error on slot {slot} ({type(error).__name__})",
            hint="see the daemon's log, and report this",
        ) from error
