"""What an image file is: facts, what it seems to hold, and which parts take it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ispd.catalog.avr_image import boot_starts, guess_bootloader, has_jump
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.cortex_image import is_cortex_program, located, vector_table
from ispd.catalog.hextext import overrun
from ispd.catalog.imagefile import ImageFile
from ispd.catalog.parts import Parts
from ispd.catalog.placement import sketch_words
from ispd.catalog.sections import holds, is_below_firmware
from ispd.catalog.usb_descriptor import usb_id_in
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import MemoryKind, Part, Stm32Part
from ispd.model.report import ImageKind, ImageReport, SegmentReport
from ispd.model.span import Span

__all__ = ["inspect_image"]


@dataclass(frozen=True, slots=True)
class _Identity:
    """What an image seems to be. ``start`` is where it holds a bootloader, None where it holds none."""

    kind: ImageKind
    words: str
    start: int | None = None
    bootloaders: tuple[Bootloader, ...] = ()


def inspect_image(file: ImageFile, parts: Parts, bootloaders: Bootloaders | None = None) -> ImageReport:
    """Return facts about an image file and what it seems to be; ``bootloaders`` lets known files be recognised."""
    image = file.image
    identity = _identify(file, parts, tuple(bootloaders or ()))
    return ImageReport(
        name=file.name,
        format=file.format.value,
        sha256=file.sha256,
        image_sha256=image.sha256,
        size_bytes=len(image),
        start=image.span.start,
        end=image.span.stop,
        segments=tuple(SegmentReport(start=s.start, size_bytes=len(s.data)) for s in image.segments),
        parts_that_fit=tuple(part.id for part in _built_for(file, parts) if _takes(part, file, identity)),
        kind=identity.kind,
        looks_like=identity.words,
        bootloaders=tuple(bootloader.id for bootloader in identity.bootloaders),
        bootloader_start=identity.start,
        findings=tuple(_findings(file, identity)),
    )


def _identify(file: ImageFile, parts: Iterable[Part], known: Sequence[Bootloader]) -> _Identity:
    if file.memory is MemoryKind.EEPROM:
        return _Identity(ImageKind.EEPROM, "EEPROM data")
    image = file.image
    if is_cortex_program(image) or any(holds(image, one) for one in known if is_below_firmware(one)):
        return _identify_cortex(file, known)
    vendors = [bootloader for bootloader in known if bootloader.image_sha256 == file.sha256]
    start = guess_bootloader(parts, image, file.start_record)
    if vendors and vendors[0].section is not None:
        start = vendors[0].section.start
    if start is None:
        usb = usb_id_in(image, image.span)
        return _Identity(ImageKind.APPLICATION, "firmware" if usb is None else f"firmware with USB id {usb}")
    usb = usb_id_in(image, Span(start, image.span.stop))
    held = vendors or [b for b in known if usb in b.usb and (b.section is None or b.section.start == start)]
    name = f"{held[0].qmk} bootloader" if held else "bootloader"
    where = f"{name} at 0x{start:04X}" + ("" if usb is None else f" with USB id {usb}")
    is_alone = start == image.span.start
    if vendors:
        extra = "" if is_alone else ", with a sketch below it"
        where = f"the vendor's file of {vendors[0].id} ({vendors[0].title}){extra}"
    elif not is_alone:
        where = f"firmware and {where}"
    kind = ImageKind.BOOTLOADER if is_alone else ImageKind.PRODUCTION
    return _Identity(kind, where, start, tuple(held))


def _identify_cortex(file: ImageFile, known: Sequence[Bootloader]) -> _Identity:
    """Tell what a program for an STM32 is; a bootloader lies at its begin."""
    image = file.image
    held = tuple(one for one in known if is_below_firmware(one) and holds(image, one))
    usb = usb_id_in(image, image.span)
    with_usb = "" if usb is None else f" with USB id {usb}"
    section = held[0].section if held else None
    if section is None:
        return _Identity(ImageKind.APPLICATION, f"firmware for a Cortex-M{with_usb}")
    where = f"{held[0].qmk} bootloader at 0x{section.start:08X}{with_usb}"
    if len(image.span) <= len(section):
        return _Identity(ImageKind.BOOTLOADER, where, section.start, held)
    return _Identity(ImageKind.PRODUCTION, f"{where}, and a firmware above it", section.start, held)


def _built_for(file: ImageFile, parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return the parts an image may be for: an ELF file names its own, and a twin of it is as good."""
    named = "" if file.elf is None else file.elf.built_for
    if file.elf is not None:
        parts = tuple(part for part in parts if part.interface is file.elf.interface)
    wanted = [part for part in parts if part.id == named]
    return tuple(part for part in parts if not wanted or part.id == named or part.id in wanted[0].twins)


def _takes(part: Part, file: ImageFile, identity: _Identity) -> bool:
    memory = part.memories.get(file.memory)
    if memory is None:
        return False
    made_for = {name for bootloader in identity.bootloaders for name in bootloader.parts}
    if isinstance(part, Stm32Part):
        return _is_for_stm32(part, file.image) and (not made_for or part.id in made_for)
    if file.image.span not in memory.span or (file.memory is MemoryKind.FLASH and is_cortex_program(file.image)):
        return False
    if made_for:
        return bool({part.id, *part.twins} & made_for)
    # a bootloader lies where the part starts: a larger flash has its boot section elsewhere
    starts = boot_starts(part)
    return identity.start is None or (bool(starts) and identity.start >= starts[0])


def _is_for_stm32(part: Stm32Part, image: Image) -> bool:
    """Tell whether a part takes an image: it begins like a program, or has addresses in flash above the program's begin."""
    flash = part.flash.span
    placed = located(image, flash)
    if placed.span not in flash or not len(image):
        return False
    return is_cortex_program(image) or image.span.start > flash.start


def _findings(file: ImageFile, identity: _Identity) -> Iterator[str]:
    image = file.image
    yield from file.notes
    yield from file.warnings
    if file.start_record is not None:
        yield f"a start record names 0x{file.start_record:04X}; it is not written to a part"
    if identity.kind is ImageKind.EEPROM:
        return
    too_long = overrun(segment.span for segment in image.segments)
    if too_long:
        yield too_long
    table = vector_table(image, image.span.start) if is_cortex_program(image) else None
    if table is not None:
        yield f"it begins with a vector table: stack 0x{table.stack:08X}, first instruction at 0x{table.entry:08X}"
        yield from sketch_words((file,), next(iter(identity.bootloaders), None))
    elif image.span.start == 0 and not has_jump(image, 0):
        yield "the word at address 0 is not a jump: EEPROM data, or not an AVR firmware"
    if identity.kind is ImageKind.PRODUCTION and any(b.image_is_combined for b in identity.bootloaders):
        yield "joining it with a firmware needs --strip-sketch: only the bootloader is taken then"
    if file.elf is not None:
        yield from _elf_findings(file)


def _elf_findings(file: ImageFile) -> Iterator[str]:
    elf = file.elf
    if elf is None:
        return
    if elf.built_for:
        yield f"it was linked for {elf.built_for}"
    if elf.eeprom is not None:
        yield f"it holds {len(elf.eeprom)} bytes for the EEPROM: --eeprom {file.name} writes them"
    bits = [f"--{memory} 0x{value:02X}" for memory, value in elf.fuses.items()]
    bits += [] if elf.lock is None else [f"--lock 0x{elf.lock:02X}"]
    if bits:
        yield f"it names fuse or lock bytes, which are only written when asked for: {' '.join(bits)}"
