"""The one mapping from an error code to what each surface shows: a JSON-RPC number and an exit code of the command line.

Numbers outside -32768..-32000 are the application's own (JSON-RPC 2.0, section 5.1). They are stable: a code keeps its
number for ever, new codes get new ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from ispd.errors import ErrorCode

__all__ = ["FAILURES", "Exit", "FailureClass", "exit_for", "is_refusal"]


class Exit(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    NO_DAEMON = 3
    NOT_ALLOWED = 4
    TIMED_OUT = 5


@dataclass(frozen=True, slots=True)
class FailureClass:
    """How one error code is shown: ``rpc`` is the JSON-RPC error number, ``exit`` the command line's exit code."""

    rpc: int
    exit: Exit


_REFUSED = Exit.REFUSED
_FAILED = Exit.FAILED
_C = ErrorCode

FAILURES: Mapping[ErrorCode, FailureClass] = MappingProxyType(
    {
        # numbers fixed by JSON-RPC 2.0, section 5.1
        _C.PARSE_ERROR: FailureClass(-32700, _REFUSED),
        _C.INVALID_REQUEST: FailureClass(-32600, _REFUSED),
        _C.UNKNOWN_METHOD: FailureClass(-32601, _REFUSED),
        _C.INVALID_PARAMETER: FailureClass(-32602, _REFUSED),
        _C.INTERNAL: FailureClass(-32603, _FAILED),
        # 10xx: refused input
        _C.IMAGE_INVALID: FailureClass(1001, _REFUSED),
        _C.IMAGE_TOO_LARGE: FailureClass(1002, _REFUSED),
        _C.IMAGE_OVERLAP: FailureClass(1003, _REFUSED),
        _C.IMAGE_DOES_NOT_FIT: FailureClass(1004, _REFUSED),
        _C.IMAGE_FUSE_MISMATCH: FailureClass(1005, _REFUSED),
        _C.RECIPE_INVALID: FailureClass(1006, _REFUSED),
        _C.CHECKSUM_MISMATCH: FailureClass(1007, _REFUSED),
        _C.UNKNOWN_PART: FailureClass(1008, _REFUSED),
        _C.UNKNOWN_BOOTLOADER: FailureClass(1009, _REFUSED),
        _C.FUSE_REFUSED: FailureClass(1010, _REFUSED),
        _C.FUSE_CONFIRM: FailureClass(1011, _REFUSED),
        # 11xx: queue and station
        _C.UNKNOWN_JOB: FailureClass(1101, _REFUSED),
        _C.UNKNOWN_UNIT: FailureClass(1102, _REFUSED),
        _C.UNKNOWN_SLOT: FailureClass(1103, _REFUSED),
        _C.JOB_ENDED: FailureClass(1104, _REFUSED),
        _C.NO_SLOT: FailureClass(1105, _REFUSED),
        _C.SLOT_BUSY: FailureClass(1106, _FAILED),
        _C.CANCELLED: FailureClass(1107, _FAILED),
        _C.INTERRUPTED: FailureClass(1108, _FAILED),
        # 12xx: links and programmers
        _C.LINK_CLOSED: FailureClass(1201, _FAILED),
        _C.LINK_TIMEOUT: FailureClass(1202, _FAILED),
        _C.PERMISSION_DENIED: FailureClass(1203, _FAILED),
        _C.PORT_BUSY: FailureClass(1204, _FAILED),
        _C.PORT_NOT_FOUND: FailureClass(1205, _FAILED),
        _C.PROTOCOL_LOCAL: FailureClass(1206, _FAILED),
        _C.PROTOCOL_REMOTE: FailureClass(1207, _FAILED),
        _C.PROGRAMMER_SILENT: FailureClass(1208, _FAILED),
        _C.PROGRAMMER_IS_BOOTLOADER: FailureClass(1209, _FAILED),
        _C.PROGRAMMER_CANNOT: FailureClass(1210, _FAILED),
        # 13xx: target
        _C.TARGET_NOT_RESPONDING: FailureClass(1301, _FAILED),
        _C.SIGNATURE_UNKNOWN: FailureClass(1302, _FAILED),
        _C.SIGNATURE_UNSTABLE: FailureClass(1303, _FAILED),
        _C.SIGNATURE_MISMATCH: FailureClass(1304, _FAILED),
        _C.TARGET_BUSY: FailureClass(1305, _FAILED),
        _C.TARGET_LOST: FailureClass(1306, _FAILED),
        _C.VERIFY_MISMATCH: FailureClass(1307, _FAILED),
        _C.ERASE_FAILED: FailureClass(1308, _FAILED),
        _C.FUSE_MISMATCH: FailureClass(1309, _FAILED),
        _C.LOCK_MISMATCH: FailureClass(1310, _FAILED),
        _C.TARGET_LOCKED: FailureClass(1311, _FAILED),
        _C.NOT_BLANK: FailureClass(1312, _FAILED),
        # 15xx: the board's own USB port
        _C.NOT_PAIRED: FailureClass(1501, _REFUSED),
        _C.BOOTLOADER_NOT_SEEN: FailureClass(1502, _FAILED),
        _C.BOARD_UNEXPECTED: FailureClass(1503, _FAILED),
        _C.APPLICATION_NOT_SEEN: FailureClass(1504, _FAILED),
        _C.TOOL_MISSING: FailureClass(1505, _FAILED),
        _C.TOOL_FAILED: FailureClass(1506, _FAILED),
        _C.NOTHING_TO_RESCUE: FailureClass(1507, _REFUSED),
        # 14xx: the daemon itself
        _C.CONFIG_INVALID: FailureClass(1401, _REFUSED),
        _C.JOURNAL_FAILED: FailureClass(1402, _FAILED),
        _C.NOT_ALLOWED: FailureClass(1403, Exit.NOT_ALLOWED),
        _C.TOO_MANY_CLIENTS: FailureClass(1404, Exit.NO_DAEMON),
    }
)


def exit_for(code: str) -> Exit:
    """Return the exit code for an error's ``code`` as it came over the wire; an unknown one counts as a failure."""
    try:
        return FAILURES[ErrorCode(code)].exit
    except ValueError:
        return Exit.FAILED


def is_refusal(code: str) -> bool:
    """Tell whether ``code`` says that the input was refused, so that the boards are not to blame."""
    return exit_for(code) is Exit.REFUSED
