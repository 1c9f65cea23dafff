"""One slot at a job: looks for boards, flashes each once with its record around it, and waits until it was taken out."""

from collections.abc import Callable

import anyio

from ispd.catalog.split import VIA_BOOTLOADER
from ispd.errors import ErrorCode, IspdError, LinkClosedError
from ispd.flashing.interface import Sighting, TargetInterface
from ispd.flashing.observer import UnitOutcome
from ispd.flashing.sck import LookTurns
from ispd.flashing.signature import fixed_sck_hint
from ispd.model.job import Unit, Verdict
from ispd.model.part import Signature
from ispd.model.station import SlotState
from ispd.station.fitting import fitting_target, misfit
from ispd.station.floor import Floor
from ispd.station.presence import Presence, PresenceChange, Seen, told
from ispd.station.programmer_host import ProgrammerHost
from ispd.station.queue import OpenJob
from ispd.station.slot_display import SlotDisplay
from ispd.station.unit_flasher import UnitFlasher

__all__ = ["SlotWork"]

_LOOK_INTERVAL_S = 0.15  # between two looks at a settled slot; a look itself takes about 0.1 s on an ArduinoISP
_CONFIRM_INTERVAL_S = 0.02  # a change is confirmed at once
_LOOKS_ONCE = 4  # looks a job without count spends at least on a slot that shows nothing stable


class SlotWork:
    """Serves one job after the other on one slot.

    :param programmer_lock: held while the programmer is used.
    :param is_disabled: true once a person switched the slot off: no further board is begun.
    """

    def __init__(
        self,
        host: ProgrammerHost,
        floor: Floor,
        display: SlotDisplay,
        flasher: UnitFlasher,
        *,
        programmer_lock: anyio.Lock,
        is_disabled: Callable[[], bool],
    ) -> None:
        self._host = host
        self._floor = floor
        self._display = display
        self._flasher = flasher
        self._programmer_lock = programmer_lock
        self._is_disabled = is_disabled
        self._turns = LookTurns()
        self._turns_of = ""
        """Kind of programmer whose rungs they are."""
        self._meets_anew = False

    @property
    def _slot(self) -> str:
        return self._display.view.name

    async def serve(self, entry: OpenJob) -> None:
        """Work for a job until the slot is through with it, or another thing comes first.

        Raises what concerns the programmer or its link, and ``journal-failed``.
        """
        await (self._serve_once(entry) if entry.is_once else self._serve_count(entry))

    async def _serve_once(self, entry: OpenJob) -> None:
        """Flash the board that is there now, once; or note what was seen."""
        self._display.arm(entry.record.id)
        self._forget_clock()
        presence = Presence()
        sighting = await self._look(entry)
        looks = 1
        while _feed(presence, sighting) is not PresenceChange.INSERTED and looks < await self._looks(entry):
            sighting = await self._look(entry)
            looks += 1
        if self._is_disabled():
            return
        if presence.board is not None and entry.reserve(self._slot):
            await self._flash(entry, presence.board, sighting)
        elif entry.wants(self._slot):
            seen = describe(sighting, entry.recipe.sck_hz)
            await self._floor.queue.note_seen(entry, self._slot, seen)
            self._display.to(SlotState.IDLE, note=seen, job=None)

    async def _looks(self, entry: OpenJob) -> int:
        """Return how many looks a slot deserves before it counts as empty: each rung once, and one to confirm."""
        rungs = await self._rungs(entry, entry.recipe.sck_hz)
        return max(_LOOKS_ONCE, self._turns.round_looks(rungs) + 1)

    async def _rungs(self, entry: OpenJob, fixed_hz: int | None = None) -> tuple[int | None, ...]:
        async with self._programmer_lock:
            return (await self._target(entry)).rungs(fixed_hz)

    async def _serve_count(self, entry: OpenJob) -> None:
        """Meet board after board until the job is through or the slot is taken away from it.

        A board is held once it has its verdict (from before a restart, too): untouched until it was taken out.
        """
        last = entry.last_units.get(self._slot)
        presence = Presence(board=board_of(last))
        is_held = presence.board is not None
        if is_held and last is not None and last.sck_hz is not None:
            rungs = await self._rungs(entry)
            self._turns.settle(rungs, last.sck_hz)
        if not is_held:
            self._display.arm(entry.record.id)
        while self._may_go_on(entry):
            if is_held and self._is_seen_over_usb(entry):
                await self._floor.wait_for_change()
                continue
            sighting = await self._look(entry)
            change = _feed(presence, sighting)
            if change is PresenceChange.REMOVED:
                is_held = False
                self._forget_clock()
                if self._is_disabled():
                    break
                if self._display.state in (SlotState.PASSED, SlotState.FAILED):
                    self._display.to(SlotState.REMOVED)
                self._display.arm(entry.record.id)
            if presence.board is not None and not is_held and not self._is_disabled() and entry.reserve(self._slot):
                is_held = True
                unit = await self._flash(entry, presence.board, sighting)
                presence.board = presence.board.told_again(unit.unique_id)
            with anyio.move_on_after(_LOOK_INTERVAL_S if presence.is_settled else _CONFIRM_INTERVAL_S):
                await self._floor.wait_for_change()

    def _may_go_on(self, entry: OpenJob) -> bool:
        is_fit = misfit(entry.recipe, self._floor.parts, self._host.interface) is None
        return is_fit and entry.wants(self._slot) and not self._is_disabled() and not self._floor.is_stopping()

    def _is_seen_over_usb(self, entry: OpenJob) -> bool:
        """Tell whether a finished board shows on its own port: then nobody has to reset it to see that it is still there."""
        path = self._display.view.target_usb
        return path is not None and entry.recipe.plan in VIA_BOOTLOADER and self._floor.tree.at(path) is not None

    async def _look(self, entry: OpenJob) -> Sighting:
        async with self._programmer_lock:
            target = await self._target(entry)
            async with self._floor.gate.resetting():
                sighting = await target.look(self._turns.take(target.rungs(entry.recipe.sck_hz)))
        if sighting.signature is not None and entry.recipe.sck_hz is None:
            self._turns.answered(sighting.rung_hz)
        return sighting

    def _forget_clock(self) -> None:
        """Ask another board from the top of the ladder, where each is met so."""
        if self._meets_anew:
            self._turns = LookTurns()

    async def _target(self, entry: OpenJob) -> TargetInterface:
        """Return what is behind the programmer; what was learnt about the rungs of another kind of programmer is forgotten."""
        target = await fitting_target(self._host, entry.recipe, self._floor.parts)
        if target.identity.kind != self._turns_of:
            self._turns, self._turns_of = LookTurns(), target.identity.kind
            self._meets_anew = target.meets_anew
        return target

    # ------------------------------------------------------------------ one board

    async def _flash(self, entry: OpenJob, board: Seen, sighting: Sighting) -> Unit:
        """Flash one reserved board, with its record around it, and return that."""
        self._display.begin(entry.record.id, signature=str(board.signature))
        async with self._programmer_lock:
            target = await self._target_for(entry)
            # which clock a look met the board at first is chance: looks take turns
            rung_hz = None if target.meets_anew else sighting.rung_hz
            flashed = await self._flasher.flash(entry, board=board, rung_hz=rung_hz)
        unit = flashed.unit
        await self._learn(entry, target, unit, flashed.outcome)
        if unit.failure is not None and unit.failure.code == ErrorCode.LINK_CLOSED:
            raise LinkClosedError(self._host.port or self._slot)
        if unit.failure is not None and unit.failure.code == ErrorCode.INTERNAL:
            raise IspdError(ErrorCode.INTERNAL, unit.failure.message, hint=unit.failure.hint)
        return unit

    async def _target_for(self, entry: OpenJob) -> TargetInterface:
        """Make sure of the programmer before the intent is recorded; give the reservation back where there is none."""
        try:
            return await self._target(entry)
        except BaseException:  # also what nobody foresaw: a reservation that stays keeps its job open for ever
            self._floor.queue.abandon(entry, self._slot)
            raise

    async def _learn(self, entry: OpenJob, target: TargetInterface, unit: Unit, outcome: UnitOutcome) -> None:
        """Keep what the board showed about SCK: for the next look at it, and for the next boards."""
        if unit.sck_hz is not None and entry.recipe.sck_hz is None:
            self._turns.settle(target.rungs(), unit.sck_hz)
        if unit.verdict is not Verdict.PASSED:
            return
        journal = self._floor.journal
        if outcome.found_sck is not None:
            await journal.remember_sck(self._slot, target.identity.kind, outcome.found_sck)
        elif entry.recipe.sck_hz is not None and unit.part is not None:
            await journal.forget_sck(self._slot, unit.part)


def describe(sighting: Sighting, fixed_hz: int | None) -> str:
    """Put what a look showed into words; ``fixed_hz`` is the SCK that the recipe fixes."""
    if sighting.signature is not None:
        return f"signature {sighting.signature}, not twice in a row; use a slower clock, shorten the wires, press the contacts on"
    if sighting.failure is not None:
        fixed = "" if fixed_hz is None else f"{fixed_sck_hint(fixed_hz)}; "
        return f"{sighting.failure.message}; {fixed}{sighting.failure.hint}"
    return sighting.words


def _feed(presence: Presence, sighting: Sighting) -> PresenceChange:
    return presence.feed(sighting.signature, sighting.unique_id)


def board_of(unit: Unit | None) -> Seen | None:
    """Return a board that has its verdict and may still be there; None where the slot is free."""
    if unit is None or unit.signature is None or unit.verdict in (None, Verdict.INTERRUPTED):
        return None
    return Seen(Signature.parse(unit.signature), told(unit.unique_id))
