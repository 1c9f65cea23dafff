"""Synthetic images: what a bench runs instead of other people's bootloaders and firmware.

Each begins with a jump, as real ones do, and holds a USB device descriptor, so that the catalog's checks see what they would
see in a real one. A marker behind the jump says what the emulated chip is to do when it starts there, and a check sum over
the whole image whether it can: an image of which one bit is wrong does not run.
"""

import binascii
import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum

from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.part import AvrPart
from ispd.model.span import Span

__all__ = ["FirmwareFacts", "FirmwareKind", "application_image", "bootloader_image", "find_firmware"]

_MAGIC = b"vbnch\x01"
_MARKER = struct.Struct("<6sBBIIHH16s16s28sI")
"""Magic, kind, flags, start, size, vendor id, product id, family, variant, name, CRC-32 of the whole image (itself as 0)."""
_JUMP_BYTES = 4
_CRC_AT = _JUMP_BYTES + _MARKER.size - 4
_DESCRIPTOR = struct.Struct("<BBHBBBBHHHBBBB")
_HEAD_BYTES = _JUMP_BYTES + _MARKER.size + _DESCRIPTOR.size
_HAS_SERIAL_PORT = 0x01
_RJMP = 0xC000  # 1100 kkkk kkkk kkkk, relative in words (AVR Instruction Set Manual)
_SHARE = 31 / 32
"""How much of its section a bootloader fills; real ones leave a little."""


class FirmwareKind(StrEnum):
    """What a synthetic image is."""

    BOOTLOADER = "bootloader"
    APPLICATION = "application"


_KINDS = (FirmwareKind.BOOTLOADER, FirmwareKind.APPLICATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareFacts:
    """What a marker says. ``name`` is the bootloader's id in the catalog; family, variant and name are empty for an application.

    :param is_whole: the check sum is right: the image can run.
    """

    kind: FirmwareKind
    span: Span
    vendor_id: int
    product_id: int
    family: str
    variant: str
    name: str
    has_serial_port: bool
    is_whole: bool


def bootloader_image(bootloader: Bootloader, part: AvrPart, *, size_bytes: int | None = None) -> Image:
    """Make a bootloader of a kind that the catalog knows, for the boot section that the catalog names.

    :param size_bytes: 31/32 of the section where not given.
    Raises ``ValueError`` for a bootloader without USB id or section, and for a size that is not between its head and its section.
    """
    if bootloader.section is None or not bootloader.usb or part.id not in bootloader.parts:
        raise ValueError(f"{bootloader.id} is no bootloader with a section and a USB id of {part.name}")
    section = bootloader.section
    size = int(len(section) * _SHARE) & ~1 if size_bytes is None else size_bytes
    return _image(
        FirmwareKind.BOOTLOADER,
        Span(section.start, section.start + size),
        limit=len(section),
        usb=bootloader.usb[0],
        texts=(bootloader.family, bootloader.qmk, bootloader.id),
        flags=0,
        seed=binascii.crc32(bootloader.id.encode()),
    )


def application_image(
    part: AvrPart, size_bytes: int, *, seed: int = 0, usb: str = "FEED:6060", has_serial_port: bool = False
) -> Image:
    """Make a firmware that begins at address 0.

    :param seed: images of two seeds differ in nearly every byte.
    :param usb: id it shows when it runs.
    :param has_serial_port: it shows a serial port too, and starts the bootloader when that is touched at 1200 baud.
    Raises ``ValueError`` for a size that is not between its head and the part's flash.
    """
    flags = _HAS_SERIAL_PORT if has_serial_port else 0
    span = Span(0, size_bytes)
    limit = part.flash.size_bytes
    return _image(FirmwareKind.APPLICATION, span, limit=limit, usb=usb, texts=("", "", ""), flags=flags, seed=seed)


def find_firmware(flash: bytes | bytearray, start: int) -> FirmwareFacts | None:
    """Return what begins at ``start``; None where no synthetic image does."""
    head = bytes(flash[start + _JUMP_BYTES : start + _JUMP_BYTES + _MARKER.size])
    if len(head) < _MARKER.size or not head.startswith(_MAGIC):
        return None
    _, kind, flags, begin, size, vendor, product, *texts, crc = _MARKER.unpack(head)
    content = bytearray(flash[start : start + size])
    content[_CRC_AT : _CRC_AT + 4] = bytes(4)
    family, variant, name = (text.rstrip(b"\0").decode("ascii", errors="replace") for text in texts)
    return FirmwareFacts(
        kind=_KINDS[kind % len(_KINDS)],
        span=Span(start, start + size),
        vendor_id=vendor,
        product_id=product,
        family=family,
        variant=variant,
        name=name,
        has_serial_port=bool(flags & _HAS_SERIAL_PORT),
        is_whole=begin == start and len(content) == size and binascii.crc32(content) == crc,
    )


def _image(
    kind: FirmwareKind, span: Span, *, limit: int, usb: str, texts: tuple[str, str, str], flags: int, seed: int
) -> Image:
    if not _HEAD_BYTES <= len(span) <= limit:
        raise ValueError(f"a {kind} of {len(span)} bytes: {_HEAD_BYTES} to {limit} are possible here")
    vendor, product = (int(half, 16) for half in usb.split(":"))
    names = [text.encode("ascii") for text in texts]
    jump = struct.pack("<HH", _RJMP | (_HEAD_BYTES // 2 - 1), 0)
    marker = _MARKER.pack(_MAGIC, _KINDS.index(kind), flags, span.start, len(span), vendor, product, *names, 0)
    descriptor = _DESCRIPTOR.pack(18, 1, 0x0110, 0, 0, 0, 32, vendor, product, 0, 0, 0, 0, 1)
    content = bytearray(jump + marker + descriptor)
    content += _filler(seed, len(span) - len(content))
    struct.pack_into("<I", content, _CRC_AT, binascii.crc32(content))
    return Image.of([Segment(span.start, bytes(content))])


def _filler(seed: int, count: int) -> bytes:
    """Return bytes that look like code: none of them blank, so that every page is written."""
    noise = hashlib.shake_128(seed.to_bytes(8, "little", signed=True)).digest(count)
    return noise.replace(b"\xff", b"\xfe")
