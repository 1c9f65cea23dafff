"""Recipes: what is to be done to each board, complete and independent of slots and programmers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ispd.model.image import Image
from ispd.model.part import MemoryKind

__all__ = ["Recipe", "SourceFile", "VerifyScope"]


class VerifyScope(StrEnum):
    """How much of flash is read back. ``full``: all of it, blank outside the image; needs an erase."""

    WRITTEN = "written"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file a recipe was made from, for the record: its name and the SHA-256 of its bytes as they came."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What ``enqueue`` asked for, after every check that needs no board.

    :param part: part id, or None where each board's signature decides.
    :param flash: what flash must hold; empty image: flash is left alone.
    :param eeprom: what EEPROM must hold, or None.
    :param fuses: bytes to write, by memory; only those named are touched.
    :param lock: lock byte to write last, or None.
    :param erase: chip erase first. Without it only blank or equal cells can be written.
    :param verify: how much of flash is read back; everything the recipe names always is.
    :param force_fuses: accept what the fuse guard refuses.
    :param accept_fuses: accept what the fuse guard would ask.
    :param sck_hz: fixed SCK, or None for the programmer's choice.
    :param supply_mv: supply of the boards in millivolts, or None where unknown; only the fuse guard uses it.
    :param warnings: findings that do not stop the job, shown with its result.
    """

    flash: Image
    part: str | None = None
    eeprom: Image | None = None
    fuses: Mapping[MemoryKind, int] = field(default_factory=dict)
    lock: int | None = None
    bootloader: str | None = None
    erase: bool = True
    verify: VerifyScope = VerifyScope.WRITTEN
    force_fuses: bool = False
    accept_fuses: bool = False
    sck_hz: int | None = None
    supply_mv: int | None = None
    sources: tuple[SourceFile, ...] = ()
    warnings: tuple[str, ...] = ()
