"""What one slot shows: its state, by the table of legal changes, and everything clients see beside it."""

from dataclasses import replace

from ispd.model.job import Unit, Verdict
from ispd.model.station import Slot, SlotState
from ispd.station.events import EventHub
from ispd.station.slot_state import check_change

__all__ = ["SlotDisplay"]


class SlotDisplay:
    """Holds ``view`` and publishes each change of it."""

    def __init__(self, view: Slot, events: EventHub) -> None:
        self.view = view
        self._events = events

    @property
    def state(self) -> SlotState:
        """The slot's state."""
        return self.view.state

    def to(self, state: SlotState, **fields: object) -> None:
        """Change the state, and fields with it; raises ``ValueError`` where the state may not follow."""
        check_change(self.view.state, state)
        self.show(state=state, **fields)

    def show(self, **fields: object) -> None:
        """Change fields of the view."""
        view = replace(self.view, **fields)  # type: ignore[arg-type]  # names of Slot's own fields
        if view != self.view:
            self.view = view
            self._events.publish(view)

    def arm(self, job: int) -> None:
        """Show that the slot waits for a board of ``job``; nothing of the last board is left."""
        self.to(
            SlotState.WAITING,
            job=job,
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

    def begin(self, job: int, **fields: object) -> None:
        """Show that a board of ``job`` is being flashed."""
        if self.state is SlotState.IDLE:  # switched off and on again while the board was looked at
            self.arm(job)
        self.to(SlotState.BUSY, job=job, **fields)

    def verdict(self, unit: Unit) -> None:
        """Show how a board ended."""
        is_passed = unit.verdict is Verdict.PASSED
        self.to(
            SlotState.PASSED if is_passed else SlotState.FAILED,
            failure=unit.failure,
            step=None,
            progress=1.0 if is_passed else self.view.progress,
            passed=self.view.passed + is_passed,
            failed=self.view.failed + (not is_passed),
        )
