"""What can go wrong on this side of the socket. Each error knows its exit code."""

from typing import Any

__all__ = [
    "ClientError",
    "DaemonGoneError",
    "NoDaemonError",
    "NotAllowedError",
    "RefusedFileError",
    "RpcError",
    "WaitTimeoutError",
]


class ClientError(Exception):
    """Something to tell the user, and the exit code that goes with it.

    The numbers are those of ``ispd.api.failures.Exit``, which is not imported here: most runs of the command need no error.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NoDaemonError(ClientError):
    """Nobody answers at the socket."""

    exit_code = 3


class DaemonGoneError(NoDaemonError):
    """The connection ended while something was still expected from it."""


class NotAllowedError(ClientError):
    """The socket may not be opened by this user."""

    exit_code = 4


class RefusedFileError(ClientError):
    """A file can not be used."""

    exit_code = 2


class WaitTimeoutError(ClientError):
    """What was waited for did not happen in time."""

    exit_code = 5


class RpcError(ClientError):
    """The daemon's answer is an error. ``code`` is the stable word, ``data`` everything that came with it."""

    def __init__(self, message: str, data: dict[str, Any]) -> None:
        super().__init__(message, hint=str(data.get("hint", "")))
        self.code = str(data.get("code", "internal"))
        self.data = data

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # a fixed number in the other errors
        """The exit code that belongs to the error's code."""
        from ispd.api.failures import exit_for  # only where there is an error: keeps the quick path quick

        return int(exit_for(self.code))
