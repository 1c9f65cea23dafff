"""What every request-and-reply protocol has in common: a request is a value that knows its bytes and its answer.

A :class:`Request` never sees a port. It encodes itself, tells from the bytes that arrived so far how many are certainly
still missing, and decodes its complete reply. Feeding ``missing`` bytes at a time can therefore never eat into the
next reply, whatever the chunks in which a line delivers.
"""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ispd.errors import LocalProtocolError

__all__ = ["Chain", "Request", "complete_length"]

R_co = TypeVar("R_co", covariant=True)


class Request(Protocol[R_co]):
    """One request as a frozen value."""

    def encode(self) -> bytes:
        """Return the bytes to send. Raises ``LocalProtocolError`` where the protocol cannot carry the request."""

    def missing(self, reply: bytes) -> int:
        """Return how many bytes the reply lacks at least; 0 when ``reply`` is complete.

        ``reply`` starts at the first byte of the reply and never holds more than the reply. At least 1 for no bytes.
        """

    def decode(self, reply: bytes) -> R_co:
        """Return the meaning of a complete reply. Raises ``RemoteProtocolError`` where it has none."""


@dataclass(frozen=True, slots=True)
class Chain(Generic[R_co]):
    """Requests that are sent as one; its reply is the last one's, the others must only succeed."""

    before: tuple[Request[object], ...]
    last: Request[R_co]

    def __post_init__(self) -> None:
        if not self.before:
            raise LocalProtocolError("a chain has at least two requests")

    def encode(self) -> bytes:
        """Return the bytes of all requests in order."""
        return b"".join(request.encode() for request in (*self.before, self.last))

    def missing(self, reply: bytes) -> int:
        """Return what the first incomplete reply lacks, and at least one byte for each reply behind it."""
        behind = len(self.before)
        for request in (*self.before, self.last):
            size = complete_length(request, reply)
            if size is None:
                return request.missing(reply) + behind
            reply = reply[size:]
            behind -= 1
        return 0

    def decode(self, reply: bytes) -> R_co:
        """Check each reply and return the last one's meaning. Raises ``RemoteProtocolError`` of the first that fails."""
        for request in self.before:
            size = complete_length(request, reply)
            request.decode(reply[:size])
            reply = reply[size:]
        return self.last.decode(reply)


def complete_length(request: Request[object], data: bytes) -> int | None:
    """Return the length of the request's reply at the start of ``data``, None where it is incomplete."""
    size = 0
    while (need := request.missing(data[:size])) > 0:
        size += need
        if size > len(data):
            return None
    return size
