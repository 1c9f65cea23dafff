"""Recipes: what is to be done to each board, complete and independent of slots and programmers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique

from ispd.model.image import Image
from ispd.model.part import MemoryKind

__all__ = ["ClonePolicy", "PlanKind", "Recipe", "SourceFile", "VerifyScope"]


class PlanKind(StrEnum):
    """Which way the firmware takes."""

    ISP_ONLY = "isp-only"
    """Everything there is goes on through the programmer (by ISP or SWD); the board's own USB port is not looked at."""
    MERGED = "merged"
    """The same; bootloader and firmware go on as one production image."""
    CHAINED = "chained"
    """The bootloader goes on through the programmer, then the firmware through it over the board's own USB port."""
    AUTO = "auto"
    """``merged`` or ``chained``, whichever is faster on that slot as measured there."""
    CHAIN_ONLY = "chain-only"
    """The board has its bootloader already: the firmware alone, over its own USB port."""


class VerifyScope(StrEnum):
    """How much of flash is read back. ``full``: all of it, blank outside the image; needs an erase."""

    WRITTEN = "written"
    FULL = "full"


@unique
class ClonePolicy(StrEnum):
    """What is done with a chip whose ids betray that it is not from whom it says. It is in the record in any case."""

    ALLOW = "allow"
    WARN = "warn"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file a recipe was made from, for the record: its name and the SHA-256 of its bytes as they came."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What ``enqueue`` asked for, after every check that needs no board.

    :param part: part id, or None where each board's signature decides.
    :param flash: what ISP writes to flash; empty image: flash is left alone. For ``chained`` and ``auto`` that is the bootloader; for
        ``chain-only`` the bootloader that a rescue puts back, empty where none was given.
    :param plan: which way the firmware takes.
    :param firmware: what goes on through the bootloader; None for ``isp-only`` and ``merged``, whose ``flash`` holds it.
    :param eeprom: what EEPROM must hold, or None.
    :param fuses: fuse or option bytes to write, by memory; only those named are touched.
    :param lock: lock byte to write last (an STM32's RDP), or None.
    :param erase: erase first. Without it only blank or equal cells can be written.
    :param keeps_rest: erase just the pages that hold a byte of ``flash``, which SWD can and ISP cannot; else the whole chip.
    :param unlock: an STM32's protection against reading or writing may be removed, which erases all of its flash. An AVR's lock bits
        need no consent: each erase opens them.
    :param clones: what is done with a chip that is not from whom it says.
    :param verify: how much of flash is read back; everything the recipe names always is.
    :param force_fuses: accept what the fuse guard refuses.
    :param accept_fuses: accept what the fuse guard would ask.
    :param sck_hz: fixed clock of ISP (SCK) or SWD, or None for the best that works.
    :param supply_mv: supply of the boards in millivolts, or None where unknown; only the fuse guard uses it.
    :param warnings: findings that do not stop the job, shown with its result.
    """

    flash: Image
    plan: PlanKind = PlanKind.ISP_ONLY
    firmware: Image | None = None
    part: str | None = None
    eeprom: Image | None = None
    fuses: Mapping[MemoryKind, int] = field(default_factory=dict)
    lock: int | None = None
    bootloader: str | None = None
    erase: bool = True
    keeps_rest: bool = False
    unlock: bool = False
    clones: ClonePolicy = ClonePolicy.WARN
    verify: VerifyScope = VerifyScope.WRITTEN
    force_fuses: bool = False
    accept_fuses: bool = False
    sck_hz: int | None = None
    supply_mv: int | None = None
    sources: tuple[SourceFile, ...] = ()
    warnings: tuple[str, ...] = ()
