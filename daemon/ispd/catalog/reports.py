"""Catalog knowledge as reports, for clients."""

from collections.abc import Mapping, Sequence

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.fuse_guard import judge_fuses
from ispd.catalog.fuses import FusePreset, clock_of, complete_fuses, explain_bits, explain_boot, explain_brown_out
from ispd.catalog.imagefile import ImageFile
from ispd.catalog.lint import boot_starts, find_bootloader, has_jump, usb_id_in
from ispd.catalog.parts import Parts
from ispd.model.bootloader import Bootloader
from ispd.model.part import MemoryKind, Part
from ispd.model.report import BootloaderReport, FuseReport, ImageReport, PartReport, SegmentReport
from ispd.model.span import Span

__all__ = ["describe_bootloader", "describe_part", "explain_fuses", "inspect_image"]


def explain_fuses(part: Part, values: Mapping[MemoryKind, int], presets: Sequence[FusePreset] = ()) -> FuseReport:
    """Explain fuse bytes bit by bit; bytes that are not given are taken as from the factory and not judged.

    :param presets: known sets of the part (``known_presets``); the first that equals all bytes is named.
    Raises ``RefusedError`` (invalid-parameter) for a value outside 0..255 or a fuse the part does not have.
    """
    findings = judge_fuses(part, values, None, presets)
    fuses = complete_fuses(part, values)
    clock = clock_of(part, fuses)
    return FuseReport(
        part=part.id,
        fuses={memory.value: value for memory, value in fuses.items()},
        bits=tuple(explain_bits(part, fuses)),
        clock=clock.words,
        clock_hz=clock.hz,
        brown_out=explain_brown_out(part, fuses),
        boot_section=explain_boot(part, fuses),
        preset=next((preset.name for preset in presets if preset.equals(part, fuses)), None),
        findings=findings,
    )


def describe_part(part: Part) -> PartReport:
    """Return what the catalog knows about a part."""
    starts = [*boot_starts(part), part.flash.size_bytes]
    return PartReport(
        id=part.id,
        name=part.name,
        avrdude_id=part.avrdude_id,
        signature=str(part.signature),
        flash_bytes=part.flash.size_bytes,
        flash_page_bytes=part.flash.page_bytes,
        eeprom_bytes=part.eeprom.size_bytes,
        fuses={fuse.memory.value: fuse.default for fuse in part.fuses},
        fuse_masks={fuse.memory.value: fuse.mask for fuse in part.fuses},
        lock_mask=part.lock_mask,
        boot_sizes=tuple(sorted(starts[-1] - start for start in starts[:-1])),
        isp_pins=dict(zip(("sck", "copi", "cipo"), part.isp_pins, strict=True)),
        twins=part.twins,
        note=part.note,
    )


def describe_bootloader(bootloader: Bootloader) -> BootloaderReport:
    """Return what the catalog knows about a bootloader."""
    section = bootloader.section
    return BootloaderReport(
        id=bootloader.id,
        qmk=bootloader.qmk,
        family=bootloader.family,
        title=bootloader.title,
        parts=bootloader.parts,
        fuses={memory.value: value for memory, value in bootloader.fuses.items()},
        fuse_alternatives={memory.value: values for memory, values in bootloader.fuse_alternatives.items()},
        lock=bootloader.lock,
        section_start=None if section is None else section.start,
        section_bytes=None if section is None else len(section),
        application_max_bytes=bootloader.application_max_bytes,
        usb=bootloader.usb,
        usb_application=bootloader.usb_application,
        image_file=bootloader.image_file,
        image_is_combined=bootloader.image_is_combined,
        note=bootloader.note,
        unverified=bootloader.unverified,
    )


def inspect_image(file: ImageFile, parts: Parts, bootloaders: Bootloaders | None = None) -> ImageReport:
    """Return facts about an image file and what it seems to be; ``bootloaders`` lets known files be recognised."""
    image = file.image
    findings = [*file.notes, *file.warnings]
    if file.start_record is not None:
        findings.append(f"a start record names 0x{file.start_record:04X}; it is not written to a part")
    if image.span.start == 0 and not has_jump(image, 0) and not _is_eeprom(file):
        findings.append("the word at address 0 is not a jump: EEPROM data, or not an AVR firmware")
    return ImageReport(
        name=file.name,
        format=file.format.value,
        sha256=file.sha256,
        image_sha256=image.sha256,
        size_bytes=len(image),
        start=image.span.start,
        end=image.span.stop,
        segments=tuple(SegmentReport(start=s.start, size_bytes=len(s.data)) for s in image.segments),
        parts_that_fit=tuple(part.id for part in parts if image.span in part.flash.span),
        looks_like=_looks_like(file, parts, bootloaders),
        findings=tuple(findings),
    )


def _is_eeprom(file: ImageFile) -> bool:
    return file.name.lower().endswith(".eep")


def _looks_like(file: ImageFile, parts: Parts, bootloaders: Bootloaders | None) -> str:
    known = next((b for b in bootloaders or () if b.image_sha256 == file.sha256), None)
    if known is not None:
        return f"the vendor's file of {known.id} ({known.title})"
    if _is_eeprom(file):
        return "EEPROM data"
    loader = _bootloader_start(file, parts)
    if loader is None:
        usb = usb_id_in(file.image, file.image.span)
        return "firmware" if usb is None else f"firmware with USB id {usb}"
    usb = usb_id_in(file.image, Span(loader, file.image.span.stop))
    named = [b for b in bootloaders or () if usb in b.usb]
    kind = f"{named[0].qmk} bootloader" if named else "bootloader"
    where = f"{kind} at 0x{loader:04X}" + ("" if usb is None else f" with USB id {usb}")
    return where if loader == file.image.span.start else f"firmware and {where}"


def _bootloader_start(file: ImageFile, parts: Parts) -> int | None:
    """Look for a bootloader as the smallest parts would hold it: the section ends with flash."""
    fitting = [part for part in parts if part.boot is not None and file.image.span in part.flash.span]
    smallest = min((part.flash.size_bytes for part in fitting), default=0)
    found = (
        find_bootloader(part, file.image, file.start_record) for part in fitting if part.flash.size_bytes == smallest
    )
    return min((start for start in found if start is not None), default=None)
