"""Presence: two equal looks make a board, two looks without it make an empty slot."""

import pytest

from ispd.model.part import Signature
from ispd.station.presence import Presence, PresenceChange

A = Signature(bytes.fromhex("1E9587"))
B = Signature(bytes.fromhex("1E950F"))
N, IN, R = PresenceChange.NONE, PresenceChange.INSERTED, PresenceChange.REMOVED


@pytest.mark.parametrize(
    ("looks", "changes"),
    [
        pytest.param([None, None, A, A, A], [N, N, N, IN, N], id="inserted-once"),
        pytest.param([A, None, A, A], [N, N, N, IN], id="closing-contact-bounces"),
        pytest.param([A, B, B], [N, N, IN], id="first-look-was-noise"),
        pytest.param([A, A, None, A, None, A], [N, IN, N, N, N, N], id="single-misses-are-not-removal"),
        pytest.param([A, A, None, None, A, A], [N, IN, N, R, N, IN], id="removed-and-inserted-again"),
        pytest.param([A, A, B, B, B], [N, IN, N, R, IN], id="exchanged-for-another-kind"),
    ],
)
def test_changes(looks, changes):
    presence = Presence()
    assert [presence.feed(look) for look in looks] == changes


def test_a_held_board_is_only_free_after_it_was_gone():
    presence = Presence(board=A)
    seen = [(presence.feed(look), presence.is_settled) for look in (A, None, None)]
    assert seen == [(N, True), (N, False), (R, True)]
    assert presence.board is None
