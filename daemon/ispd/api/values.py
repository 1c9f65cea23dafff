"""Values that go over the API and are no part of the model: files from clients, and results made for one method."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ispd.model.part import MemoryKind
from ispd.model.report import FuseReport, ImageReport, PartReport

__all__ = [
    "MAX_IMAGES",
    "Attachment",
    "BinaryFile",
    "Byte",
    "Dump",
    "ExplainedPart",
    "Merged",
    "Nothing",
    "OptionBytes",
    "RecipeFile",
    "Subscribed",
]

MAX_IMAGES = 16
"""Files that may make up one image. A production image has two or three."""

Byte = Annotated[int, Meta(ge=0, le=0xFF)]

FileName = Annotated[
    str,
    Meta(
        pattern=r"^[^/\x00-\x1f\x7f]{1,255}$",
        description="the file's name, without directories; its ending tells the format",
    ),
]


class BinaryFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file's content. The daemon never opens a path of its client's."""

    name: FileName
    content: Annotated[bytes, Meta(description="the bytes, in base64")]
    base: (
        Annotated[
            int, Meta(ge=0, le=0xFFFFFFFF, description="byte address of a raw binary; other formats have their own")
        ]
        | None
    ) = None


class Attachment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that a recipe names."""

    name: Annotated[
        str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,255}$", description="the file as the recipe writes it; never opened")
    ]
    content: Annotated[bytes, Meta(description="the bytes, in base64")]


class RecipeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe (TOML) with the content of every file it names."""

    name: FileName
    content: Annotated[bytes, Meta(description="the recipe's bytes, in base64")]
    files: Annotated[list[Attachment], Meta(max_length=MAX_IMAGES, description="the files it names")] = msgspec.field(
        default_factory=list
    )


class OptionBytes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Option bytes of an STM32, by the names of its reference manual; those left out stay as they are."""

    user: Annotated[Byte, Meta(description="watchdog, and reset on entering Stop or Standby mode")] | None = None
    data0: Annotated[Byte, Meta(description="a byte for the user's own purpose")] | None = None
    data1: Annotated[Byte, Meta(description="a byte for the user's own purpose")] | None = None
    wrp0: (
        Annotated[Byte, Meta(description="write protection of the first eight groups of pages; a 0 protects")] | None
    ) = None
    wrp1: Annotated[Byte, Meta(description="write protection of the next eight groups")] | None = None
    wrp2: Annotated[Byte, Meta(description="write protection of the next eight groups")] | None = None
    wrp3: Annotated[Byte, Meta(description="write protection of the rest of flash")] | None = None

    def named(self) -> dict[MemoryKind, int]:
        """Return those that were given, by memory."""
        given = msgspec.structs.asdict(self)
        return {MemoryKind(name): value for name, value in given.items() if value is not None}


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """What a memory holds. ``content`` (base64) begins at byte address ``start``; ``sha256`` is the digest of these bytes."""

    slot: str
    memory: MemoryKind
    size: int
    sha256: str
    content: bytes
    start: int = 0


class ExplainedPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part, and its fuse bytes bit by bit with the fuse guard's findings."""

    part: PartReport
    fuses: FuseReport


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """A production image: an Intel hex file (base64) and what it holds."""

    name: str
    content: bytes
    report: ImageReport


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """``seq`` of the newest event at the moment of subscribing; state fetched afterwards is at least as new."""

    seq: int


class Nothing(msgspec.Struct, frozen=True, kw_only=True):
    """The method has no result besides having worked."""
