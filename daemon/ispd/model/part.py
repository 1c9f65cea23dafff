"""Parts: what a chip model is, as its data sheet says. Pure data; the catalog fills it from files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ispd.model.span import Span

__all__ = [
    "BootSection",
    "ClockSource",
    "FuseBits",
    "FuseByte",
    "MemoryKind",
    "PagedMemory",
    "Part",
    "Signature",
    "WriteTimes",
]

_SIGNATURE_BYTES = 3


class MemoryKind(StrEnum):
    """Memories of an AVR, by the names avrdude uses."""

    FLASH = "flash"
    EEPROM = "eeprom"
    LFUSE = "lfuse"
    HFUSE = "hfuse"
    EFUSE = "efuse"
    LOCK = "lock"
    SIGNATURE = "signature"
    CALIBRATION = "calibration"


class ClockSource(StrEnum):
    """Where a part takes its clock from, by CKSEL."""

    EXTERNAL = "ext"
    RC = "rc"
    RC_1_MHZ = "rc1"
    RC_2_MHZ = "rc2"
    RC_4_MHZ = "rc4"
    RC_128_KHZ = "rc128k"
    RC_6_4_MHZ = "rc6m4"
    PLL = "pll"
    LOW_FREQUENCY_CRYSTAL = "lfx"
    CRYSTAL = "xtal"
    FULL_SWING_CRYSTAL = "fullswing"
    EXTERNAL_RC = "extrc"
    RESERVED = "resv"


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """The three identification bytes of a part, byte at address 0 first."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != _SIGNATURE_BYTES:
            raise ValueError("a signature has three bytes")

    def __str__(self) -> str:
        return self.value.hex(" ").upper()


@dataclass(frozen=True, slots=True)
class PagedMemory:
    """Flash or EEPROM. ``is_paged`` is false where cells are written one by one (EEPROM of ATmega8)."""

    size_bytes: int
    page_bytes: int
    is_paged: bool = True

    @property
    def span(self) -> Span:
        """All addresses of this memory."""
        return Span(0, self.size_bytes)


@dataclass(frozen=True, slots=True)
class WriteTimes:
    """Blind waits that are always enough, in seconds (the data sheet's tWD_*)."""

    flash_s: float
    eeprom_s: float
    erase_s: float
    fuse_s: float


@dataclass(frozen=True, slots=True)
class FuseByte:
    """One fuse byte: factory value and the bits that exist."""

    memory: MemoryKind
    default: int
    mask: int


@dataclass(frozen=True, slots=True)
class FuseBits:
    """A named group of fuse bits. Programmed (active) bits read 0."""

    name: str
    memory: MemoryKind
    mask: int

    def of(self, value: int) -> int:
        """Return this group's bits of a fuse byte, shifted down."""
        return (value & self.mask) >> ((self.mask & -self.mask).bit_length() - 1)

    def is_programmed(self, value: int) -> bool:
        """Tell whether all bits of the group are 0 in a fuse byte."""
        return value & self.mask == 0


@dataclass(frozen=True, slots=True)
class BootSection:
    """Boot section selection: ``min_bytes << (3 - BOOTSZ)`` bytes at the top of flash."""

    bits: FuseBits
    min_bytes: int

    def size_bytes(self, fuse_value: int) -> int:
        """Return the section's size for a value of the fuse byte that holds BOOTSZ."""
        return self.min_bytes << (3 - self.bits.of(fuse_value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A chip model.

    ``clock`` and ``bod_mv`` are indexed by CKSEL and BODLEVEL; in ``bod_mv`` 0 means off and -1 reserved.
    ``factory_variants`` are further sets of factory bytes, in the order of ``fuses`` (order codes with RC oscillator).
    ``bits`` holds the named fuse bit groups (lower-case data sheet names: ``cksel``, ``bootrst``, ``rstdisbl`` ..).
    """

    id: str
    name: str
    avrdude_id: str
    signature: Signature
    flash: PagedMemory
    eeprom: PagedMemory
    needs_extended_address: bool
    has_ready_poll: bool
    times: WriteTimes
    fuses: tuple[FuseByte, ...]
    lock_mask: int
    bits: Mapping[str, FuseBits]
    clock: tuple[ClockSource, ...]
    bod_mv: tuple[int, ...]
    boot: BootSection | None
    isp_pins: tuple[str, str, str]
    stk500_code: int
    note: str = ""
    twins: tuple[str, ...] = field(default=())
    factory_variants: tuple[tuple[int, ...], ...] = ()

    def fuse(self, memory: MemoryKind) -> FuseByte | None:
        """Return the fuse byte called ``memory``, or None where the part has none."""
        return next((fuse for fuse in self.fuses if fuse.memory == memory), None)

    def mask(self, memory: MemoryKind) -> int:
        """Return the bits of ``memory`` that exist; 0xFF for memories without a mask, 0 for an absent fuse."""
        if memory is MemoryKind.LOCK:
            return self.lock_mask
        if memory in (MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE):
            fuse = self.fuse(memory)
            return fuse.mask if fuse else 0
        return 0xFF

    def memory(self, kind: MemoryKind) -> PagedMemory:
        """Return flash or EEPROM; other kinds raise ``KeyError``."""
        return {MemoryKind.FLASH: self.flash, MemoryKind.EEPROM: self.eeprom}[kind]
