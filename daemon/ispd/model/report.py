"""Reports: what the catalog has to say about parts, fuses, bootloaders and images, as clients get it.

Everything is plain: numbers, text, lists and dictionaries keyed by memory name. Addresses are byte addresses; ends are
exclusive.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from ispd.model.part import Interface, MemoryKind

__all__ = [
    "BootloaderReport",
    "FindingLevel",
    "FuseBitReport",
    "FuseByteReport",
    "FuseFinding",
    "FuseReport",
    "ImageKind",
    "ImageReport",
    "PartReport",
    "SegmentReport",
]


class FindingLevel(StrEnum):
    """How the fuse guard treats a finding."""

    REFUSE = "refuse"
    CONFIRM = "confirm"
    CHECK = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseFinding:
    """One thing the fuse guard has to say. ``bits`` names the bit group, or is empty where it is about the whole byte."""

    level: FindingLevel
    memory: MemoryKind
    bits: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseBitReport:
    """One group of fuse or lock bits in words. ``value`` is shifted down; ``programmed`` means all its bits are 0."""

    name: str
    memory: MemoryKind
    value: int
    programmed: bool
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseByteReport:
    """One byte: what was asked for, and what counts of it.

    :param asked: False where nobody asked and ``value`` is the factory's.
    :param mask: bits that exist on the part; the others read back as anything.
    :param effective: ``value`` in the bits that exist, 0 elsewhere.
    """

    memory: MemoryKind
    value: int
    asked: bool
    mask: int
    effective: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseReport:
    """Fuse bytes explained, and the lock byte where one was given.

    :param bytes: each byte of ``fuses`` (and the lock byte) as asked and as it counts.
    :param clock_hz: None where the source's frequency is not in the fuses.
    :param preset: name of the known set that these bytes are, None where they are none.
    :param verdict: the worst level among ``findings``, None where the fuse guard has nothing to say.
    """

    part: str
    fuses: dict[str, int]
    bytes: tuple[FuseByteReport, ...]
    bits: tuple[FuseBitReport, ...]
    clock: str
    clock_hz: int | None
    brown_out: str
    boot_section: str
    preset: str | None
    verdict: FindingLevel | None = None
    findings: tuple[FuseFinding, ...] = ()


class ImageKind(StrEnum):
    """What an image is. ``production``: firmware (or a sketch) and bootloader in one."""

    APPLICATION = "application"
    BOOTLOADER = "bootloader"
    PRODUCTION = "production"
    EEPROM = "eeprom"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReport:
    """Consecutive bytes of an image."""

    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageReport:
    """Facts about an image file. ``sha256`` is of the file as it came, ``image_sha256`` of the bytes it means.

    :param bootloaders: ids of the bootloaders it holds one of, as far as the catalog can tell.
    :param bootloader_start: address at which it holds a bootloader, None where it holds none.
    :param parts_that_fit: parts whose memory takes it and, where it holds a bootloader, have a boot section there.
    """

    name: str
    format: str
    sha256: str
    image_sha256: str
    size_bytes: int
    start: int
    end: int
    segments: tuple[SegmentReport, ...]
    parts_that_fit: tuple[str, ...]
    kind: ImageKind
    looks_like: str
    bootloaders: tuple[str, ...] = ()
    bootloader_start: int | None = None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """A part of the catalog. ``boot_sizes`` are bytes, smallest first.

    :param avrdude_id: empty for a part that avrdude does not know.
    :param fuses: factory values of fuse or option bytes.
    :param isp_pins: pins that a programmer needs, keyed sck, copi, cipo; or swdio, swclk.
    :param interface: what a programmer speaks to it.
    :param flash_start: address of the first byte of flash.
    :param flash_bytes: flash of the largest chip where the part has several; the chip itself says how much it has.
    :param smallest_flash_bytes: flash of the smallest one.
    :param ram_bytes: RAM of the smallest one; 0 where the catalog has no use for it.
    :param aliases: further names it is found by.
    """

    id: str
    name: str
    avrdude_id: str
    signature: str
    flash_bytes: int
    flash_page_bytes: int
    eeprom_bytes: int
    fuses: dict[str, int]
    fuse_masks: dict[str, int]
    lock_mask: int
    boot_sizes: tuple[int, ...]
    isp_pins: dict[str, str]
    twins: tuple[str, ...] = ()
    note: str = ""
    interface: Interface = Interface.ISP
    flash_start: int = 0
    smallest_flash_bytes: int = 0
    ram_bytes: int = 0
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BootloaderReport:
    """A bootloader of the catalog. ``section_start`` and ``section_bytes`` None: not bound to one place.

    :param chips: controllers it is for that the part catalog does not know.
    :param tool_max_bytes: most that the tool for it takes, where that is less than ``application_max_bytes``.
    :param application_start: byte address at which a firmware begins.
    :param shares_usb: why its USB id alone does not tell it, empty where it does.
    :param tool: program, or own code, that brings a firmware through it; empty where nothing here does that.
    :param by_hand: how a firmware gets on with it then.
    """

    id: str
    qmk: str
    family: str
    title: str
    parts: tuple[str, ...]
    fuses: dict[str, int]
    lock: int | None
    section_start: int | None
    section_bytes: int | None
    application_max_bytes: int | None
    usb: tuple[str, ...]
    usb_application: tuple[str, ...] = ()
    image_file: str = ""
    image_is_combined: bool = False
    note: str = ""
    unverified: tuple[str, ...] = ()
    fuse_alternatives: dict[str, tuple[int, ...]] = field(default_factory=dict)
    chips: tuple[str, ...] = ()
    tool_max_bytes: int | None = None
    application_start: int = 0
    shares_usb: str = ""
    tool: str = ""
    by_hand: str = ""
