"""Is a board there, and still the same one? A pure debouncer over successive looks at a slot."""

from dataclasses import dataclass
from enum import StrEnum

from ispd.model.part import Signature

__all__ = ["Presence", "PresenceChange", "Seen", "told"]


class PresenceChange(StrEnum):
    """What a look revealed."""

    NONE = "none"
    INSERTED = "inserted"
    REMOVED = "removed"


def told(unique_id: str | None) -> str | None:
    """Return a chip's serial number, None where it says nothing: all bytes 00 or FF are what unset or unread bits look like."""
    return None if unique_id is None or set(unique_id.upper()) in ({"0"}, {"F"}, set()) else unique_id


@dataclass(frozen=True, slots=True)
class Seen:
    """A board as a look sees it. ``unique_id`` is None where the chip has none, or did not tell it (yet)."""

    signature: Signature
    unique_id: str | None = None

    def may_be(self, other: "Seen") -> bool:
        """Tell whether both may be one board: only two different serial numbers tell boards of one kind apart."""
        return self.signature == other.signature and (
            self.unique_id is None or other.unique_id is None or self.unique_id == other.unique_id
        )

    def told_again(self, unique_id: str | None) -> "Seen":
        """Return this board with a serial number that was read later and is right; None: it told none."""
        return Seen(self.signature, told(unique_id) or self.unique_id)

    def known_as(self, other: "Seen") -> "Seen":
        """Return this board with what ``other``, the same one, tells."""
        return Seen(self.signature, self.unique_id or other.unique_id)


@dataclass(slots=True)
class Presence:
    """A board is there after two equal valid looks in a row, gone after two looks that do not show it.

    Two looks, because a contact that is just closing or opening shows anything once. ``board`` is the board that is there, None while the
    slot is empty. ``is_settled`` tells whether the last look agreed with ``board``; where it did not, look again at once.

    A board of the same kind counts as another one only where both looks told the same other serial number: what reads differently each
    time is a bad contact.
    """

    board: Seen | None = None
    _candidate: Seen | None = None
    _misses: int = 0

    @property
    def is_settled(self) -> bool:
        """False between the first and the second look of a change."""
        return self._candidate is None and self._misses == 0

    def feed(self, signature: Signature | None, unique_id: str | None = None) -> PresenceChange:
        """Take one look into account. A board exchanged for another one counts as removed first."""
        seen = None if signature is None else Seen(signature, told(unique_id))
        before, self._candidate = self._candidate, seen
        is_again = seen is not None and before is not None and before.may_be(seen)
        if self.board is None:
            if seen is None or before is None or not is_again:
                return PresenceChange.NONE
            self.board, self._candidate = before.known_as(seen), None
            return PresenceChange.INSERTED
        if seen is not None and self.board.may_be(seen):
            self.board, self._candidate, self._misses = self.board.known_as(seen), None, 0
            return PresenceChange.NONE
        self._misses += 1
        is_same_kind = seen is not None and seen.signature == self.board.signature
        if self._misses < 2 or (is_same_kind and not is_again):
            return PresenceChange.NONE
        self.board, self._misses = None, 0
        return PresenceChange.REMOVED
