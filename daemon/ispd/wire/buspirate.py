"""The Bus Pirate's binary modes as bytes: raw bit-bang ("BBIO") and raw SPI, every command as a value.

Sources: ``SPI.c``, ``binIO.c`` and ``binIOhelpers.c`` of the stock firmware (DangerousPrototypes/Bus_Pirate 6.3), ``spi.c``
and ``binary_io.c`` of the community firmware (BusPirate/Bus_Pirate 7.1 and 8.0). A good reply begins with 01, a refusal
is 00. ``04`` is never used: it moves CS, which is the target's reset. ``05`` is never used without a byte to read: some
firmwares of 2019 to 2024 do not answer then at all.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.engine import Request, complete_length

__all__ = [
    "BITBANG_REPLY",
    "MAX_BULK_BYTES",
    "READ_LIMIT",
    "SPI_REPLY",
    "TO_TERMINAL",
    "AskExtended",
    "Bitbang",
    "Bulk",
    "Marked",
    "Peripherals",
    "Pins",
    "ReadFlash",
    "Remainder",
    "Speed",
    "SpiMode",
    "WriteThenRead",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

BITBANG_REPLY: Final = b"BBIO1"
SPI_REPLY: Final = b"SPI1"
TO_TERMINAL: Final = b"\x0f"
"""In bit-bang mode: answer 01, then reset (v3) or go back to the text terminal (v4); the rate is 115200 again."""

MAX_BULK_BYTES: Final = 16
READ_LIMIT: Final = 0xFFFF
"""``06 02`` refuses where word address plus byte count is more than this."""

_OK: Final = 0x01
_REFUSED_COMMAND: Final = b"\x0a"
"""No command of SPI mode in any firmware: answered 00."""

_LENGTH_LIMIT: Final = 4096
"""Buffer of the stock firmware, for the written and for the read bytes of ``05``."""


def _refuse(reply: bytes, name: str) -> None:
    """Raise ``RemoteProtocolError`` unless the reply begins with 01."""
    if reply[0] != _OK:
        raise RemoteProtocolError(f"the Bus Pirate answered {name} with 0x{reply[0]:02X}, not with 0x01")


class _Named:
    """A command answered by a fixed text."""

    __slots__ = ()
    _code: bytes
    _text: bytes

    def encode(self) -> bytes:
        """Return the one byte of the command."""
        return self._code

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return max(0, len(self._text) - len(reply))

    def decode(self, reply: bytes) -> None:
        """Raise ``RemoteProtocolError`` unless the mode named itself."""
        if reply != self._text:
            raise RemoteProtocolError(f"the Bus Pirate answered {reply!r} where {self._text!r} was due")


@dataclass(frozen=True, slots=True)
class Bitbang(_Named):
    """``00``: leave SPI for bit-bang mode, or stay there. All pins become inputs and the supplies are switched off."""

    _code = b"\x00"
    _text = BITBANG_REPLY


@dataclass(frozen=True, slots=True)
class SpiMode(_Named):
    """``01``: enter SPI from bit-bang mode, CS high and outputs open-drain; in SPI mode nothing but the answer."""

    _code = b"\x01"
    _text = SPI_REPLY


class _Acknowledged:
    """A command of one byte whose good reply is 01."""

    __slots__ = ()

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return 1 - len(reply)

    def decode(self, reply: bytes) -> None:
        """Raise ``RemoteProtocolError`` unless the command was accepted."""
        _refuse(reply, type(self).__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peripherals(_Acknowledged):
    """``4x``: supplies, pull-ups and the two control pins, all at once."""

    power: bool
    cs_high: bool

    def encode(self) -> bytes:
        """Return ``4x``; pull-ups and AUX stay off."""
        return bytes((0x40 | 0x08 * self.power | 0x01 * self.cs_high,))


@dataclass(frozen=True, slots=True)
class Speed(_Acknowledged):
    """``6s``: SPI clock by its code. Sets SPI up again, which takes CS high."""

    code: int

    def encode(self) -> bytes:
        """Return ``6s``. Raises ``LocalProtocolError`` for codes that do not mean the same everywhere."""
        if not 0 <= self.code <= 7:
            raise LocalProtocolError(f"{self.code} is no SPI speed code")
        return bytes((0x60 | self.code,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins(_Acknowledged):
    """``8x``: push-pull outputs, clock idle low, sampling in the middle. Sets SPI up again, which takes CS high.

    ``edge`` is the bit that means "data changes on the edge to idle", SPI mode 0, in all firmwares but those of 2017
    to March 2019, which mean the opposite.
    """

    edge: bool = True

    def encode(self) -> bytes:
        """Return ``8A``, or ``88`` without the edge bit."""
        return bytes((0x88 | 0x02 * self.edge,))


@dataclass(frozen=True, slots=True)
class Bulk:
    """``1n``: exchange up to 16 bytes. The 01 comes first, then each byte's answer as soon as it was clocked."""

    data: bytes

    def encode(self) -> bytes:
        """Return ``1n`` and the bytes."""
        if not 1 <= len(self.data) <= MAX_BULK_BYTES:
            raise LocalProtocolError(f"{len(self.data)} bytes do not fit into one bulk transfer")
        return bytes((0x10 | (len(self.data) - 1),)) + self.data

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`; a refusal is complete with its first byte."""
        if reply and reply[0] != _OK:
            return 0
        return 1 + len(self.data) - len(reply) if reply else 1

    def decode(self, reply: bytes) -> bytes:
        """Return what came in for each byte that went out."""
        _refuse(reply, "a bulk transfer")
        return reply[1:]


@dataclass(frozen=True, slots=True)
class WriteThenRead:
    """``05``: clock bytes out, then ``read_bytes`` in (FF or 00 going out meanwhile); CS stays as it is."""

    data: bytes
    read_bytes: int = 1

    def encode(self) -> bytes:
        """Return ``05``, both lengths and the bytes."""
        if not (1 <= len(self.data) <= _LENGTH_LIMIT and 1 <= self.read_bytes <= _LENGTH_LIMIT):
            raise LocalProtocolError(f"05 does not take {len(self.data)} bytes to write and {self.read_bytes} to read")
        return b"\x05" + len(self.data).to_bytes(2, "big") + self.read_bytes.to_bytes(2, "big") + self.data

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`; a refusal is complete with its first byte."""
        if reply and reply[0] != _OK:
            return 0
        return 1 + self.read_bytes - len(reply) if reply else 1

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes read."""
        _refuse(reply, "write-then-read")
        return reply[1:]


@dataclass(frozen=True, slots=True)
class AskExtended:
    """``06 01``: is there the command that reads flash, and which version of it?

    A firmware without it refuses 06 and takes the 01 for a question of its own, so that nothing is lost.
    """

    def encode(self) -> bytes:
        """Return ``06 01``."""
        return b"\x06\x01"

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        if not reply:
            return 1
        size = 4 if reply[0] == _OK else 1 + len(SPI_REPLY)
        return size - len(reply)

    def decode(self, reply: bytes) -> bool:
        """Tell whether :class:`ReadFlash` works. Raises ``RemoteProtocolError`` for anything unexpected."""
        if reply == b"\x00" + SPI_REPLY:
            return False
        if reply[:2] != b"\x01\x01":
            raise RemoteProtocolError(f"the Bus Pirate answered 06 01 with {reply.hex(' ')}")
        return int.from_bytes(reply[2:], "big") >= 1


@dataclass(frozen=True, slots=True)
class ReadFlash:
    """``06 02``: read flash by word address, low byte first. Sends no extended address."""

    word: int
    size_bytes: int

    def encode(self) -> bytes:
        """Return ``06 02``, address and count, four bytes each. Raises ``LocalProtocolError`` beyond the limit."""
        if self.size_bytes < 1 or self.word + self.size_bytes > READ_LIMIT:
            raise LocalProtocolError(f"06 02 does not read {self.size_bytes} bytes from word 0x{self.word:04X}")
        return b"\x06\x02" + self.word.to_bytes(4, "big") + self.size_bytes.to_bytes(4, "big")

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`; a refusal is complete with its first or second byte."""
        if not reply:
            return 1
        if reply[0] != _OK or (len(reply) > 1 and reply[1] != _OK):
            return 0
        return 2 + self.size_bytes - len(reply) if len(reply) > 1 else 1

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes read."""
        _refuse(reply, "06")
        _refuse(reply[1:], "06 02")
        return reply[2:]


@dataclass(frozen=True, slots=True)
class Marked(Generic[R_co]):
    """A request in SPI mode with ``01`` behind it, whose answer must follow the request's own without a gap.

    A byte that was lost or added on the way moves that answer: nothing wrong is taken for data. The question fits into
    the 4-byte FIFO of a v3 while it works on the request.

    ``packet_bytes``: more such questions make the whole reply a multiple of this, for a sender that holds back what does
    not fill a packet.
    """

    request: Request[R_co]
    packet_bytes: int = 1

    def encode(self) -> bytes:
        """Return the request's bytes and the questions."""
        refused, asked = self._fill()
        return self.request.encode() + _REFUSED_COMMAND * refused + b"\x01" * asked

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        size = complete_length(self.request, reply)
        if size is None:
            return self.request.missing(reply) + len(self._mark())
        return size + len(self._mark()) - len(reply)

    def decode(self, reply: bytes) -> R_co:
        """Return the request's meaning. Raises ``RemoteProtocolError`` where the mark is not in its place."""
        mark = self._mark()
        size = len(reply) - len(mark)
        if reply[size:] != mark:
            raise RemoteProtocolError(f"bytes were lost or added on the line: {reply[size:].hex(' ')} ends a reply")
        return self.request.decode(reply[:size])

    def _mark(self) -> bytes:
        """Return what must follow the request's own reply."""
        refused, asked = self._fill()
        return b"\x00" * refused + SPI_REPLY * asked

    def _fill(self) -> tuple[int, int]:
        """Return how many commands are refused with one byte, and how many questions answered with four."""
        extra = -(_good_bytes(self.request) + len(SPI_REPLY)) % self.packet_bytes
        return extra % len(SPI_REPLY), extra // len(SPI_REPLY) + 1


@dataclass(frozen=True, slots=True)
class Remainder(Generic[R_co]):
    """The last bytes of a request whose first ``sent_bytes`` were sent ahead."""

    request: Request[R_co]
    sent_bytes: int

    def encode(self) -> bytes:
        """Return what is left to send."""
        return self.request.encode()[self.sent_bytes :]

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return self.request.missing(reply)

    def decode(self, reply: bytes) -> R_co:
        """Return the request's meaning."""
        return self.request.decode(reply)


def _good_bytes(request: Request[R]) -> int:
    """Return the length of the request's good reply."""
    size = 0
    while (need := request.missing(b"\x01" * size)) > 0:
        size += need
    return size
