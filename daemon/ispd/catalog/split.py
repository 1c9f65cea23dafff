"""The files of a job whose firmware goes on through a bootloader: which one is meant, what of them is it, what its firmware.

What lies in the bootloader's section is bootloader, what lies on the other side firmware; where the firmware begins and how long it may
be is the bootloader's to say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ispd.catalog.avr_image import find_bootloader, guess_bootloader, has_jump
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.cortex_image import vector_table
from ispd.catalog.imagefile import ImageFile, ImageFormat
from ispd.catalog.merge import merge_files, strip_to
from ispd.catalog.parts import Parts
from ispd.catalog.sections import check_application, holds, is_below_firmware, is_combined, sides, starts_in_section
from ispd.catalog.usb_descriptor import usb_device_in
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.part import Part
from ispd.model.recipe import PlanKind, SourceFile
from ispd.model.span import Span

__all__ = ["VIA_BOOTLOADER", "Split", "check_identity", "check_merged", "check_served", "choose_chain", "split_files"]

VIA_BOOTLOADER = frozenset({PlanKind.CHAINED, PlanKind.AUTO, PlanKind.CHAIN_ONLY})
"""Plans whose firmware goes, or may go, on through the bootloader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Files in two images. ``bootloader`` may be empty for ``chain-only`` only."""

    bootloader: Image
    firmware: Image
    sources: tuple[SourceFile, ...]
    warnings: tuple[str, ...] = ()


def choose_chain(
    named: Bootloader | None, part: Part | None, files: Sequence[ImageFile], parts: Parts, bootloaders: Bootloaders
) -> tuple[Bootloader, Part | None]:
    """Return the bootloader that the firmware goes through, and the part, None where the part catalog does not know it.

    What nobody named is told by the bootloader image: its digest, or its USB identity; without an image by the part, where all its
    bootloaders are alike.
    Raises ``RefusedError`` (recipe-invalid) where that leaves it open.
    """
    bootloader = named or _recognised(part, files, bootloaders)
    if part is None and bootloader.parts:
        part = parts.get(bootloader.parts[0])
        if not {part.id, *part.twins} >= set(bootloader.parts):
            raise _invalid(
                f"{bootloader.id} is for {', '.join(bootloader.parts)}", hint="name the part: --part", field="part"
            )
    return bootloader, part


def check_served(bootloader: Bootloader, plan: PlanKind) -> None:
    """Raise ``RefusedError`` (recipe-invalid) where no firmware can be brought through this bootloader in this way."""
    if bootloader.by_hand:
        raise _invalid(f"nothing here flashes through {bootloader.title}", hint=bootloader.by_hand, field="bootloader")
    if bootloader.is_any and plan is not PlanKind.CHAIN_ONLY:
        raise _invalid(
            f"{bootloader.id} is no bootloader that could be put on a board",
            hint="name the one that is: --bootloader (`ispctl bootloaders`)",
            field="bootloader",
        )
    if bootloader.chips and plan is not PlanKind.CHAIN_ONLY:
        raise _invalid(
            f"the {bootloader.chips[0]} of {bootloader.id} is reached by no programmer here",
            hint="put its bootloader on by other means; --chain-only flashes the firmware through it",
            field="plan",
        )


def split_files(
    files: Sequence[ImageFile], bootloader: Bootloader, part: Part | None, plan: PlanKind, *, strip_sketch: bool = False
) -> Split:
    """Tell the bootloader in ``files`` from the firmware.

    :param strip_sketch: of a combined file (bootloader and sketch) that is in another's way, take the bootloader only.
    Raises ``RefusedError``: recipe-invalid where one of the two is not there, image-too-large where the firmware is longer than the
    bootloader or its tool takes, image-overlap, image-does-not-fit.
    """
    if part is None:
        return _split_addressed(files, bootloader)
    if bootloader.section is None:
        raise _invalid(f"the catalog does not say where {bootloader.id} begins", hint="name another bootloader")
    for file in files:
        loader, firmware = sides(file.image, bootloader)
        is_lone = (
            is_below_firmware(bootloader) and len(loader) and not len(firmware) and not _is_loader(loader, bootloader)
        )
        if is_lone or (len(loader) and len(firmware) and not _is_combined(file, part, bootloader)):
            raise _not_one(file, bootloader)
    is_below = is_below_firmware(bootloader)
    kept = _without_sketches(files, bootloader, strip_sketch=strip_sketch)
    merged = merge_files(kept, part, loader=bootloader if is_below else None)
    loader, firmware = sides(merged.image, bootloader)
    _check_both(loader, firmware, bootloader, plan)
    _check_limits(firmware, bootloader)
    words = check_application(firmware, bootloader) if is_below else _vector_words(firmware)
    return Split(bootloader=loader, firmware=firmware, sources=merged.sources, warnings=(*merged.warnings, *words))


def check_identity(loader: Image, bootloader: Bootloader, *, force: bool = False) -> tuple[str, ...]:
    """Compare the USB id in a bootloader image with the one that the board will be waited for with.

    :param force: tell what would be refused.
    Raises ``RefusedError`` (recipe-invalid) where they differ.
    """
    found = usb_device_in(loader, loader.span)
    if found is None or found[0] in bootloader.usb:
        return ()
    told = f"the bootloader in the image has the USB id {found[0]}; {bootloader.id} has {' or '.join(bootloader.usb)}"
    if not force:
        raise _invalid(told, hint="name the bootloader that the image holds: --bootloader", field="bootloader")
    return (told,)


def check_merged(image: Image, bootloader: Bootloader | None, part: Part | None, parts: Iterable[Part]) -> None:
    """Raise ``RefusedError`` (recipe-invalid) unless an image holds a bootloader and a firmware."""
    if bootloader is not None and bootloader.section is not None:
        present = [len(side) > 0 for side in sides(image, bootloader)]
    else:
        start = guess_bootloader(parts, image) if part is None else find_bootloader(part, image)
        present = [False] if start is None else [image.span.stop > start, image.span.start < start]
    for what, is_there in zip(("bootloader", "firmware"), present, strict=False):
        if not is_there:
            raise _invalid(
                f"there is no {what} in the image", hint="name its file too, or --plan isp-only", field="plan"
            )


def _recognised(part: Part | None, files: Sequence[ImageFile], bootloaders: Bootloaders) -> Bootloader:
    known = tuple(bootloaders) if part is None else bootloaders.presets(part)
    digests = {file.sha256 for file in files}
    found = [bootloader for bootloader in known if bootloader.image_sha256 in digests]
    found = found or [bootloader for bootloader in known if _is_in(files, bootloader)]
    released = [bootloader for bootloader in found if _is_in(files, bootloader, with_release=True)]
    found = released or [bootloader for bootloader in found if bootloader.usb_release is None] or found
    if not found and part is not None and not any(_holds_some(part, file) for file in files):
        found = [bootloader for bootloader in known if not bootloader.by_hand]
    if not found:
        raise _invalid(
            "nothing says which bootloader the boards have: there is no bootloader image that the catalog knows",
            hint="name it: --bootloader (`ispctl bootloaders`), or a --keyboard whose metadata does",
        )
    if any(_traits(bootloader) != _traits(found[0]) for bootloader in found):
        listed = ", ".join(bootloader.id for bootloader in found)
        raise _invalid("nothing says which bootloader the boards have", hint=f"name it: --bootloader, one of {listed}")
    return found[0]


def _traits(bootloader: Bootloader) -> tuple[object, ...]:
    """Return all that makes a difference to who puts a firmware through a bootloader."""
    return (
        bootloader.family,
        bootloader.parts,
        bootloader.section,
        bootloader.application_max_bytes,
        bootloader.tool_max_bytes,
        bootloader.usb,
        bootloader.usb_texts,
    )


def _is_in(files: Iterable[ImageFile], bootloader: Bootloader, *, with_release: bool = False) -> bool:
    return any(holds(file.image, bootloader, with_release=with_release) for file in files)


def _holds_some(part: Part, file: ImageFile) -> bool:
    """Tell whether a file holds some bootloader, known or not."""
    return find_bootloader(part, file.image, file.start_record) is not None


def _is_combined(file: ImageFile, part: Part, bootloader: Bootloader) -> bool:
    """Tell a file that holds a bootloader beside something else from a firmware that reaches into the bootloader's place."""
    if is_combined(file.image, bootloader):
        return True
    section = bootloader.section
    return section is not None and find_bootloader(part, file.image, file.start_record) == section.start


def _is_loader(image: Image, bootloader: Bootloader) -> bool:
    return holds(image, bootloader) or starts_in_section(image, bootloader)


def _without_sketches(files: Sequence[ImageFile], bootloader: Bootloader, *, strip_sketch: bool) -> list[ImageFile]:
    """Return the files, of combined ones beside a firmware the bootloader only.

    What clashes with the firmware is left in unless it may be stripped: then the merge tells of it. What the firmware holds too does no harm.
    """
    split = [sides(file.image, bootloader) for file in files]
    firmware = [application for loader, application in split if not len(loader)]
    if not firmware:
        return list(files)
    return [
        strip_to(file, loader.span)
        if len(loader) and _has_other_sketch(sketch, firmware, strip_sketch=strip_sketch)
        else file
        for file, (loader, sketch) in zip(files, split, strict=True)
    ]


def _has_other_sketch(sketch: Image, firmware: Sequence[Image], *, strip_sketch: bool) -> bool:
    """Tell whether what a combined file holds beside its bootloader is not of the firmware, and may be left out."""
    if not len(sketch):
        return False
    if any(_differs(sketch, other) for other in firmware):
        return strip_sketch
    return sum(len(span) for other in firmware for span in sketch.overlaps(other)) < len(sketch)


def _differs(first: Image, second: Image) -> bool:
    return any(first.bytes_in(span) != second.bytes_in(span) for span in first.overlaps(second))


def _split_addressed(files: Sequence[ImageFile], bootloader: Bootloader) -> Split:
    """Return the firmware for a chip that the part catalog does not know; nothing else can be put on it."""
    start = bootloader.application_start
    shifted = [
        replace(file, image=Image((Segment(start, file.image.segments[0].data),)))
        if file.format is ImageFormat.RAW and file.image.span.start == 0
        else file
        for file in files
    ]
    merged = merge_files(shifted, None)
    _check_both(Image(()), merged.image, bootloader, PlanKind.CHAIN_ONLY)
    if merged.image.span.start < start:
        raise RefusedError(
            ErrorCode.IMAGE_DOES_NOT_FIT,
            f"the image has bytes from 0x{merged.image.span.start:04X} on;"
            f" with {bootloader.id} a firmware begins at 0x{start:04X}",
            hint="build the firmware for this bootloader, and leave the bootloader out",
            facts=Facts(address=merged.image.span.start),
        )
    _check_limits(merged.image, bootloader)
    table = vector_table(merged.image, start)
    # a RISC-V begins with an instruction
    told = check_application(merged.image, bootloader) if table is not None and table.is_plausible else ()
    words = (*merged.warnings, *told)
    return Split(bootloader=Image(()), firmware=merged.image, sources=merged.sources, warnings=words)


def _vector_words(firmware: Image) -> tuple[str, ...]:
    """Tell of a firmware that no bootloader would start: after it an AVR begins at address 0."""
    if firmware.span.start > 0:
        return (
            f"the firmware begins at 0x{firmware.span.start:04X}: nothing is at address 0, where a bootloader starts it",
        )
    if has_jump(firmware, 0):
        return ()
    word = int.from_bytes(firmware.bytes_in(Span(0, 2)), "little")
    return (f"the word at address 0 is 0x{word:04X}, not a jump: is this an AVR firmware?",)


def _check_both(loader: Image, firmware: Image, bootloader: Bootloader, plan: PlanKind) -> None:
    if not len(firmware):
        told = "only a bootloader" if len(loader) else "no image"
        raise _invalid(
            f"there is no firmware to put through {bootloader.id}: {told} was named", hint="name its file too"
        )
    if not len(loader) and plan is not PlanKind.CHAIN_ONLY:
        file = f", {bootloader.image_file}" if bootloader.image_file else ""
        raise _invalid(
            f"there is no image of the bootloader {bootloader.id}, which has to be on the board first",
            hint=f"name its file too{file}; where the boards have it already: --chain-only",
        )


def _check_limits(firmware: Image, bootloader: Bootloader) -> None:
    stop = firmware.span.stop - bootloader.application_start
    for limit, whose, hint in (
        (
            bootloader.application_max_bytes,
            f"{bootloader.id} leaves it",
            "build it smaller, or use a smaller bootloader",
        ),
        (
            bootloader.tool_max_bytes,
            f"the tool for {bootloader.id} takes",
            "--plan merged puts it on through the programmer" if bootloader.parts else "build it smaller",
        ),
    ):
        if limit is not None and stop > limit:
            raise RefusedError(
                ErrorCode.IMAGE_TOO_LARGE,
                f"the firmware has {stop} bytes; {whose} {limit}",
                hint=hint,
                facts=Facts(address=firmware.span.stop - 1, field="images"),
            )


def _not_one(file: ImageFile, bootloader: Bootloader) -> RefusedError:
    """Return what is wrong with a file on both sides that holds no bootloader."""
    span, start = file.image.span, bootloader.application_start
    if is_below_firmware(bootloader):
        return RefusedError(
            ErrorCode.IMAGE_DOES_NOT_FIT,
            f"{file.name} begins at 0x{span.start:08X}, in the place of {bootloader.id}; with it a firmware begins at 0x{start:08X}",
            hint="build the firmware for this bootloader; --plan isp-only puts it on as it is, without one",
            facts=Facts(address=span.start, field="images"),
        )
    limit = 0 if bootloader.section is None else bootloader.section.start
    return RefusedError(
        ErrorCode.IMAGE_TOO_LARGE,
        f"{file.name} has {span.stop} bytes and no bootloader at 0x{limit:04X}; {bootloader.id} leaves a firmware {limit}",
        hint="build it smaller, or name the bootloader that the boards have",
        facts=Facts(address=span.stop - 1, field="images"),
    )


def _invalid(message: str, *, hint: str, field: str = "images") -> RefusedError:
    return RefusedError(ErrorCode.RECIPE_INVALID, message, hint=hint, facts=Facts(field=field))
