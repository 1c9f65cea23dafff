"""What all control requests share."""

import pytest

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.control import require_range, take


def test_numbers_that_do_not_fit_are_our_own_mistake() -> None:
    assert [require_range(value, 3, "number") for value in (0, 2)] == [0, 2]
    for value in (-1, 3):
        with pytest.raises(LocalProtocolError, match="number"):
            require_range(value, 3, "number")


def test_answers_of_another_length_are_the_devices() -> None:
    assert take(b"", 0, "NOTHING") == b""
    assert take(b"\x01\x02", 2, "PAIR") == b"\x01\x02"
    for reply in (b"\x01", b"\x01\x02\x03"):
        with pytest.raises(RemoteProtocolError, match="PAIR") as wrong:
            take(reply, 2, "PAIR")
        assert "re-plug" in wrong.value.hint
