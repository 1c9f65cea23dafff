"""What is to be known of an image for a Cortex-M: its vector table, and whether the chip would start with it.

ARMv7-M Architecture Reference Manual, B1.5.3: the first word is the stack pointer, the second the reset vector, whose bit 0 is set.
"""

from dataclasses import dataclass

from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.span import Span

__all__ = ["VECTOR_TABLE_BYTES", "VectorTable", "check_vectors", "is_cortex_program", "located", "vector_table"]

_RAM = Span(0x2000_0000, 0x2010_0000)
"""Where the stack of an STM32F1 begins, and that of nearly every other Cortex-M of a keyboard."""

_ANY_RAM = Span(0x1000_0000, 0x3000_0000)
"""Where any Cortex-M may have RAM: that of an STM32F3 or F4 which only the core reaches is at 0x10000000."""

VECTOR_TABLE_BYTES = 8
_FLASHES = (Span(0x0800_0000, 0x0820_0000), Span(0, 0x0020_0000))
"""Where an STM32 has its flash: its own address, and 0, where it appears too with the usual boot pins (RM0008, "Boot configuration")."""


@dataclass(frozen=True, slots=True)
class VectorTable:
    """The two words that a Cortex-M begins with."""

    stack: int
    reset: int

    @property
    def entry(self) -> int:
        """Address of the first instruction."""
        return self.reset & ~1

    @property
    def has_stack(self) -> bool:
        """True where the stack is in what is RAM on any Cortex-M. A RISC-V begins with an instruction instead."""
        return self.stack in _ANY_RAM

    @property
    def is_plausible(self) -> bool:
        """True where the stack is in RAM and the reset vector one of Thumb code."""
        return self.stack in _RAM and self.stack % 4 == 0 and self.reset & 1 == 1


def vector_table(image: Image, start: int) -> VectorTable | None:
    """Return the vector table at an address, None where the image does not define its eight bytes."""
    place = Span(start, start + VECTOR_TABLE_BYTES)
    if not any(place in segment.span for segment in image.segments):
        return None
    words = image.bytes_in(place)
    return VectorTable(int.from_bytes(words[:4], "little"), int.from_bytes(words[4:], "little"))


def is_cortex_program(image: Image) -> bool:
    """Tell whether an image begins with the vector table of an STM32's program, wherever that was linked for."""
    table = vector_table(image, image.span.start)
    return table is not None and table.is_plausible and any(table.entry in flash for flash in _FLASHES)


def located(image: Image, flash: Span) -> Image:
    """Return an image at its address in ``flash``; what lies at 0, as long as flash at most, means the same memory."""
    if not len(image) or image.span.stop > len(flash):
        return image
    return Image.of(Segment(flash.start + one.start, one.data) for one in image.segments)


def check_vectors(image: Image, reach: Span, start: int, *, force: bool = False) -> tuple[str, ...]:
    """Check that the chip, or its bootloader, would start what an image holds from ``start`` on; return what deserves a word.

    :param reach: where the reset vector may point: all of flash, or just the firmware where nothing else can be meant.
    :param start: address of the vector table; an image that does not define a byte of it is not judged.
    :param force: tell what would be refused.
    Raises ``RefusedError`` (image-does-not-fit) where there is no vector table, or only a part of it, or its reset vector points elsewhere.
    """
    table = vector_table(image, start)
    hint = "is this image made for another part? a Cortex-M starts with its stack pointer and its reset vector"
    if table is None:
        place = Span(start, start + VECTOR_TABLE_BYTES)
        count = sum(len(segment.span.overlap(place)) for segment in image.segments)
        if not count:
            return ()
        told = (
            f"the image has only {count} of the {VECTOR_TABLE_BYTES} bytes that a program begins with at 0x{start:08X}"
        )
    elif not table.is_plausible:
        told = f"the image does not begin like a program at 0x{start:08X}: stack 0x{table.stack:08X}, reset vector 0x{table.reset:08X}"
    elif table.entry not in reach:
        told = f"the image's reset vector 0x{table.entry:08X} is not from 0x{reach.start:08X} to 0x{reach.stop - 1:08X}"
        hint = "it was linked for another address: build it for this one"
    elif not any(table.entry in segment.span for segment in image.segments):
        return (f"the image starts at 0x{table.entry:08X}, where it has nothing: was it linked for another address?",)
    else:
        return ()
    if force:
        return (told,)
    raise RefusedError(
        ErrorCode.IMAGE_DOES_NOT_FIT, told, hint=hint, facts=Facts(memory="flash", address=start, field="images")
    )
