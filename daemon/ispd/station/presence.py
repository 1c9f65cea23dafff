"""Is a board there? A pure debouncer over successive looks at a slot."""

from dataclasses import dataclass
from enum import StrEnum

from ispd.model.part import Signature

__all__ = ["Presence", "PresenceChange"]


class PresenceChange(StrEnum):
    """What a look revealed."""

    NONE = "none"
    INSERTED = "inserted"
    REMOVED = "removed"


@dataclass(slots=True)
class Presence:
    """A board is there after two equal valid signatures in a row, gone after two looks that do not show that signature.

    Two looks, because a contact that is just closing or opening shows anything once. ``board`` is the signature of the
    board that is there, None while the slot is empty. ``is_settled`` tells whether the last look agreed with ``board``;
    where it did not, look again at once.
    """

    board: Signature | None = None
    _candidate: Signature | None = None
    _misses: int = 0

    @property
    def is_settled(self) -> bool:
        """False between the first and the second look of a change."""
        return self._candidate is None and self._misses == 0

    def feed(self, seen: Signature | None) -> PresenceChange:
        """Take one look into account. A board exchanged for another kind counts as removed first."""
        if self.board is None:
            if seen is not None and seen == self._candidate:
                self.board, self._candidate = seen, None
                return PresenceChange.INSERTED
            self._candidate = seen
            return PresenceChange.NONE
        if seen == self.board:
            self._misses = 0
            return PresenceChange.NONE
        self._misses += 1
        if self._misses < 2:
            return PresenceChange.NONE
        self.board, self._candidate, self._misses = None, seen, 0
        return PresenceChange.REMOVED
