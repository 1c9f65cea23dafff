"""Does an image suit a part: the same questions for every family, answered by who knows the family."""

from collections.abc import Mapping

from ispd.catalog.avr_image import check_avr_image
from ispd.catalog.cortex_image import VECTOR_TABLE_BYTES, check_vectors, located
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.image import Image
from ispd.model.part import AvrPart, MemoryKind, Part, Stm32Part

__all__ = ["check_fit", "check_image", "check_memory"]

_OBJCOPY_OFFSET = 0x800000
"""avr-gcc gives RAM, EEPROM, fuse and lock sections addresses from here on, up to 0x86FFFF."""

_STM32_FLASH = 0x0800_0000


def check_memory(part: Part, kind: MemoryKind) -> None:
    """Raise ``RefusedError`` (invalid-parameter) where a part has no such memory to put an image into."""
    if kind not in part.memories:
        raise RefusedError(
            ErrorCode.INVALID_PARAMETER,
            f"{part.name} has no {kind}",
            hint="leave it out: what is to be kept on this part lies in its flash",
            facts=Facts(part=part.id, field=kind),
        )


def check_fit(part: Part, kind: MemoryKind, image: Image) -> None:
    """Raise ``RefusedError`` where a byte lies outside of a memory (image-does-not-fit), or the part has none (invalid-parameter)."""
    check_memory(part, kind)
    memory = part.memory(kind).span
    image = located(image, memory)
    if not len(image) or image.span in memory:
        return
    outside = next(one for one in image.segments if one.span not in memory)
    address = max(outside.start, memory.stop) if outside.start >= memory.start else outside.start
    first = f" begins at 0x{memory.start:04X} and" if memory.start else ""
    raise RefusedError(
        ErrorCode.IMAGE_DOES_NOT_FIT,
        f"the image has bytes from 0x{address:04X} on, to 0x{image.span.stop - 1:04X};"
        f" the {kind} of {part.name}{first} ends at 0x{memory.stop - 1:04X} ({len(memory)} bytes)",
        hint=_misfit_hint(part, kind, address),
        facts=Facts(part=part.id, memory=kind, address=address),
    )


def _misfit_hint(part: Part, kind: MemoryKind, address: int) -> str:
    if not isinstance(part, AvrPart) or address < _OBJCOPY_OFFSET:
        return "is this image made for another part?"
    if address >= _STM32_FLASH:
        return f"it was linked for an STM32; {part.name} is an AVR"
    if kind is MemoryKind.EEPROM:
        return "EEPROM files begin at 0: build it with `avr-objcopy -j .eeprom --change-section-lma .eeprom=0`"
    return "the file holds EEPROM or fuse sections: build it with `avr-objcopy -R .eeprom -R .fuse -R .lock`"


def check_image(
    part: Part, image: Image, fuses: Mapping[MemoryKind, int], *, erase: bool = True, force: bool = False
) -> tuple[str, ...]:
    """Check a flash image against a part and the fuse bytes that will be in force; return what deserves a word.

    :param fuses: bytes that will be in force after the job, as far as known; what is not known is not judged.
    :param erase: False where flash may already hold what the image lacks.
    :param force: tell also what would be refused.
    Raises ``RefusedError``: image-does-not-fit, also for a program of another family, and image-fuse-mismatch where the board certainly
    would not run.
    """
    check_fit(part, MemoryKind.FLASH, image)
    if not len(image):
        return ()
    if isinstance(part, AvrPart):
        return check_avr_image(part, image, fuses, erase=erase, force=force)
    return _check_stm32_image(part, image, erase=erase, force=force) if isinstance(part, Stm32Part) else ()


def _check_stm32_image(part: Stm32Part, image: Image, *, erase: bool, force: bool) -> tuple[str, ...]:
    flash = part.flash.span
    placed = located(image, flash)
    if placed.span.start < flash.start + VECTOR_TABLE_BYTES:
        return check_vectors(placed, flash, flash.start, force=force)
    if not erase:
        return ()
    where = f"nothing is at 0x{flash.start:08X}, where the chip starts, and the erase leaves nothing"
    return (f"the image begins at 0x{placed.span.start:08X}: {where}",)
