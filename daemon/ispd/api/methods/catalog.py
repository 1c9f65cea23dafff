"""What the catalog knows about parts, bootloaders and image files."""

from typing import Annotated, Literal

from msgspec import Meta

from ispd.api.declare import Method, Params, Privilege
from ispd.api.methods.fields import (
    IMAGE_ERRORS,
    BootloaderName,
    ExtendedFuse,
    HighFuse,
    LockByte,
    LowFuse,
    NamedOptionBytes,
    PartId,
    StripSketch,
)
from ispd.api.values import MAX_IMAGES, BinaryFile, ExplainedPart, Merged
from ispd.errors import ErrorCode
from ispd.model.report import BootloaderReport, ImageReport, PartReport

__all__ = [
    "BOOTLOADER_LIST",
    "IMAGE_INSPECT",
    "IMAGE_MERGE",
    "PART_GET",
    "PART_LIST",
    "BootloaderList",
    "ImageInspect",
    "ImageMerge",
    "PartGet",
    "PartList",
]


class PartList(Params, frozen=True, kw_only=True):
    """List the parts in the catalog."""


class PartGet(Params, frozen=True, kw_only=True):
    """Explain a part: its memories, and fuse bytes (option bytes of an STM32) bit by bit with the fuse guard's verdict.

    Bytes that are not given are explained at the bootloader's value, or at their factory value.
    """

    id: PartId
    lfuse: LowFuse | None = None
    hfuse: HighFuse | None = None
    efuse: ExtendedFuse | None = None
    lock: LockByte | None = None
    option_bytes: NamedOptionBytes = None
    bootloader: BootloaderName | None = None


class BootloaderList(Params, frozen=True, kw_only=True):
    """List the bootloaders in the catalog."""


class ImageInspect(Params, frozen=True, kw_only=True):
    """Tell what an image file is and holds, and what looks wrong with it; with a part, whether it suits that part."""

    image: Annotated[BinaryFile, Meta(description="the image file")]
    part: PartId | None = None
    memory: (
        Annotated[
            Literal["flash", "eeprom"],
            Meta(description="memory it is for: flash or eeprom; left out, eeprom for .eep files"),
        ]
        | None
    ) = None


class ImageMerge(Params, frozen=True, kw_only=True):
    """Join image files, bootloader and firmware, into one production file.

    Overlaps are refused. A bootloader file that carries a sketch at address 0 is in the firmware's way: it is refused too, or
    stripped of its sketch where that is asked for.
    """

    images: Annotated[list[BinaryFile], Meta(min_length=2, max_length=MAX_IMAGES, description="the image files")]
    part: PartId | None = None
    strip_sketch: StripSketch = False


PART_LIST = Method(
    name="part.list", params=PartList, result=list[PartReport], result_text="the parts", privilege=Privilege.VIEW
)
PART_GET = Method(
    name="part.get",
    params=PartGet,
    result=ExplainedPart,
    result_text="the part, explained",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_PART, ErrorCode.UNKNOWN_BOOTLOADER),
)
BOOTLOADER_LIST = Method(
    name="bootloader.list",
    params=BootloaderList,
    result=list[BootloaderReport],
    result_text="the bootloaders",
    privilege=Privilege.VIEW,
)
IMAGE_INSPECT = Method(
    name="image.inspect",
    params=ImageInspect,
    result=ImageReport,
    result_text="what the image holds",
    privilege=Privilege.VIEW,
    errors=IMAGE_ERRORS,
)
IMAGE_MERGE = Method(
    name="image.merge",
    params=ImageMerge,
    result=Merged,
    result_text="the joined file",
    privilege=Privilege.VIEW,
    errors=IMAGE_ERRORS,
)
