"""Parts: what a chip model is, as its data sheet says. Pure data; the catalog fills it from files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import ClassVar, Final, Self

from ispd.model.span import Span

__all__ = [
    "OPTION_BYTES",
    "AvrPart",
    "BootSection",
    "ClockSource",
    "FuseBits",
    "FuseByte",
    "Interface",
    "MemoryKind",
    "PagedMemory",
    "Part",
    "Signature",
    "Stm32Part",
    "WriteTimes",
]

_AVR_SIGNATURE_BYTES = 3
_CHIP_ID_BYTES = 2


@unique
class Interface(StrEnum):
    """What a programmer speaks to a target."""

    ISP = "isp"
    """Serial programming of an AVR, over SPI."""
    SWD = "swd"
    """Serial wire debug of an ARM core."""


class MemoryKind(StrEnum):
    """Memories of an AVR, by the names avrdude uses; the others are option bytes of an STM32F1, by the names of PM0075.

    Option bytes are fuses that are called otherwise. ``lock`` is an AVR's lock byte or an STM32's read protection (RDP).
    """

    FLASH = "flash"
    EEPROM = "eeprom"
    LFUSE = "lfuse"
    HFUSE = "hfuse"
    EFUSE = "efuse"
    LOCK = "lock"
    SIGNATURE = "signature"
    CALIBRATION = "calibration"
    USER = "user"
    DATA0 = "data0"
    DATA1 = "data1"
    WRP0 = "wrp0"
    WRP1 = "wrp1"
    WRP2 = "wrp2"
    WRP3 = "wrp3"


OPTION_BYTES: Final = (
    MemoryKind.USER,
    MemoryKind.DATA0,
    MemoryKind.DATA1,
    MemoryKind.WRP0,
    MemoryKind.WRP1,
    MemoryKind.WRP2,
    MemoryKind.WRP3,
)
"""Option bytes but RDP, which is the lock byte, in the order of their addresses (PM0075, "Option byte organization")."""


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
    """How a part tells who it is: the three bytes of an AVR, byte at address 0 first; or the 12-bit device id of an STM32
    (DBGMCU_IDCODE), as two bytes, high one first."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) not in (_AVR_SIGNATURE_BYTES, _CHIP_ID_BYTES):
            raise ValueError("a signature has three bytes, a device id two")

    def __str__(self) -> str:
        """Return ``1E 95 87`` or ``0x0410``, as avrdude and st-info write them."""
        return f"0x{self.value.hex().upper()}" if len(self.value) == _CHIP_ID_BYTES else self.value.hex(" ").upper()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what was written by ``str()``; raises ``ValueError`` for anything else."""
        return cls(bytes.fromhex(text.removeprefix("0x")))


@dataclass(frozen=True, slots=True)
class PagedMemory:
    """Flash or EEPROM. ``is_paged`` is false where cells are written one by one (EEPROM of ATmega8).

    ``start`` is the address of its first byte.
    """

    size_bytes: int
    page_bytes: int
    is_paged: bool = True
    start: int = 0

    @property
    def span(self) -> Span:
        """All addresses of this memory."""
        return Span(self.start, self.start + self.size_bytes)


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
    """A chip model: what is the same for all of them. Which kind it is decides how it is programmed.

    :param fuses: fuse bytes, or option bytes, in the order in which they are listed.
    :param bits: the named bit groups in them (lower-case data sheet names: ``cksel``, ``rstdisbl``, ``wdg_sw`` ..).
    :param lock_mask: bits of the lock byte that exist.
    :param twins: parts that say the same of themselves.
    :param aliases: further names it is found by, lower case.
    """

    interface: ClassVar[Interface]

    id: str
    name: str
    signature: Signature
    flash: PagedMemory
    fuses: tuple[FuseByte, ...]
    lock_mask: int
    bits: Mapping[str, FuseBits]
    note: str = ""
    twins: tuple[str, ...] = field(default=())
    aliases: tuple[str, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it is found by, lower case."""
        return (self.id, *self.aliases)

    @property
    def memories(self) -> Mapping[MemoryKind, PagedMemory]:
        """The memories that images go into."""
        return {MemoryKind.FLASH: self.flash}

    @property
    def pins(self) -> Mapping[str, str]:
        """The chip's pins that a programmer needs, by signal."""
        return {}

    def fuse(self, memory: MemoryKind) -> FuseByte | None:
        """Return the fuse byte called ``memory``, or None where the part has none."""
        return next((fuse for fuse in self.fuses if fuse.memory == memory), None)

    def mask(self, memory: MemoryKind) -> int:
        """Return the bits of ``memory`` that exist; 0xFF for memories without a mask, 0 for an absent fuse."""
        if memory is MemoryKind.LOCK:
            return self.lock_mask
        fuse = self.fuse(memory)
        if fuse is not None:
            return fuse.mask
        return 0xFF if memory in _UNMASKED else 0

    def memory(self, kind: MemoryKind) -> PagedMemory:
        """Return flash or EEPROM; what the part does not have raises ``KeyError``."""
        return self.memories[kind]


_UNMASKED = (MemoryKind.FLASH, MemoryKind.EEPROM, MemoryKind.SIGNATURE, MemoryKind.CALIBRATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class AvrPart(Part):
    """An AVR, programmed by ISP.

    ``clock`` and ``bod_mv`` are indexed by CKSEL and BODLEVEL; in ``bod_mv`` 0 means off and -1 reserved.
    ``factory_variants`` are further sets of factory bytes, in the order of ``fuses`` (order codes with RC oscillator).
    """

    interface: ClassVar[Interface] = Interface.ISP

    avrdude_id: str
    eeprom: PagedMemory
    needs_extended_address: bool
    has_ready_poll: bool
    times: WriteTimes
    clock: tuple[ClockSource, ...]
    bod_mv: tuple[int, ...]
    boot: BootSection | None
    isp_pins: tuple[str, str, str]
    stk500_code: int
    factory_variants: tuple[tuple[int, ...], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it is found by, that of avrdude among them."""
        return (self.id, self.avrdude_id, *self.aliases)

    @property
    def memories(self) -> Mapping[MemoryKind, PagedMemory]:
        """Flash and EEPROM."""
        return {MemoryKind.FLASH: self.flash, MemoryKind.EEPROM: self.eeprom}

    @property
    def pins(self) -> Mapping[str, str]:
        """SCK, COPI and CIPO."""
        return dict(zip(("sck", "copi", "cipo"), self.isp_pins, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stm32Part(Part):
    """STM32F1 chips of one device id, programmed by SWD. They come with more or less flash, and say how much.

    :param flash: that of the largest one, as far as it is written here.
    :param smallest_flash_bytes: flash of the smallest one.
    :param ram_bytes: RAM of the smallest one.
    """

    interface: ClassVar[Interface] = Interface.SWD

    smallest_flash_bytes: int
    ram_bytes: int

    @property
    def pins(self) -> Mapping[str, str]:
        """SWDIO and SWCLK, the same on every STM32F1 (data sheets, "Pin definitions")."""
        return {"swdio": "PA13", "swclk": "PA14"}
