"""Bootloaders as facts: which parts, which fuses, where, and how the board shows up on USB afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass

from ispd.model.part import MemoryKind
from ispd.model.span import Span

__all__ = ["Bootloader"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootloader:
    """One bootloader build.

    ``fuses`` are the bytes to write; ``fuse_alternatives`` are further values of the same byte that are just as good
    (JTAG left enabled). ``lock`` is the byte its vendor writes last, None where none is recommended. ``image_sha256`` is
    the digest of the vendor's file, where known. ``unverified`` names the facts nobody confirmed.
    """

    id: str
    family: str
    qmk: str
    title: str
    parts: tuple[str, ...]
    fuses: Mapping[MemoryKind, int]
    fuse_alternatives: Mapping[MemoryKind, tuple[int, ...]]
    lock: int | None
    section: Span | None
    application_max_bytes: int | None
    usb: tuple[str, ...]
    usb_application: tuple[str, ...]
    image_file: str
    image_is_combined: bool
    image_sha256: str = ""
    note: str = ""
    unverified: tuple[str, ...] = ()
