"""Legal changes of a slot's state, in one table.

A slot is ``vacant`` without a programmer, ``idle`` with one and nothing to do. Armed by a job it is ``waiting`` until a
board is seen, then ``busy``, then ``passed`` or ``failed``. When that board is taken out the slot is ``removed`` for a
moment and then ``waiting`` again. ``quarantined`` is a slot whose programmer keeps failing; ``disabled`` one a person
switched off. Work over USB alone needs no programmer: it begins on ``vacant`` and ``quarantined`` slots too.
"""

from collections.abc import Mapping

from ispd.model.station import SlotState

__all__ = ["CHANGES", "check_change"]

_S = SlotState

CHANGES: Mapping[SlotState, frozenset[SlotState]] = {
    _S.VACANT: frozenset({_S.IDLE, _S.WAITING, _S.PASSED, _S.FAILED, _S.QUARANTINED, _S.DISABLED}),
    _S.IDLE: frozenset({_S.VACANT, _S.WAITING, _S.PASSED, _S.FAILED, _S.QUARANTINED, _S.DISABLED}),
    _S.WAITING: frozenset({_S.IDLE, _S.BUSY, _S.VACANT, _S.QUARANTINED, _S.DISABLED}),
    _S.BUSY: frozenset({_S.PASSED, _S.FAILED, _S.IDLE, _S.VACANT, _S.QUARANTINED}),
    _S.PASSED: frozenset({_S.REMOVED, _S.WAITING, _S.IDLE, _S.VACANT, _S.QUARANTINED, _S.DISABLED}),
    _S.FAILED: frozenset({_S.REMOVED, _S.WAITING, _S.IDLE, _S.VACANT, _S.QUARANTINED, _S.DISABLED}),
    _S.REMOVED: frozenset({_S.WAITING, _S.IDLE, _S.VACANT, _S.QUARANTINED, _S.DISABLED}),
    _S.QUARANTINED: frozenset({_S.IDLE, _S.WAITING, _S.VACANT, _S.DISABLED}),
    _S.DISABLED: frozenset({_S.IDLE, _S.VACANT}),
}


def check_change(old: SlotState, new: SlotState) -> None:
    """Raise ``ValueError`` where a slot may not go from ``old`` to ``new``; staying is always legal."""
    if new is not old and new not in CHANGES[old]:
        raise ValueError(f"a slot cannot go from {old} to {new}")
