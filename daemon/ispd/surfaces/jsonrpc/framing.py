"""Where one message ends and the next begins, without any I/O.

Two framings are spoken, and the first byte of a connection that is no white space tells which:

* lines: each message on a line of its own (what ``nc`` and a shell can do);
* headers: ``Content-Length: N``, an empty line, N bytes (Language Server Protocol 3.17, "Base Protocol"), for editors.
"""

import re
from enum import Enum

from ispd.errors import ErrorCode, RefusedError

__all__ = ["MAX_HEADER_BYTES", "MAX_MESSAGE_BYTES", "Framing", "FramingKind"]

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Longest request. Holds two images of 1 MiB, the gate's limit, in base64 (4/3) and what stands around them."""

MAX_HEADER_BYTES = 1024
"""Longest header block; the two headers in use need less than a tenth of it."""

_SPACE = b" \t\r\n"
_HEADER_END = b"\r\n\r\n"
_HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*)")
_LENGTH = re.compile(rb"[0-9]{1,9}")


class FramingKind(Enum):
    """How messages are told apart."""

    LINES = "lines"
    HEADERS = "headers"


class Framing:
    """One connection's framing, both directions.

    Feed what arrives with :meth:`receive`, take messages with :meth:`next_message` until it returns None. An error is
    final: where the next message begins can not be known any more.
    """

    def __init__(self, *, max_message_bytes: int = MAX_MESSAGE_BYTES, max_header_bytes: int = MAX_HEADER_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_header_bytes = max_header_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._body_bytes: int | None = None
        self._error: RefusedError | None = None
        self.kind: FramingKind | None = None

    @property
    def has_partial(self) -> bool:
        """True while the beginning of a message is held that has not ended yet."""
        return bool(self._buffer) or self._body_bytes is not None

    def receive(self, data: bytes) -> None:
        """Take what arrived."""
        self._buffer += data

    def next_message(self) -> bytes | None:
        """Return the next whole message, None where more bytes are needed.

        Raises ``RefusedError`` with ``parse-error`` (no framing to recognise) or ``invalid-request`` (too long).
        """
        if self._error is not None:
            raise self._error
        try:
            return self._headed() if self._kind() is FramingKind.HEADERS else self._line()
        except RefusedError as error:
            self._error = error
            self._buffer.clear()
            raise

    def finish(self) -> bytes | None:
        """Return what stands before the end of the stream without a line end after it: the last line, or None.

        Raises ``RefusedError`` with ``parse-error`` where a message with a header is cut off.
        """
        if self._error is not None:
            raise self._error
        rest = bytes(self._buffer).strip(_SPACE)
        if self.kind is FramingKind.HEADERS and self.has_partial:
            self._error = RefusedError(ErrorCode.PARSE_ERROR, "the stream ended inside a message")
            raise self._error
        self._buffer.clear()
        return rest or None

    def encode(self, message: bytes) -> bytes:
        """Return ``message`` framed as the peer's are; JSON holds no raw line break, so a line is one message."""
        if self.kind is FramingKind.HEADERS:
            return b"Content-Length: %d\r\n\r\n%b" % (len(message), message)
        return message + b"\n"

    def _kind(self) -> FramingKind | None:
        if self.kind is None:
            skip = len(self._buffer) - len(self._buffer.lstrip(_SPACE))
            del self._buffer[:skip]
            if self._buffer:
                self.kind = FramingKind.HEADERS if self._buffer.startswith((b"C", b"c")) else FramingKind.LINES
        return self.kind

    def _line(self) -> bytes | None:
        while True:
            end = self._buffer.find(b"\n", self._searched, self._max_message_bytes + 1)
            if end < 0:
                self._searched = len(self._buffer)
                if len(self._buffer) > self._max_message_bytes:
                    raise _too_long(self._max_message_bytes)
                return None
            line = bytes(self._buffer[:end]).strip(_SPACE)
            del self._buffer[: end + 1]
            self._searched = 0
            if line:
                return line

    def _headed(self) -> bytes | None:
        if self._body_bytes is None and not self._take_header():
            return None
        if self._body_bytes is None or len(self._buffer) < self._body_bytes:
            return None
        body = bytes(self._buffer[: self._body_bytes])
        del self._buffer[: self._body_bytes]
        self._body_bytes = None
        return body

    def _take_header(self) -> bool:
        end = self._buffer.find(_HEADER_END, 0, self._max_header_bytes)
        if end < 0:
            if len(self._buffer) >= self._max_header_bytes:
                raise RefusedError(ErrorCode.PARSE_ERROR, f"the header is longer than {self._max_header_bytes} bytes")
            return False
        self._body_bytes = _content_length(bytes(self._buffer[:end]))
        if self._body_bytes > self._max_message_bytes:
            raise _too_long(self._max_message_bytes)
        del self._buffer[: end + len(_HEADER_END)]
        return True


def _content_length(header: bytes) -> int:
    """Return the body's length out of a header block without its closing empty line."""
    lengths: list[bytes] = []
    for line in header.split(b"\r\n"):
        match = _HEADER_LINE.fullmatch(line)
        if match is None:
            raise RefusedError(ErrorCode.PARSE_ERROR, "a header line is not of the form Name: value")
        if match[1].lower() == b"content-length":
            lengths.append(match[2].strip())
    if len(lengths) != 1 or _LENGTH.fullmatch(lengths[0]) is None:
        raise RefusedError(ErrorCode.PARSE_ERROR, "the header needs one Content-Length with a decimal number")
    return int(lengths[0])


def _too_long(limit_bytes: int) -> RefusedError:
    return RefusedError(
        ErrorCode.INVALID_REQUEST,
        f"the request is longer than {limit_bytes} bytes",
        hint="send smaller images, or several requests",
    )
