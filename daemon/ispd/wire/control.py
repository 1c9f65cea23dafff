"""Requests of programmers that are USB devices: each one a value that knows its control transfer and its answer.

The fields are those of the setup packet (USB 2.0, chapter 9.3). Nothing here opens, sends or waits.
"""

from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from ispd.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "INSTRUCTION_BYTES",
    "VENDOR_IN",
    "VENDOR_OUT",
    "ControlFields",
    "ControlRequest",
    "require_range",
    "spi_fields",
    "take",
]

R_co = TypeVar("R_co", covariant=True)

VENDOR_IN: Final = 0xC0
"""bmRequestType of a vendor request to the device that brings data, or nothing."""

VENDOR_OUT: Final = 0x40
"""bmRequestType of a vendor request that carries data to the device."""


INSTRUCTION_BYTES: Final = 4
"""Every instruction of serial programming, and its reply (data sheets, "Serial Programming Instruction Set")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFields:
    """What a control transfer is made of; ``data`` for :data:`VENDOR_OUT`, ``length`` for :data:`VENDOR_IN`."""

    request_type: int
    request: int
    value: int = 0
    index: int = 0
    data: bytes = b""
    length: int = 0


class ControlRequest(Protocol[R_co]):
    """One request as a frozen value."""

    def encode(self) -> ControlFields:
        """Return the transfer. Raises ``LocalProtocolError`` where the protocol cannot carry the request."""

    def decode(self, reply: bytes) -> R_co:
        """Return the meaning of what came back. Raises ``RemoteProtocolError`` where it has none."""


def spi_fields(request: int, instruction: bytes) -> ControlFields:
    """Return the transfer that clocks out four bytes, in wValue and wIndex, and brings four.

    USBtiny's request 7 and USBasp's function 3 lay them out alike. Raises ``LocalProtocolError`` for any other number of bytes.
    """
    if len(instruction) != INSTRUCTION_BYTES:
        raise LocalProtocolError(f"an instruction has 4 bytes, not {len(instruction)}")
    return ControlFields(
        request_type=VENDOR_IN,
        request=request,
        value=int.from_bytes(instruction[:2], "little"),
        index=int.from_bytes(instruction[2:], "little"),
        length=INSTRUCTION_BYTES,
    )


def require_range(value: int, limit: int, name: str) -> int:
    """Return ``value``; raises ``LocalProtocolError`` unless it is from 0 up to, not including, ``limit``."""
    if not 0 <= value < limit:
        raise LocalProtocolError(f"{name} {value} is not below {limit}")
    return value


def take(reply: bytes, length: int, name: str) -> bytes:
    """Return a reply of exactly ``length`` bytes; raises ``RemoteProtocolError`` for any other."""
    if len(reply) != length:
        raise RemoteProtocolError(f"{name} brought {len(reply)} bytes instead of {length}", is_usb=True)
    return reply
