"""How a command of an ST-Link is put into bytes, whatever it says.

A command is 16 bytes on the OUT endpoint, zeros behind what it says; then at most one data stage follows, either way. Sources
are named in :mod:`ispd.wire.stlink_firmware`. Multi-byte values are little endian but the version word.
"""

import struct
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.stlink_status import check_status

__all__ = [
    "COMMAND_BYTES",
    "DEBUG",
    "STATUS_BYTES",
    "Packet",
    "StlinkCommand",
    "check",
    "field_bytes",
    "packet",
    "status_packet",
    "take",
]

COMMAND_BYTES: Final = 16
DEBUG: Final = 0xF2
"""First byte of every command about the target."""
STATUS_BYTES: Final = 2

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Packet:
    """What goes over the endpoints: the command, then ``data`` to the device or ``reply_bytes`` from it.

    :param has_status: the answer begins with a status (:mod:`ispd.wire.stlink_status`), which is that of the commands without one
        before it, too.
    """

    command: bytes
    data: bytes = b""
    reply_bytes: int = 0
    has_status: bool = False


class StlinkCommand(Protocol[R_co]):
    """One command as a frozen value."""

    def encode(self) -> Packet:
        """Return the bytes. Raises ``LocalProtocolError`` where the protocol cannot carry them."""

    def decode(self, reply: bytes) -> R_co:
        """Return the meaning of what came back.

        Raises ``RemoteProtocolError`` where it has none, ``SwdWaitError`` and ``SwdStatusError`` where the target did not
        do it (:mod:`ispd.wire.stlink_status`).
        """


def packet(*command: int, data: bytes = b"", reply_bytes: int = 0, has_status: bool = False) -> Packet:
    """Return a command with zeros behind it. Raises ``LocalProtocolError`` for numbers that are no bytes."""
    if not all(0 <= byte < 0x100 for byte in command):
        raise LocalProtocolError(f"command {command} has something that is no byte")
    return Packet(bytes(command).ljust(COMMAND_BYTES, b"\0"), data, reply_bytes, has_status)


def status_packet(*command: int, reply_bytes: int = STATUS_BYTES) -> Packet:
    """Return a command about the target whose answer begins with its status."""
    return packet(DEBUG, *command, reply_bytes=reply_bytes, has_status=True)


def field_bytes(layout: str, value: int) -> bytes:
    """Return a number as struct lays it out. Raises ``LocalProtocolError`` where it does not fit."""
    try:
        return struct.pack(layout, value)
    except struct.error:
        raise LocalProtocolError(f"{value} does not fit into its field") from None


def take(reply: bytes, length: int, name: str) -> bytes:
    """Return a reply of exactly ``length`` bytes; raises ``RemoteProtocolError`` for any other."""
    if len(reply) != length:
        raise RemoteProtocolError(f"{name} brought {len(reply)} bytes instead of {length}", is_usb=True)
    return reply


def check(reply: bytes, length: int, what: str, address: int | None = None) -> None:
    """Check the status, which is the first byte of every answer that has one (the second is zero, or clones' leavings)."""
    check_status(take(reply, length, what)[0], what, address=address)
