"""STK500 version 1 as ArduinoISP speaks it: every command as a value.

Sources: Atmel application note AVR061 (2525B) and the sketch ``ArduinoISP.ino`` 1.18. Each command ends with 20; a good
reply is ``14 [data] 10``, a refusal either the single byte 11, 12, 13 or 15, or one of them in place of the final 10.
``@`` (set parameter) does not exist here: the sketch answers it out of step.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.model.part import AvrPart
from ispd.wire.avr_isp import WordAddress

__all__ = [
    "MAX_BLOCK_BYTES",
    "SYNC_REPLY",
    "BlockMemory",
    "EnterProgmode",
    "GetParameter",
    "Inquiry",
    "LeaveProgmode",
    "LoadAddress",
    "Parameter",
    "ProgramPage",
    "ReadPage",
    "ReadSignature",
    "SetDevice",
    "SetDeviceExtended",
    "SignOn",
    "Status",
    "Sync",
    "Universal",
]

_EOP: Final = b"\x20"
_ADDRESS_LIMIT: Final = 0x10000
_DEVICE_CODE_LIMIT: Final = 0xE0
"""From this device code on the sketch drives reset active high, as AT89S parts want it."""

MAX_BLOCK_BYTES: Final = 256
"""AVR061's limit for ``d`` and ``t``; the sketch's buffer has this size and does not check."""

SYNC_REPLY: Final = b"\x14\x10"


class Status(IntEnum):
    """The bytes that frame a reply."""

    OK = 0x10
    FAILED = 0x11
    UNKNOWN = 0x12
    NO_DEVICE = 0x13
    IN_SYNC = 0x14
    NO_SYNC = 0x15


_REFUSALS: Final = frozenset({Status.FAILED, Status.UNKNOWN, Status.NO_DEVICE, Status.NO_SYNC})


class Parameter(IntEnum):
    """Parameters that a programmer can be asked for."""

    HARDWARE_VERSION = 0x80
    SOFTWARE_MAJOR = 0x81
    SOFTWARE_MINOR = 0x82
    PROGRAMMER_TYPE = 0x93


class BlockMemory(Enum):
    """Memory letter of ``d`` and ``t``."""

    FLASH = b"F"
    EEPROM = b"E"


def _missing(reply: bytes, data_bytes: int) -> int:
    """Return what a reply with so many data bytes lacks; a refusal is complete with its first byte."""
    if not reply:
        return 1
    if reply[0] != Status.IN_SYNC:
        return 0
    return max(0, data_bytes + 2 - len(reply))


def _data(reply: bytes, command: str) -> bytes:
    """Return the data of a good reply; raises ``RemoteProtocolError`` for everything else."""
    if reply[0] in _REFUSALS:
        raise RemoteProtocolError(f"the programmer refused {command}: {Status(reply[0]).name}")
    if reply[0] != Status.IN_SYNC:
        raise RemoteProtocolError(f"the programmer answered {command} with 0x{reply[0]:02X}, which is no status")
    if reply[-1] in _REFUSALS:
        raise RemoteProtocolError(f"the programmer failed in {command}: {Status(reply[-1]).name}")
    if reply[-1] != Status.OK:
        raise RemoteProtocolError(f"the answer to {command} ends with 0x{reply[-1]:02X} instead of 0x10")
    return reply[1:-1]


def _require_byte(value: int, name: str) -> None:
    if not 0 <= value <= 0xFF:
        raise LocalProtocolError(f"{name} {value} is not a byte")


class _Acknowledged:
    """A command whose good reply is ``14 10`` and nothing else."""

    __slots__ = ()

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return _missing(reply, 0)

    def decode(self, reply: bytes) -> None:
        """Raise ``RemoteProtocolError`` unless the command was accepted."""
        _data(reply, type(self).__name__)


@dataclass(frozen=True, slots=True)
class Sync(_Acknowledged):
    """``0``: are you there? Also clears the sketch's error LED."""

    def encode(self) -> bytes:
        """Return ``30 20``."""
        return b"\x30" + _EOP


@dataclass(frozen=True, slots=True)
class SignOn:
    """``1``: name of the programmer, seven characters (``AVR ISP``, ``AVR STK``)."""

    def encode(self) -> bytes:
        """Return ``31 20``."""
        return b"\x31" + _EOP

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`. Bootloaders leave the name out: 10 at its place ends the reply."""
        if len(reply) == 1 and reply[0] == Status.IN_SYNC:
            return 1
        return 0 if reply == SYNC_REPLY else _missing(reply, 7)

    def decode(self, reply: bytes) -> str:
        """Return the name; empty where the peer has none."""
        return _data(reply, "SignOn").decode("ascii", "replace")


@dataclass(frozen=True, slots=True)
class GetParameter:
    """``A``: value of a parameter."""

    parameter: Parameter

    def encode(self) -> bytes:
        """Return ``41 parameter 20``."""
        return bytes((0x41, self.parameter)) + _EOP

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return _missing(reply, 1)

    def decode(self, reply: bytes) -> int | None:
        """Return the value, None where the programmer does not know the parameter (an STK500 ends with 11)."""
        if len(reply) == 3 and reply[0] == Status.IN_SYNC and reply[-1] == Status.FAILED:
            return None
        return _data(reply, "GetParameter")[0]


Inquiry = Sync | SignOn | GetParameter
"""What may be asked of anyone, because no peer changes anything on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDevice(_Acknowledged):
    """``B``: the part. The sketch keeps the page size (it decides when ``d`` commits), EEPROM size and device code."""

    device_code: int
    lock_bytes: int
    fuse_bytes: int
    page_bytes: int
    eeprom_bytes: int
    flash_bytes: int

    @classmethod
    def of(cls, part: AvrPart) -> "SetDevice":
        """Return the block for ``part``. Device codes that would turn the reset line round are sent as 0."""
        return cls(
            device_code=part.stk500_code if part.stk500_code < _DEVICE_CODE_LIMIT else 0,
            lock_bytes=1,
            fuse_bytes=len(part.fuses),
            page_bytes=part.flash.page_bytes,
            eeprom_bytes=part.eeprom.size_bytes,
            flash_bytes=part.flash.size_bytes,
        )

    @classmethod
    def unknown(cls) -> "SetDevice":
        """Return a harmless block for a target that is not known yet: enough to enter and read its signature."""
        return cls(device_code=0, lock_bytes=1, fuse_bytes=3, page_bytes=128, eeprom_bytes=512, flash_bytes=0x8000)

    def encode(self) -> bytes:
        """Return ``42``, 20 bytes, ``20``; multi-byte fields are big endian."""
        if not 0 <= self.device_code < _DEVICE_CODE_LIMIT:
            raise LocalProtocolError(f"device code 0x{self.device_code:02X} would drive reset active high")
        head = bytes((0x42, self.device_code, 0, 0, 1, 1, 1, self.lock_bytes, self.fuse_bytes, 0, 0, 0, 0))
        sizes = self.page_bytes.to_bytes(2, "big") + self.eeprom_bytes.to_bytes(2, "big")
        return head + sizes + self.flash_bytes.to_bytes(4, "big") + _EOP


@dataclass(frozen=True, slots=True)
class SetDeviceExtended(_Acknowledged):
    """``E``: EEPROM page size and high-voltage signals. The sketch always swallows five bytes and ignores them."""

    eeprom_page_bytes: int

    def encode(self) -> bytes:
        """Return ``45 05``, EEPROM page, PAGEL ``D7``, BS2 ``A0``, RSTDISBL ``01``, ``20``."""
        _require_byte(self.eeprom_page_bytes, "EEPROM page size")
        return bytes((0x45, 0x05, self.eeprom_page_bytes, 0xD7, 0xA0, 0x01)) + _EOP


@dataclass(frozen=True, slots=True)
class EnterProgmode(_Acknowledged):
    """``P``: reset the target and enable programming. Says nothing about a target being there; no-op when entered."""

    def encode(self) -> bytes:
        """Return ``50 20``."""
        return b"\x50" + _EOP


@dataclass(frozen=True, slots=True)
class LeaveProgmode(_Acknowledged):
    """``Q``: release the SPI pins and reset."""

    def encode(self) -> bytes:
        """Return ``51 20``."""
        return b"\x51" + _EOP


@dataclass(frozen=True, slots=True)
class LoadAddress(_Acknowledged):
    """``U``: where the next block starts. Words, for EEPROM too: the sketch doubles the value."""

    address: WordAddress

    def encode(self) -> bytes:
        """Return ``55 low high 20``."""
        if not 0 <= self.address < _ADDRESS_LIMIT:
            raise LocalProtocolError(f"word address 0x{self.address:X} does not fit the address command")
        return b"\x55" + self.address.to_bytes(2, "little") + _EOP


@dataclass(frozen=True, slots=True)
class Universal:
    """``V``: one SPI instruction; the reply is its fourth byte."""

    instruction: bytes

    def encode(self) -> bytes:
        """Return ``56``, the instruction, ``20``."""
        if len(self.instruction) != 4:
            raise LocalProtocolError("an SPI instruction has four bytes")
        return b"\x56" + self.instruction + _EOP

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return _missing(reply, 1)

    def decode(self, reply: bytes) -> int:
        """Return the fourth SPI reply byte."""
        return _data(reply, "Universal")[0]


def _block_header(code: int, size: int, memory: BlockMemory) -> bytes:
    if not 0 < size <= MAX_BLOCK_BYTES:
        raise LocalProtocolError(f"a block of {size} bytes: 1..{MAX_BLOCK_BYTES} are possible")
    if memory is BlockMemory.FLASH and size % 2:
        raise LocalProtocolError("flash blocks are made of whole words")
    return bytes((code, size >> 8, size & 0xFF)) + memory.value


@dataclass(frozen=True, slots=True)
class ProgramPage(_Acknowledged):
    """``d``: write flash at the loaded address, which advances. The sketch commits whenever the page changes and at the end.

    EEPROM is left out on purpose: a block larger than the EEPROM of the last ``B`` would be taken for commands, and
    45 ms for each byte is slower than single instructions.
    """

    data: bytes

    def encode(self) -> bytes:
        """Return ``64 size 46``, the data, ``20``."""
        return _block_header(0x64, len(self.data), BlockMemory.FLASH) + self.data + _EOP


@dataclass(frozen=True, slots=True)
class ReadPage:
    """``t``: read from the loaded address. Flash reads advance it by words, EEPROM reads leave it alone."""

    memory: BlockMemory
    size_bytes: int

    def encode(self) -> bytes:
        """Return ``74 size memory 20``."""
        return _block_header(0x74, self.size_bytes, self.memory) + _EOP

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return _missing(reply, self.size_bytes)

    def decode(self, reply: bytes) -> bytes:
        """Return the bytes read."""
        return _data(reply, "ReadPage")


@dataclass(frozen=True, slots=True)
class ReadSignature:
    """``u``: the target's signature."""

    def encode(self) -> bytes:
        """Return ``75 20``."""
        return b"\x75" + _EOP

    def missing(self, reply: bytes) -> int:
        """See :class:`~ispd.wire.engine.Request`."""
        return _missing(reply, 3)

    def decode(self, reply: bytes) -> bytes:
        """Return three bytes; all that the target sent, sensible or not."""
        return _data(reply, "ReadSignature")
