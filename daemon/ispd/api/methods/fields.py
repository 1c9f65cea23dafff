"""Parameters that several methods have, each with its meaning and its limits."""

from typing import Annotated

from msgspec import Meta

from ispd.api.values import MAX_IMAGES, BinaryFile, Byte, OptionBytes
from ispd.errors import ErrorCode

__all__ = [
    "IMAGE_ERRORS",
    "MAX_ID",
    "Before",
    "BootloaderName",
    "ExtendedFuse",
    "HighFuse",
    "Images",
    "JobId",
    "Limit",
    "LockByte",
    "LowFuse",
    "NamedOptionBytes",
    "PartId",
    "SlotName",
    "StripSketch",
    "UnitId",
    "Unlock",
]

MAX_ID = (1 << 63) - 1
"""Largest number the journal can give."""

PartId = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_.-]{1,32}$", description="part id, data sheet name or avrdude id: atmega32u4, m32u4"),
]
SlotName = Annotated[str, Meta(min_length=1, max_length=64)]
JobId = Annotated[int, Meta(ge=1, le=MAX_ID, description="number of the job")]
UnitId = Annotated[int, Meta(ge=1, le=MAX_ID, description="number of the unit")]
Limit = Annotated[int, Meta(ge=1, le=1000, description="at most so many, newest first")]
Before = Annotated[int, Meta(ge=1, le=MAX_ID, description="only those with a smaller number, to page on")]
LowFuse = Annotated[Byte, Meta(description="low fuse byte")]
HighFuse = Annotated[Byte, Meta(description="high fuse byte")]
ExtendedFuse = Annotated[Byte, Meta(description="extended fuse byte")]
LockByte = Annotated[
    Byte, Meta(description="lock byte of an AVR, or read protection (RDP) of an STM32, where 0xA5 is open")
]
NamedOptionBytes = Annotated[
    OptionBytes | None,
    Meta(description="option bytes of an STM32: user, data0, data1, wrp0 to wrp3; those left out are not touched"),
]
BootloaderName = Annotated[
    str, Meta(max_length=64, description="bootloader id or QMK name: its fuse bytes, and its lock byte if it has one")
]
StripSketch = Annotated[
    bool,
    Meta(description="of a combined file, bootloader and sketch, that is in another's way take the bootloader only"),
]
Unlock = Annotated[
    bool,
    Meta(description="remove an STM32's protection against reading or writing, which erases all of its flash"),
]
Images = Annotated[list[BinaryFile], Meta(max_length=MAX_IMAGES)]

IMAGE_ERRORS = (
    ErrorCode.IMAGE_INVALID,
    ErrorCode.IMAGE_TOO_LARGE,
    ErrorCode.IMAGE_OVERLAP,
    ErrorCode.IMAGE_DOES_NOT_FIT,
    ErrorCode.UNKNOWN_PART,
)
