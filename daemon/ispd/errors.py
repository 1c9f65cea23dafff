"""Closed error codes and the one exception tree of the daemon (floor 0: imports nothing of ours).

::

    IspdError(code, message, hint, facts)
     ├─ ConfigError          the configuration file is wrong
     ├─ RefusedError         input refused before anything was touched (image, fuses, recipe, parameters)
     ├─ TransportError       a link could not be opened, or broke
     │   ├─ LinkClosedError      the port vanished
     │   └─ LinkTimeoutError     the peer stayed silent past the deadline
     ├─ ProtocolError
     │   ├─ LocalProtocolError   we asked for something the protocol cannot carry: a bug of ours
     │   └─ RemoteProtocolError  the programmer answered something its protocol does not allow
     ├─ ProgrammerError      the programmer is not what it should be, or cannot do this
     ├─ TargetError          the chip on the slot did not do what was asked
     └─ JobError             the queue cannot do this (unknown job, slot in use ..)

Every error carries a code from :class:`ErrorCode`, one sentence for a person, and the operator's next move.
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "ConfigError",
    "ErrorCode",
    "Facts",
    "IspdError",
    "JobError",
    "LinkClosedError",
    "LinkTimeoutError",
    "LocalProtocolError",
    "ProgrammerError",
    "ProtocolError",
    "RefusedError",
    "RemoteProtocolError",
    "TargetError",
    "TransportError",
]


class ErrorCode(StrEnum):
    """What went wrong, in one word that clients may rely on. The list only grows."""

    # requests that are none
    PARSE_ERROR = "parse-error"
    INVALID_REQUEST = "invalid-request"
    UNKNOWN_METHOD = "unknown-method"
    # refused input
    INVALID_PARAMETER = "invalid-parameter"
    IMAGE_INVALID = "image-invalid"
    IMAGE_TOO_LARGE = "image-too-large"
    IMAGE_OVERLAP = "image-overlap"
    IMAGE_DOES_NOT_FIT = "image-does-not-fit"
    IMAGE_FUSE_MISMATCH = "image-fuse-mismatch"
    RECIPE_INVALID = "recipe-invalid"
    CHECKSUM_MISMATCH = "checksum-mismatch"
    UNKNOWN_PART = "unknown-part"
    UNKNOWN_BOOTLOADER = "unknown-bootloader"
    FUSE_REFUSED = "fuse-refused"
    FUSE_CONFIRM = "fuse-confirm"
    # queue and station
    UNKNOWN_JOB = "unknown-job"
    UNKNOWN_UNIT = "unknown-unit"
    UNKNOWN_SLOT = "unknown-slot"
    JOB_ENDED = "job-ended"
    NO_SLOT = "no-slot"
    SLOT_BUSY = "slot-busy"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    # links and programmers
    LINK_CLOSED = "link-closed"
    LINK_TIMEOUT = "link-timeout"
    PERMISSION_DENIED = "permission-denied"
    PORT_BUSY = "port-busy"
    PORT_NOT_FOUND = "port-not-found"
    PROTOCOL_LOCAL = "protocol-local"
    PROTOCOL_REMOTE = "protocol-remote"
    PROGRAMMER_SILENT = "programmer-silent"
    PROGRAMMER_IS_BOOTLOADER = "programmer-is-bootloader"
    PROGRAMMER_CANNOT = "programmer-cannot"
    # target
    TARGET_NOT_RESPONDING = "target-not-responding"
    SIGNATURE_UNKNOWN = "signature-unknown"
    SIGNATURE_UNSTABLE = "signature-unstable"
    SIGNATURE_MISMATCH = "signature-mismatch"
    TARGET_BUSY = "target-busy"
    TARGET_LOST = "target-lost"
    VERIFY_MISMATCH = "verify-mismatch"
    ERASE_FAILED = "erase-failed"
    NOT_BLANK = "not-blank"
    FUSE_MISMATCH = "fuse-mismatch"
    LOCK_MISMATCH = "lock-mismatch"
    TARGET_LOCKED = "target-locked"
    # the board's own USB port
    NOT_PAIRED = "not-paired"
    BOOTLOADER_NOT_SEEN = "bootloader-not-seen"
    BOARD_UNEXPECTED = "board-unexpected"
    APPLICATION_NOT_SEEN = "application-not-seen"
    TOOL_MISSING = "tool-missing"
    TOOL_FAILED = "tool-failed"
    NOTHING_TO_RESCUE = "nothing-to-rescue"
    # the daemon itself
    CONFIG_INVALID = "config-invalid"
    JOURNAL_FAILED = "journal-failed"
    NOT_ALLOWED = "not-allowed"
    TOO_MANY_CLIENTS = "too-many-clients"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where it happened. Addresses are byte addresses; expected and actual are byte values under their mask."""

    slot: str | None = None
    part: str | None = None
    memory: str | None = None
    address: int | None = None
    expected: int | None = None
    actual: int | None = None
    field: str | None = None


class IspdError(Exception):
    """Base of every error the daemon raises on purpose.

    :param code: member of the closed list.
    :param message: one sentence naming what is wrong; safe to show to any client.
    :param hint: the operator's next move; empty where the message says it all.
    :param facts: typed details, for records and for machines.
    """

    def __init__(self, code: ErrorCode, message: str, *, hint: str = "", facts: Facts | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.facts = facts or Facts()


class ConfigError(IspdError):
    """The configuration file names something impossible; nothing was started."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(ErrorCode.CONFIG_INVALID, message, hint=hint)


class RefusedError(IspdError):
    """Input was refused before any board was touched."""


class TransportError(IspdError):
    """A link could not be opened or used."""


class LinkClosedError(TransportError):
    """The port vanished: unplugged, or closed by its other end."""

    def __init__(self, port: str) -> None:
        super().__init__(
            ErrorCode.LINK_CLOSED,
            f"the programmer on {port} was disconnected",
            hint="check the programmer's USB cable and hub, then plug it in again",
        )


class LinkTimeoutError(TransportError):
    """The peer stayed silent past the deadline; what it answered until then is lost."""

    def __init__(self, port: str, waited_s: float) -> None:
        super().__init__(
            ErrorCode.LINK_TIMEOUT,
            f"the programmer on {port} did not answer within {waited_s:.1f} s",
            hint="re-plug the programmer; if it happens again check its firmware, and the baud rate of a serial one",
        )


class ProtocolError(IspdError):
    """Never raised itself: see the two kinds."""


class LocalProtocolError(ProtocolError):
    """We tried to say something the protocol cannot carry. Always a bug on our side."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.PROTOCOL_LOCAL, message, hint="report this as a bug, with the log")


class RemoteProtocolError(ProtocolError):
    """The programmer answered outside its protocol; after a re-synchronisation the link can be used again.

    :param is_usb: it is a USB device, which has no framing to lose, only its state.
    """

    def __init__(self, message: str, *, is_usb: bool = False) -> None:
        hint = (
            "the programmer forgot where it was: flash the board again; if it happens again re-plug it, without a hub"
            if is_usb
            else "framing was lost: check the baud rate, and that no other program uses the port"
        )
        super().__init__(ErrorCode.PROTOCOL_REMOTE, message, hint=hint)


class ProgrammerError(IspdError):
    """The programmer is not what it should be, or lacks a capability."""


class TargetError(IspdError):
    """The chip on the slot did not do what was asked."""


class JobError(IspdError):
    """The queue or the station cannot do this."""
