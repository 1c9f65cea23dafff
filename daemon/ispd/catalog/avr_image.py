"""Does an image suit an AVR and its fuses: vectors, and whether the bootloader sits where the fuses start it.

An image and fuse bytes are a pair (QMK ISP flashing guide): a loader is found by the part only at the start of the boot
section, flash end minus boot size, and only entered there when BOOTRST or HWBE is programmed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ispd.catalog.cortex_image import is_cortex_program
from ispd.catalog.fuses import boot_span, is_programmed
from ispd.catalog.usb_descriptor import usb_id_in
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import BLANK, Image
from ispd.model.part import AvrPart, MemoryKind, Part
from ispd.model.span import Span

__all__ = [
    "boot_starts",
    "check_avr_image",
    "check_pair",
    "find_bootloader",
    "guess_bootloader",
    "has_jump",
]

_GAP_BYTES = 64
"""Blank bytes in front of a bootloader that tell it from an application reaching into the boot section."""


def boot_starts(part: Part) -> tuple[int, ...]:
    """Return the addresses at which a boot section of this part can begin, lowest first."""
    if not isinstance(part, AvrPart) or part.boot is None:
        return ()
    return tuple(part.flash.size_bytes - (part.boot.min_bytes << shift) for shift in (3, 2, 1, 0))


def has_jump(image: Image, address: int) -> bool:
    """Tell whether the word at ``address`` is JMP or RJMP, as in every vector table."""
    word = int.from_bytes(image.bytes_in(Span(address, address + 2)), "little")
    # AVR Instruction Set Manual: JMP 1001 010k kkkk 110k, RJMP 1100 kkkk kkkk kkkk
    return word & 0xFE0E == 0x940C or word & 0xF000 == 0xC000


def find_bootloader(part: Part, image: Image, start_record: int | None = None) -> int | None:
    """Return the address at which the image seems to hold a bootloader, or None.

    That is a possible boot section start (or ``start_record`` among them) with code after a gap, or the first byte of an
    image that lies in the boot section only.
    """
    starts = boot_starts(part)
    if not starts or not len(image):
        return None
    if start_record in starts and has_jump(image, start_record):
        return start_record
    for start in starts:
        if _is_blank(image, Span(start, start + 2)):
            continue
        if not _defines(image, start - 1) or (
            _is_blank(image, Span(start - _GAP_BYTES, start)) and has_jump(image, start)
        ):
            return start
    return image.span.start if image.span.start >= starts[0] else None


def guess_bootloader(parts: Iterable[Part], image: Image, start_record: int | None = None) -> int | None:
    """Return where an image for an unknown part seems to hold a bootloader, or None.

    Judged as the smallest parts that hold the image would: a boot section ends with flash.
    """
    fitting = [part for part in parts if boot_starts(part) and image.span in part.flash.span]
    smallest = min((part.flash.size_bytes for part in fitting), default=0)
    found = (find_bootloader(part, image, start_record) for part in fitting if part.flash.size_bytes == smallest)
    return min((start for start in found if start is not None), default=None)


def check_avr_image(
    part: AvrPart, image: Image, fuses: Mapping[MemoryKind, int], *, erase: bool = True, force: bool = False
) -> tuple[str, ...]:
    """Check a flash image that fits against an AVR and the fuse bytes that will be in force; return what deserves a word.

    :param fuses: bytes that will be in force after the job, as far as known; what is not known is not judged.
    :param erase: False where flash may already hold what the image lacks.
    :param force: tell also what would be refused.
    Raises ``RefusedError``: image-does-not-fit for a program of a Cortex-M, and image-fuse-mismatch where the board certainly would not
    run.
    """
    if is_cortex_program(image):
        told = "the image begins like a program for a Cortex-M, with a stack pointer and a reset vector"
        if not force:
            raise RefusedError(
                ErrorCode.IMAGE_DOES_NOT_FIT,
                told,
                hint=f"{part.name} is an AVR: is this image made for another part?",
                facts=Facts(part=part.id, memory=MemoryKind.FLASH, address=image.span.start),
            )
        return (told,)
    loader = find_bootloader(part, image)
    warnings = [*_vector_findings(image, loader, erase=erase)]
    section = boot_span(part, fuses)
    if section is None:
        return tuple(warnings)
    fatal = _fatal_mismatch(part, image, section, loader, starts_in_boot=is_programmed(part, "bootrst", fuses) is True)
    if fatal is not None:
        if not force:
            raise RefusedError(
                ErrorCode.IMAGE_FUSE_MISMATCH,
                fatal,
                hint="image and fuses belong to different bootloaders: take both from one, or force it",
                facts=Facts(part=part.id, memory=MemoryKind.FLASH, address=section.start),
            )
        warnings.append(fatal)
    else:
        warnings += _boot_findings(part, image, fuses, section, loader, erase=erase)
    return tuple(warnings)


def check_pair(
    part: Part,
    image: Image,
    fuses: Mapping[MemoryKind, int],
    known: Sequence[Bootloader],
    named: str | None,
    *,
    force: bool = False,
) -> tuple[str, ...]:
    """Compare the bootloader in ``image``, recognised by its USB id, with the fuses in force and the one ``named``.

    Fuses of another kind of bootloader leave it unreachable (Caterina without BOOTRST) or start it at every power-up
    (Atmel DFU with BOOTRST).

    :param force: tell also what would be refused.
    Raises ``RefusedError`` (image-fuse-mismatch) where image and fuses are of two kinds.
    """
    start = find_bootloader(part, image)
    if start is None or not isinstance(part, AvrPart):
        return ()
    usb = usb_id_in(image, Span(start, image.span.stop))
    held = [bootloader for bootloader in known if usb in bootloader.usb and bootloader.fuses]
    if not held:
        return ()
    found = f"the bootloader in the image has the USB id {usb} of {held[0].id}"
    warnings = []
    if named is not None and all(bootloader.id != named for bootloader in held):
        warnings.append(f"{found}, not of {named}")
    starts_in_boot = is_programmed(part, "bootrst", fuses)
    wanted = {is_programmed(part, "bootrst", bootloader.fuses) for bootloader in held}
    if starts_in_boot is not None and starts_in_boot not in wanted:
        effect = "it starts at every power-up" if starts_in_boot else "a reset does not enter it"
        told = f"{found}; with BOOTRST {'programmed' if starts_in_boot else 'not programmed'} {effect}"
        if not force:
            raise RefusedError(
                ErrorCode.IMAGE_FUSE_MISMATCH,
                told,
                hint=f"take the fuses of {held[0].id} too: --bootloader {held[0].id}; or force it with --force-fuses",
                facts=Facts(part=part.id, memory=MemoryKind.FLASH, address=start),
            )
        warnings.append(told)
    return tuple(warnings)


def _vector_findings(image: Image, loader: int | None, *, erase: bool) -> Iterator[str]:
    if image.span.start > 0:
        if loader is None and erase:
            yield f"the image begins at {image.span.start:#06x}: nothing is at address 0, where the part starts"
    elif not has_jump(image, 0):
        word = int.from_bytes(image.bytes_in(Span(0, 2)), "little")
        yield f"the word at address 0 is 0x{word:04X}, not a jump: is this an AVR firmware?"


def _fatal_mismatch(
    part: AvrPart, image: Image, section: Span, loader: int | None, *, starts_in_boot: bool
) -> str | None:
    """Tell why a part that starts at its boot section would start inside other code, or None."""
    if not starts_in_boot or _is_blank(image, Span(section.start, section.start + 2)):
        return None
    if loader is None:
        # code without a gap before it: a vector table there is a loader behind a firmware that fills its section
        if not has_jump(image, section.start):
            return f"BOOTRST makes the part start at 0x{section.start:04X}, which is in the middle of the firmware"
    elif loader < section.start:
        return (
            f"the bootloader begins at 0x{loader:04X}, but the fuses make the part start at 0x{section.start:04X}:"
            f" BOOTSZ must select {part.flash.size_bytes - loader} bytes"
        )
    return None


def _boot_findings(
    part: AvrPart, image: Image, fuses: Mapping[MemoryKind, int], section: Span, loader: int | None, *, erase: bool
) -> Iterator[str]:
    starts_in_boot = is_programmed(part, "bootrst", fuses)
    has_hwb = is_programmed(part, "hwbe", fuses)
    if loader is None:
        if erase and (starts_in_boot or has_hwb) and _is_blank(image, Span(section.start, section.start + 2)):
            how = "BOOTRST makes the part start" if starts_in_boot else "HWBE lets the HWB pin start the part"
            yield f"{how} at 0x{section.start:04X}, but the image has no bootloader there, and the chip erase leaves none"
        return
    if loader != section.start:
        size_bytes = part.flash.size_bytes - loader
        advice = (
            f"BOOTSZ must select {size_bytes} bytes"
            if loader in boot_starts(part)
            else "no BOOTSZ setting begins there"
        )
        yield f"the bootloader begins at 0x{loader:04X}, the boot section at 0x{section.start:04X}: {advice}"
    elif starts_in_boot is False and not has_hwb:
        how = "neither BOOTRST nor HWBE is programmed" if has_hwb is False else "BOOTRST is not programmed"
        yield f"the bootloader at 0x{loader:04X} is not entered at reset: {how}"


def _defines(image: Image, address: int) -> bool:
    return any(address in segment.span for segment in image.segments)


def _is_blank(image: Image, span: Span) -> bool:
    return image.bytes_in(span) == bytes([BLANK]) * len(span)
