"""Presence: two equal looks make a board, two looks without it make an empty slot; serial numbers tell boards apart."""

import pytest

from ispd.model.part import Signature
from ispd.station.presence import Presence, PresenceChange, Seen

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
    presence = Presence(board=Seen(A))
    seen = [(presence.feed(look), presence.is_settled) for look in (A, None, None)]
    assert seen == [(N, True), (N, False), (R, True)]
    assert presence.board is None


X, Y, Z = "0673FF485753", "0673FF485754", "0673FF485755"
ZEROS, ONES = "00" * 6, "ff" * 6


@pytest.mark.parametrize(
    ("ids", "changes"),
    [
        pytest.param([X, X, X, Y, Y, Y], [N, IN, N, N, R, IN], id="exchanged-between-two-looks"),
        pytest.param([X, Y, Y], [N, N, IN], id="exchanged-while-it-was-put-on"),
        pytest.param([X, X, Y, X, Z, Y, X], [N, IN, N, N, N, N, N], id="reads-otherwise-now-and-then"),
        pytest.param([None, None, X, X, Y, Y], [N, IN, N, N, N, R], id="told-only-after-its-protection-was-removed"),
        pytest.param([X, X, None, None, X], [N, IN, N, N, N], id="no-longer-told"),
        pytest.param([X, X, ZEROS, ZEROS, ONES, ONES], [N, IN, N, N, N, N], id="unread-bits-are-no-number"),
        pytest.param([ZEROS, ZEROS, X, X], [N, IN, N, N], id="zeros-first"),
    ],
)
def test_boards_of_one_kind_are_told_apart_by_their_serial_numbers(ids, changes):
    presence = Presence()
    assert [presence.feed(A, unique_id) for unique_id in ids] == changes


def test_after_a_restart_the_held_board_is_known_by_its_serial_number():
    for held, seen, changes in ((X, X, [N, N, N]), (X, Y, [N, R, IN]), (None, Y, [N, N, N]), (X, None, [N, N, N])):
        presence = Presence(board=Seen(A, held))
        assert [presence.feed(A, seen) for _ in range(3)] == changes
