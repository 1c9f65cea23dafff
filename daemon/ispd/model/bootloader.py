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

    :param chips: controllers it is for that the part catalog does not know, by QMK's name; ISP does not reach them.
    :param section: where it lies itself, None where it is in a memory of its own or not bound to one place.
    :param application_max_bytes: most that a firmware may have.
    :param tool_max_bytes: most that its usual tool takes, where that is less.
    :param application_start: byte address of the firmware's first byte.
    :param usb: ids that it shows, as 03EB:2FF4.
    :param usb_release: bcdDevice, where that tells it from another bootloader of the same id.
    :param usb_texts: manufacturer and product text, where the id alone proves nothing: it is shared by other devices.
    :param shares_usb: why the id is also that of something else, empty where it is not.
    :param is_any: it stands for every bootloader of its QMK name, where only the board could say which it has.
    :param dfu_alt: alternate setting of its DFU interface that takes the firmware.
    :param entry: what somebody has to do on a board without firmware so that it starts; empty where a reset is enough.
    :param sketch_file_bytes: length of a file of its vendor that holds a sketch too, where that is mistaken for ``image_file``.
    :param by_hand: how a firmware gets on with it, where nothing here does that.
    """

    id: str
    family: str
    qmk: str
    title: str
    parts: tuple[str, ...]
    chips: tuple[str, ...] = ()
    fuses: Mapping[MemoryKind, int]
    fuse_alternatives: Mapping[MemoryKind, tuple[int, ...]]
    lock: int | None
    section: Span | None
    application_max_bytes: int | None
    tool_max_bytes: int | None = None
    application_start: int = 0
    usb: tuple[str, ...]
    usb_application: tuple[str, ...]
    usb_release: int | None = None
    usb_texts: tuple[str, ...] = ()
    shares_usb: str = ""
    is_any: bool = False
    dfu_alt: int | None = None
    entry: str = ""
    by_hand: str = ""
    image_file: str
    image_is_combined: bool
    image_sha256: str = ""
    sketch_file_bytes: int | None = None
    note: str = ""
    unverified: tuple[str, ...] = ()
