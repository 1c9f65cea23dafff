"""One slot's life: its programmer comes and goes, jobs come, and its trouble stays its own."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import anyio

from ispd.errors import ErrorCode, IspdError, JobError, LinkClosedError
from ispd.flashing.interface import TargetInterface
from ispd.flashing.verdict import failure_of
from ispd.model.recipe import PlanKind, Recipe
from ispd.model.station import Slot, SlotState
from ispd.station.chain_work import ChainSlotWork
from ispd.station.fitting import MisfitError, misfit_job
from ispd.station.floor import LISTING_S, Floor
from ispd.station.programmer_host import ProgrammerHost
from ispd.station.queue import OpenJob
from ispd.station.slot_display import SlotDisplay
from ispd.station.slot_work import SlotWork
from ispd.station.spec import SlotSpec
from ispd.station.unit_flasher import UnitFlasher
from ispd.station.wall import wall
from ispd.transport.contract import PortEvent

__all__ = ["SlotRunner"]

T = TypeVar("T")

_RETRY_S = 2.0  # how often a missing fixed port is tried
_QUARANTINE_RETRY_S = 10.0
_TROUBLES_TO_QUARANTINE = 3


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
        self._opening = anyio.CancelScope()
        self.settled = anyio.Event()
        empty = Slot(
            name=spec.name,
            state=self._unserved,
            programmer=spec.programmer,
            port=host.port,
            target_usb=spec.target_usb,
        )
        self._display = SlotDisplay(empty, floor.events)
        flasher = UnitFlasher(host, floor, self._display)
        self._work = SlotWork(
            host,
            floor,
            self._display,
            flasher,
            programmer_lock=self._programmer_lock,
            is_disabled=lambda: self._is_disabled,
        )
        self._chain_work = ChainSlotWork(
            floor,
            self._display,
            flasher,
            programmer_lock=self._programmer_lock,
            is_disabled=lambda: self._is_disabled,
            listing_left_s=self._listing_s,
        )

    @property
    def view(self) -> Slot:
        """What the slot shows now."""
        return self._display.view

    @property
    def _unserved(self) -> SlotState:
        """State of a slot that nothing is known to be wrong with, and whose programmer is not open."""
        return SlotState.VACANT if self.spec.has_programmer else SlotState.IDLE

    # ------------------------------------------------------------------ what others may do

    async def run(self) -> None:
        """Serve jobs until the daemon stops."""
        self._listed_at = self._floor.clock.monotonic() + LISTING_S
        while not self._floor.is_stopping():
            await self._turn()

    def stop(self) -> None:
        """Give up opening the programmer, which can take 20 s where the wrong thing is plugged in: the daemon stops."""
        self._opening.cancel()

    def enable(self) -> None:
        """Let the slot work again; also ends a quarantine."""
        self._is_disabled = False
        self._troubles = 0
        if self.view.state in (SlotState.DISABLED, SlotState.QUARANTINED):
            self._display.to(SlotState.IDLE if self.host.is_open else self._unserved, failure=None, note="")
        self._floor.queue.changed.fire()

    def disable(self) -> None:
        """Take no further board, and let go of the programmer; a board that is being flashed is finished first."""
        self._is_disabled = True
        if self.view.state is not SlotState.BUSY:
            self._display.to(SlotState.DISABLED, job=None, note="disabled by hand")
        self._floor.queue.changed.fire()

    @property
    def is_usable(self) -> bool:
        """True where a job may count on this slot: it has a programmer, or one is just being opened, or it needs none."""
        if self.view.state is SlotState.VACANT:
            return self.host.port is not None and not self.settled.is_set()
        return self.view.state is not SlotState.DISABLED

    def pair(self, path: str | None) -> None:
        """Take note of where this slot's boards show up, None where nobody knows it any more."""
        self.spec = replace(self.spec, target_usb=path)
        self.board_changed()
        self._floor.queue.changed.fire()

    def board_changed(self) -> None:
        """Show who is on the port of this slot's board; whoever works there is woken by the port itself."""
        path = self.spec.target_usb
        usb = None if path is None else self._floor.tree.at(path)
        self._display.show(target_usb=path, board_usb=None if usb is None else str(usb))
        self._floor.queue.changed.fire()

    def plugged(self, event: PortEvent) -> None:
        """Take note that the programmer is there."""
        self.host.plugged(event)
        self.settled = anyio.Event()
        self._troubles = 0
        self._display.show(port=event.port, failure=None, note="its programmer is being opened")
        self._floor.queue.changed.fire()

    def in_bootloader(self, event: PortEvent, title: str) -> None:
        """Take note that the programmer runs its own bootloader; a running unit notices that it is gone."""
        self.host.in_bootloader(event, title)
        self._troubles = 0
        self._floor.queue.changed.fire()

    def unplugged(self) -> None:
        """Take note that the programmer is gone; a running unit notices by itself."""
        self.host.unplugged()
        self._troubles = 0
        self._floor.queue.changed.fire()

    def misfit(self, recipe: Recipe) -> str | None:
        """Return why the slot's programmer cannot do a job, in words; None where it can, or where nobody knows."""
        return misfit_job(recipe, self._floor.parts, self.host.interface)

    def next_job(self) -> OpenJob | None:
        """Return the oldest job that this slot should work for now."""
        return self._floor.queue.next_for(self.spec.name, lambda recipe: self.misfit(recipe) is None)

    async def use_target(self, use: Callable[[TargetInterface], Awaitable[T]]) -> T:
        """Run ``use`` on what is behind the programmer while no board is being flashed.

        Raises ``JobError`` slot-busy during a unit, and whatever opening the programmer or ``use`` raises.
        """
        if self.view.state is SlotState.BUSY:
            raise JobError(
                ErrorCode.SLOT_BUSY, f"slot {self.spec.name} is flashing a board", hint="wait until it is finished"
            )
        async with self._programmer_lock:
            try:
                target = await self.host.target()
                await self._floor.gate.begin()
                return await use(target)
            except LinkClosedError:
                await self.host.drop()
                raise
            finally:
                if self._is_disabled:
                    self._floor.queue.changed.fire()  # who stands by lets go of the programmer

    # ------------------------------------------------------------------ one turn

    async def _turn(self) -> None:
        """Do the one thing that is next; every kind of trouble with the programmer ends here.

        Raises ``IspdError`` with ``journal-failed``: without records no slot may go on.
        """
        if self._is_disabled:
            await self._stand_by()
            return
        try:
            with wall(self.spec.name):
                await self._note_misfits()
                entry = self.next_job()
                if entry is not None and entry.recipe.plan is PlanKind.CHAIN_ONLY:
                    self.settled.set()
                    await self._chain_work.serve(entry)
                    return
                if self.spec.has_programmer and not await self._open():
                    return
                self.settled.set()
                entry = self.next_job()
                if entry is None:
                    self._rest()
                    await self._floor.wait_for_change()
                elif entry.recipe.plan is not PlanKind.CHAIN_ONLY:
                    await self._work.serve(entry)
            self._troubles = 0
        except MisfitError:
            # the programmer was exchanged: the next turn tells the job
            self._display.to(self._unserved, job=None, step=None)
            await self.host.drop()
        except IspdError as error:
            if error.code is ErrorCode.JOURNAL_FAILED:
                raise
            await self._trouble(error)

    async def _note_misfits(self) -> None:
        """Tell the jobs that want this slot whether its programmer can do them."""
        queue = self._floor.queue
        for entry in queue.open_jobs:
            if self.spec.name in entry.record.slots:
                await queue.note_misfit(entry, self.spec.name, self.misfit(entry.recipe))

    async def _open(self) -> bool:
        """Open the programmer where it is not open; false where that was given up."""
        with anyio.CancelScope() as self._opening:
            async with self._programmer_lock:
                self._opened(await self.host.target())
        return not self._opening.cancelled_caught

    async def _stand_by(self) -> None:
        """Wait while disabled; a job without count is told not to wait for this slot. Other programs may have its programmer."""
        if self.view.state is not SlotState.DISABLED:
            self._display.to(SlotState.DISABLED, job=None, note="disabled by hand")
        async with self._programmer_lock:
            await self.host.drop()
        await self._note_misfits()
        entry = self.next_job()
        if entry is not None and entry.is_once:
            await self._floor.queue.note_seen(entry, self.spec.name, "the slot is disabled")
        else:
            await self._floor.wait_for_change()

    def _opened(self, target: TargetInterface) -> None:
        self.settled.set()
        identity = target.identity
        if self.view.state in (SlotState.VACANT, SlotState.QUARANTINED, SlotState.DISABLED):
            self._display.to(SlotState.IDLE, programmer=identity.kind, port=identity.port, failure=None, note="")

    def _rest(self) -> None:
        if self.view.state not in (SlotState.PASSED, SlotState.FAILED):
            self._display.to(SlotState.IDLE, job=None, step=None, progress=0.0, note="")

    async def _trouble(self, error: IspdError) -> None:
        """The programmer is missing or failing: show it, tell a job without count, and wait before trying again."""
        self.settled.set()
        self._troubles += 1
        failure = failure_of(error)
        is_gone = error.code in (ErrorCode.LINK_CLOSED, ErrorCode.PORT_NOT_FOUND) or self.host.port is None
        if not is_gone and self._troubles >= _TROUBLES_TO_QUARANTINE:
            self._display.to(SlotState.QUARANTINED, failure=failure, note="its programmer keeps failing", job=None)
        else:
            self._display.to(self._unserved, failure=failure, note=error.message, job=None, step=None)
        entry = self.next_job()
        if entry is not None and entry.is_once and self._is_hopeless(error):
            await self._floor.queue.note_seen(entry, self.spec.name, f"{error.message}; {error.hint}")
        await self.host.drop()
        is_quarantined = self.view.state is SlotState.QUARANTINED
        with anyio.move_on_after(_QUARANTINE_RETRY_S if is_quarantined else self._retry_s(is_gone=is_gone)):
            await self._floor.wait_for_change()

    def _is_hopeless(self, error: IspdError) -> bool:
        """A link lost once is opened again at once; anything else, or twice in a row, ends a job without count here."""
        if error.code is ErrorCode.PORT_NOT_FOUND and self._listing_left_s() > 0:
            return False
        return error.code is not ErrorCode.LINK_CLOSED or self._troubles > 1

    def _listing_left_s(self) -> float:
        """How long a port that comes with hotplug may still be missing because the first listing is under way."""
        return 0.0 if self.host.is_fixed else self._listing_s()

    def _listing_s(self) -> float:
        """How long what is on the machine's USB may still have to be told."""
        return max(0.0, self._listed_at - self._floor.clock.monotonic())

    def _retry_s(self, *, is_gone: bool) -> float:
        is_new = self._troubles == 0  # something came or went while the programmer was being closed
        if is_new or (is_gone and self._troubles == 1):
            return 0.0
        if self.host.port is None:
            return self._listing_left_s() or float("inf")
        return _RETRY_S
