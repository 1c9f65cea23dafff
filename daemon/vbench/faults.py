"""What can be wrong with a board, its wiring or its programmer, as data; each takes any number of these.

Locked parts, missing crystals and disabled reset pins are states rather than faults: give the target its lock byte,
fuses and clocks instead.
"""

from dataclasses import dataclass

from ispd.model.part import MemoryKind

__all__ = [
    "BusyForever",
    "CorruptReply",
    "DropReply",
    "EchoOnly",
    "Fault",
    "GoesSilent",
    "LineNoise",
    "LostErase",
    "LostPage",
    "MisoStuck",
    "MosiMisoShort",
    "Mute",
    "NoisyReplies",
    "PowerLoss",
    "ProgrammerFault",
    "ReadFlips",
    "ReadsWrap",
    "SckCeiling",
    "ShortReply",
    "Silent",
    "SlowWrites",
    "StalledTransfer",
    "StuckBits",
    "SwappedWires",
    "UnpluggedAt",
    "UsbFault",
    "WeakWrites",
    "WrongSignature",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckBits:
    """Bits of one cell that keep a level whatever is written. ``address`` is 0 for fuse and lock bytes."""

    memory: MemoryKind
    address: int
    mask: int
    level: int
    """1 or 0: what the stuck bits read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFlips:
    """Flash reads that come back with ``mask`` flipped, although the cell is right.

    ``reads`` are counted from 0 over the target's life; ``rate`` is the share of all reads (0..1), chosen by the seed.
    """

    mask: int = 0x01
    reads: tuple[int, ...] = ()
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class WrongSignature:
    """The part answers another signature than its type has."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class Silent:
    """The target never drives MISO (broken RESET or SCK wire, no supply); ``level`` is what the open line reads."""

    level: int = 0x00


@dataclass(frozen=True, slots=True)
class GoesSilent:
    """A loose contact: everything works until this many instructions were clocked, then nothing does."""

    after_instructions: int


@dataclass(frozen=True, slots=True)
class MisoStuck:
    """MISO is shorted to ground (00) or to the supply (FF); the target itself still listens."""

    level: int


@dataclass(frozen=True, slots=True)
class MosiMisoShort:
    """MOSI and MISO touch: every reply byte is the byte that was sent, undelayed."""


@dataclass(frozen=True, slots=True)
class SwappedWires:
    """MOSI and MISO are exchanged: the target hears nothing, and the programmer's input sits on the target's input.

    ``level`` is what that idle line reads.
    """

    level: int = 0xFF


@dataclass(frozen=True, slots=True)
class EchoOnly:
    """The target shifts through what it is sent and drives nothing of its own (old parts do, read-locked)."""


@dataclass(frozen=True, slots=True)
class NoisyReplies:
    """Long wires: this share of all reply bytes (0..1) has a flipped bit, signature and fuses included."""

    rate: float


@dataclass(frozen=True, slots=True)
class SckCeiling:
    """Poor wiring fails above this SCK, whatever the fuses would allow."""

    hz: float


@dataclass(frozen=True, slots=True)
class BusyForever:
    """The busy bit never clears after this many write or erase operations (1 = after the first)."""

    after_writes: int = 1


@dataclass(frozen=True, slots=True)
class SlowWrites:
    """Erase and writes take this many times what the data sheet allows at most."""

    factor: float


@dataclass(frozen=True, slots=True)
class LostPage:
    """Writing the flash page that holds this byte address has no effect (supply dip)."""

    address: int


@dataclass(frozen=True, slots=True)
class LostErase:
    """A chip erase leaves this memory as it was (supply too low), though lock bits open."""

    memory: MemoryKind = MemoryKind.FLASH


@dataclass(frozen=True, slots=True)
class WeakWrites:
    """The supply dips during page writes: this share of flash bytes (0..1) stays as it was, chosen by the seed."""

    rate: float


@dataclass(frozen=True, slots=True)
class ReadsWrap:
    """Flash is read modulo this many bytes (a missing extended address, a programmer that counts in 16 bits)."""

    bytes: int


@dataclass(frozen=True, slots=True)
class PowerLoss:
    """The programmer is unplugged when it has received ``bytes`` bytes, or at its ``instructions``-th instruction."""

    bytes: int | None = None
    instructions: int | None = None


@dataclass(frozen=True, slots=True)
class Mute:
    """The programmer hangs: nothing comes back after this many reply bytes."""

    after_replies: int


@dataclass(frozen=True, slots=True)
class CorruptReply:
    """The reply byte with this index (from 0 since power-up of the bench) has bits flipped on the line."""

    index: int
    mask: int = 0x04


@dataclass(frozen=True, slots=True)
class DropReply:
    """The reply byte with this index is lost on the line."""

    index: int


@dataclass(frozen=True, slots=True)
class LineNoise:
    """Bytes that nobody sent appear before the reply byte with this index."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class UnpluggedAt:
    """The USB device is unplugged in the middle of the control transfer with this index (from 0 since it was made)."""

    transfer: int


@dataclass(frozen=True, slots=True)
class StalledTransfer:
    """The USB device refuses the control transfer with this index and does nothing of what it asked."""

    index: int


@dataclass(frozen=True, slots=True)
class ShortReply:
    """The answer to the control transfer with this index is cut to ``bytes`` bytes."""

    index: int
    bytes: int = 0


Fault = (
    StuckBits
    | ReadFlips
    | WrongSignature
    | Silent
    | GoesSilent
    | MisoStuck
    | MosiMisoShort
    | NoisyReplies
    | SckCeiling
    | BusyForever
    | SlowWrites
    | LostPage
    | SwappedWires
    | EchoOnly
    | LostErase
    | WeakWrites
    | ReadsWrap
)
"""What can be wrong with a board."""

ProgrammerFault = PowerLoss | Mute | CorruptReply | DropReply | LineNoise
"""What can be wrong with a programmer or its serial line."""

UsbFault = PowerLoss | Mute | UnpluggedAt | StalledTransfer | ShortReply
"""What can be wrong with a programmer that is a USB device: its bus has check sums, so no byte arrives spoiled."""
