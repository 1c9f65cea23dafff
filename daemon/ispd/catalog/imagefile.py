"""Image files: Intel HEX, ELF and raw binaries in, images out. The only importer of intelhex."""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum
from io import StringIO

from intelhex import IntelHex, IntelHexError

from ispd.catalog.elffile import ELF_MAGIC, ElfContent, read_elf
from ispd.catalog.hextext import scan_hex
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind
from ispd.model.recipe import SourceFile

__all__ = ["MAX_FILE_BYTES", "ImageFile", "ImageFormat", "read_image"]

MAX_FILE_BYTES = 1 << 20
"""Largest file taken: the hex of a 256 KiB part is about 720 KiB, and parsing costs some 90 bytes of memory per byte."""

_UF2_MAGIC = b"UF2\n"  # first word of each block (microsoft/uf2)
_ADDRESS_LIMIT = 1 << 32


class ImageFormat(StrEnum):
    """Format of an image file."""

    INTEL_HEX = "intel-hex"
    ELF = "elf"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image file that passed the gate.

    :param sha256: digest of the file as it came.
    :param start_record: address of a type 03 or 05 record; never written to a part, but it tells where a loader starts.
    :param notes: harmless oddities of the file's form (line ends, blank lines), for who inspects it.
    :param warnings: what was done to the file beyond reading it.
    :param memory: what ``image`` is for.
    :param elf: everything else an ELF file wants in a part; None for other formats.
    :param has_address: False for a raw binary of which nobody said where it belongs; it stands at 0.
    """

    name: str
    format: ImageFormat
    sha256: str
    image: Image
    start_record: int | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    memory: MemoryKind = MemoryKind.FLASH
    elf: ElfContent | None = None
    has_address: bool = True

    @property
    def source(self) -> SourceFile:
        """Name and digest, for the record."""
        return SourceFile(self.name, self.sha256)


def read_image(name: str, content: bytes, *, base: int | None = None, memory: MemoryKind | None = None) -> ImageFile:
    """Read an image file; the format is told by its name and first bytes.

    :param base: byte address of a raw binary (0 where not given); the other formats carry their addresses and take none.
    :param memory: flash or EEPROM; where it is not said, ``.eep`` files are for EEPROM and all others for flash.
    Raises ``RefusedError``: image-too-large, image-invalid or image-overlap with the line, invalid-parameter for ``base``.
    """
    if len(content) > MAX_FILE_BYTES:
        raise RefusedError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"{name} has {len(content)} bytes, more than the {MAX_FILE_BYTES} that are taken",
            hint="strip debug information with `avr-strip`, or take the .hex"
            if content.startswith(ELF_MAGIC)
            else "is this the firmware file? the hex of the largest part is smaller",
        )
    is_eeprom = name.lower().endswith(".eep")
    if is_eeprom and memory is MemoryKind.FLASH:
        raise RefusedError(
            ErrorCode.IMAGE_INVALID,
            f"{name} is EEPROM data by its name, and was given for the flash",
            hint="give it as --eeprom",
        )
    kind = memory or (MemoryKind.EEPROM if is_eeprom else MemoryKind.FLASH)
    is_elf = content.startswith(ELF_MAGIC)  # also where it is called .bin: its headers are no code
    if content.startswith(_UF2_MAGIC):
        raise RefusedError(
            ErrorCode.IMAGE_INVALID, f"{name} is a UF2 file", hint="that is for boards with a drive; ISP takes the .hex"
        )
    if name.lower().endswith(".bin") and not is_elf:
        return replace(_read_raw(name, content, base or 0, kind), has_address=base is not None)
    if base is not None:
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER,
            f"a base address is for raw .bin files; {name} is read as Intel HEX or ELF, which has its own",
            facts=Facts(field="base"),
        )
    return _read_elf(name, content, kind) if is_elf else _read_hex(name, content, kind)


def _read_elf(name: str, content: bytes, memory: MemoryKind) -> ImageFile:
    elf = read_elf(name, content)
    image = elf.flash if memory is MemoryKind.FLASH else elf.eeprom
    if image is None or not len(image):
        raise RefusedError(
            ErrorCode.IMAGE_INVALID,
            f"{name}: there is not one byte for the {memory} in it",
            hint="name a file that has some, or leave it out",
        )
    return ImageFile(
        name=name,
        format=ImageFormat.ELF,
        sha256=hashlib.sha256(content).hexdigest(),
        image=image,
        memory=memory,
        elf=elf,
    )


def _read_raw(name: str, content: bytes, base: int, memory: MemoryKind) -> ImageFile:
    if not content:
        raise RefusedError(ErrorCode.IMAGE_INVALID, f"{name}: there is not one data byte in it")
    if not 0 <= base <= _ADDRESS_LIMIT - len(content):
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER, f"base address {base:#x} is not a 32-bit address", facts=Facts(field="base")
        )
    return ImageFile(
        name=name,
        format=ImageFormat.RAW,
        sha256=hashlib.sha256(content).hexdigest(),
        image=Image((Segment(base, content),)),
        memory=memory,
    )


def _read_hex(name: str, content: bytes, memory: MemoryKind) -> ImageFile:
    scan = scan_hex(name, content)
    starts = {address for _, address in scan.start_records}
    return ImageFile(
        name=name,
        format=ImageFormat.INTEL_HEX,
        sha256=hashlib.sha256(content).hexdigest(),
        image=_parse(name, scan.text),
        start_record=starts.pop() if len(starts) == 1 else None,
        notes=tuple(scan.notes),
        memory=memory,
    )


def _parse(name: str, text: str) -> Image:
    reader = IntelHex()
    try:
        reader.loadhex(StringIO(text))
    except IntelHexError as error:
        raise RefusedError(ErrorCode.IMAGE_INVALID, f"{name}: {error}") from error
    return Image.of(
        Segment(start, reader.tobinstr(start=start, size=stop - start)) for start, stop in reader.segments()
    )
