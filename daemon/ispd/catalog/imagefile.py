"""Image files: Intel HEX and raw binaries in, images out. The only importer of intelhex."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from io import StringIO

from intelhex import IntelHex, IntelHexError

from ispd.catalog.hextext import scan_hex
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.recipe import SourceFile

__all__ = ["MAX_FILE_BYTES", "ImageFile", "ImageFormat", "read_image"]

MAX_FILE_BYTES = 1 << 20
"""Largest file taken: the hex of a 256 KiB part is about 720 KiB, and parsing costs some 90 bytes of memory per byte."""

_ELF_MAGIC = b"\x7fELF"
_ADDRESS_LIMIT = 1 << 32


class ImageFormat(StrEnum):
    """Format of an image file."""

    INTEL_HEX = "intel-hex"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """An image file that passed the gate.

    :param sha256: digest of the file as it came.
    :param start_record: address of a type 03 or 05 record; never written to a part, but it tells where a loader starts.
    :param notes: harmless oddities of the file's form (line ends, blank lines), for who inspects it.
    :param warnings: what was done to the file beyond reading it.
    """

    name: str
    format: ImageFormat
    sha256: str
    image: Image
    start_record: int | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def source(self) -> SourceFile:
        """Name and digest, for the record."""
        return SourceFile(self.name, self.sha256)


def read_image(name: str, content: bytes, *, base: int | None = None) -> ImageFile:
    """Read an image file; the format is told by its name and first bytes.

    :param base: byte address of a raw binary (0 where not given); Intel HEX carries its addresses and takes none.
    Raises ``RefusedError``: image-too-large, image-invalid or image-overlap with the line, invalid-parameter for ``base``.
    """
    if len(content) > MAX_FILE_BYTES:
        raise RefusedError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"{name} has {len(content)} bytes, more than the {MAX_FILE_BYTES} that are taken",
            hint="is this the firmware file? the hex of the largest part is smaller",
        )
    if content.startswith(_ELF_MAGIC):
        raise RefusedError(
            ErrorCode.IMAGE_INVALID,
            f"{name} is an ELF file",
            hint="convert it with `avr-objcopy -O ihex -R .eeprom -R .fuse -R .lock IN.elf OUT.hex`",
        )
    if name.lower().endswith(".bin"):
        return _read_raw(name, content, 0 if base is None else base)
    if base is not None:
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER,
            f"a base address is for raw .bin files; {name} is read as Intel HEX, which has its own",
            facts=Facts(field="base"),
        )
    return _read_hex(name, content)


def _read_raw(name: str, content: bytes, base: int) -> ImageFile:
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
    )


def _read_hex(name: str, content: bytes) -> ImageFile:
    scan = scan_hex(name, content)
    starts = {address for _, address in scan.start_records}
    return ImageFile(
        name=name,
        format=ImageFormat.INTEL_HEX,
        sha256=hashlib.sha256(content).hexdigest(),
        image=_parse(name, scan.text),
        start_record=starts.pop() if len(starts) == 1 else None,
        notes=tuple(scan.notes),
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
