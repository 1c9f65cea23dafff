"""Whose fault an error over a board's own USB port is."""

import pytest

from ispd.errors import (
    ErrorCode,
    IspdError,
    JobError,
    LinkClosedError,
    LocalProtocolError,
    RefusedError,
    TargetError,
    TransportError,
)
from ispd.flashing.chain_faults import may_be_board


@pytest.mark.parametrize(
    ("error", "is_boards"),
    [
        (TargetError(ErrorCode.NOT_BLANK, "x"), True),
        (TargetError(ErrorCode.TOOL_FAILED, "x"), True),
        (LinkClosedError("usb:1-1.4"), True),
        (RefusedError(ErrorCode.IMAGE_DOES_NOT_FIT, "linked for another address"), False),
        (TransportError(ErrorCode.TOOL_MISSING, "x"), False),
        (TransportError(ErrorCode.PORT_BUSY, "x"), False),
        (TargetError(ErrorCode.BOARD_UNEXPECTED, "x"), False),
        (JobError(ErrorCode.CANCELLED, "x"), False),
        (LocalProtocolError("x"), False),
    ],
)
def test_nobody_is_rescued_for_what_others_did(error: IspdError, is_boards: bool) -> None:
    """Only a board that may be ill goes to ISP: not one whose firmware, tool, port or operator is to blame."""
    assert may_be_board(error) is is_boards
