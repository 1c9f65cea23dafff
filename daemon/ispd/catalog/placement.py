"""Where the bytes of files belong in the flash of an STM32F1: a plain .bin has no address, and 0 means flash too."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ispd.catalog.cortex_image import located
from ispd.catalog.imagefile import ImageFile
from ispd.catalog.sections import holds, is_below_firmware, starts_in_section
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.part import MemoryKind, Part, Stm32Part
from ispd.model.span import Span

__all__ = ["held_loader", "linking_word", "linking_words", "place_files", "sketch_words"]

_EXCEPTIONS = Span(4, 64)
"""Reset vector and the fourteen exceptions of the core in a vector table (ARMv7-M Architecture Reference Manual, B1.5.2)."""


def held_loader(files: Iterable[ImageFile], part: Part | None, known: Iterable[Bootloader]) -> Bootloader | None:
    """Return the bootloader at the begin of flash that one of the files holds; None for an AVR, whose images all have addresses."""
    if not isinstance(part, Stm32Part):
        return None
    below = [one for one in known if is_below_firmware(one)]
    return next((one for file in files for one in below if holds(file.image, one)), None)


def place_files(files: Sequence[ImageFile], part: Part | None, loader: Bootloader | None) -> list[ImageFile]:
    """Return files with their addresses in flash; those for an AVR or an unknown part as they are.

    :param loader: the bootloader that the firmware is for, None where it begins with flash.
    """
    if not isinstance(part, Stm32Part):
        return list(files)
    is_held = loader is not None and any(holds(file.image, loader) for file in files)
    # one file alone is a firmware; of several that hold no known bootloader, one may be another build of it
    return [_placed(file, part, loader, by_vectors=not is_held and len(files) > 1) for file in files]


def sketch_words(files: Iterable[ImageFile], loader: Bootloader | None) -> tuple[str, ...]:
    """Tell of a vendor's file that holds a sketch where only the bootloader was meant, by its length."""
    if loader is None or loader.sketch_file_bytes is None:
        return ()
    return tuple(
        f"{file.name} has the length of the file that holds {loader.id} and a sketch behind it, which is no firmware of a keyboard;"
        f" the bootloader alone is {loader.image_file} of bootloader_only_binaries/"
        for file in files
        if len(file.image) == loader.sketch_file_bytes and holds(file.image, loader)
    )


def linking_words(
    files: Iterable[ImageFile], part: Part | None, loader: Bootloader | None, known: Iterable[Bootloader]
) -> tuple[str, ...]:
    """Tell of a plain .bin that goes to the begin of flash and has all its vectors where a bootloader's firmware lies: linked for that."""
    if not isinstance(part, Stm32Part) or loader is not None:
        return ()
    nameless = (file for file in files if not file.has_address)
    return tuple(word for file in nameless for word in linking_word(file.name, file.image, part, known))


def linking_word(name: str, image: Image, part: Stm32Part, known: Iterable[Bootloader]) -> tuple[str, ...]:
    """Tell the same of one image at 0 or at the begin of flash, of which nobody said that it is for a bootloader."""
    below = next((one for one in known if part.id in one.parts and is_below_firmware(one)), None)
    if below is None:
        return ()
    start = part.flash.start if part.flash.start in image.span else 0
    words = struct.unpack("<15I", image.bytes_in(Span(start + _EXCEPTIONS.start, start + _EXCEPTIONS.stop)))
    vectors = [word for word in words if word in part.flash.span]
    if not vectors or min(vectors) < below.application_start:
        return ()
    word = (
        f"{name} goes to 0x{part.flash.start:08X}, and all of its vectors point above 0x{below.application_start:08X}:"
        f" if it is built for {below.id}, name that, and its file too: --bootloader {below.id} --plan merged"
    )
    return (word,)


def _placed(file: ImageFile, part: Stm32Part, loader: Bootloader | None, *, by_vectors: bool) -> ImageFile:
    if file.memory is not MemoryKind.FLASH:
        return file
    flash = part.flash.span
    if file.has_address or loader is None or not is_below_firmware(loader):
        return replace(file, image=located(file.image, flash))
    is_loader = starts_in_section(file.image, loader) if by_vectors else holds(file.image, loader)
    start = flash.start if is_loader else loader.application_start
    return replace(file, image=Image.of(Segment(start + one.start, one.data) for one in file.image.segments))
