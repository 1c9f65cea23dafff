"""Catalog knowledge as reports, for clients."""

from collections.abc import Iterator, Mapping, Sequence

from ispd.catalog.avr_image import boot_starts
from ispd.catalog.fuse_guard import judge_fuses, judge_lock
from ispd.catalog.fuses import (
    FusePreset,
    clock_of,
    complete_fuses,
    explain_bits,
    explain_boot,
    explain_brown_out,
    explain_lock,
)
from ispd.catalog.option_guard import explain_options, explain_rdp, judge_options, judge_rdp
from ispd.model.bootloader import Bootloader
from ispd.model.part import AvrPart, MemoryKind, Part, Stm32Part
from ispd.model.report import (
    BootloaderReport,
    FindingLevel,
    FuseByteReport,
    FuseFinding,
    FuseReport,
    PartReport,
)

__all__ = ["describe_bootloader", "describe_part", "explain_fuses"]

_NOT_IN_OPTIONS = "the program's choice, not the option bytes'"


def explain_fuses(
    part: Part, values: Mapping[MemoryKind, int], presets: Sequence[FusePreset] = (), *, lock: int | None = None
) -> FuseReport:
    """Explain fuse bytes, or an STM32's option bytes, bit by bit; bytes that are not given are taken as from the factory and not judged.

    :param presets: known sets of the part (``known_presets``); the first that equals all bytes is named.
    :param lock: lock byte to explain and judge too.
    Raises ``RefusedError`` (invalid-parameter) for a value outside 0..255 or a fuse the part does not have.
    """
    if isinstance(part, Stm32Part):
        return _explain_options(part, values, presets, lock)
    if not isinstance(part, AvrPart):
        raise TypeError(f"{part.name} has neither fuses nor option bytes")
    findings = judge_fuses(part, values, None, presets)
    if lock is not None:
        findings += judge_lock(part, lock)
    fuses = complete_fuses(part, values)
    clock = clock_of(part, fuses)
    return FuseReport(
        part=part.id,
        fuses={memory.value: value for memory, value in fuses.items()},
        bytes=tuple(_bytes(part, fuses, values, lock)),
        bits=(*explain_bits(part, fuses), *(() if lock is None else explain_lock(part, lock))),
        clock=clock.words,
        clock_hz=clock.hz,
        brown_out=explain_brown_out(part, fuses),
        boot_section=explain_boot(part, fuses),
        preset=next((preset.name for preset in presets if preset.equals(part, fuses)), None),
        verdict=_worst(findings),
        findings=findings,
    )


def _explain_options(
    part: Stm32Part, values: Mapping[MemoryKind, int], presets: Sequence[FusePreset], lock: int | None
) -> FuseReport:
    findings = judge_options(part, values) + (() if lock is None else judge_rdp(part, lock))
    options = {fuse.memory: values.get(fuse.memory, fuse.default) for fuse in part.fuses}
    return FuseReport(
        part=part.id,
        fuses={memory.value: value for memory, value in options.items()},
        bytes=tuple(_bytes(part, options, values, lock)),
        bits=(*explain_options(part, options), *(() if lock is None else explain_rdp(lock))),
        clock=_NOT_IN_OPTIONS,
        clock_hz=None,
        brown_out=_NOT_IN_OPTIONS,
        boot_section=_NOT_IN_OPTIONS,
        preset=next((preset.name for preset in presets if preset.equals(part, options)), None),
        verdict=_worst(findings),
        findings=findings,
    )


def _worst(findings: Sequence[FuseFinding]) -> FindingLevel | None:
    return next((level for level in FindingLevel if any(finding.level is level for finding in findings)), None)


def _bytes(
    part: Part, fuses: Mapping[MemoryKind, int], given: Mapping[MemoryKind, int], lock: int | None
) -> Iterator[FuseByteReport]:
    known = [*((memory, value, memory in given) for memory, value in fuses.items())]
    if lock is not None:
        known.append((MemoryKind.LOCK, lock, True))
    for memory, value, is_asked in known:
        mask = part.mask(memory)
        yield FuseByteReport(memory=memory, value=value, asked=is_asked, mask=mask, effective=value & mask)


def describe_part(part: Part) -> PartReport:
    """Return what the catalog knows about a part."""
    starts = [*boot_starts(part), part.flash.size_bytes]
    return PartReport(
        id=part.id,
        name=part.name,
        avrdude_id=part.avrdude_id if isinstance(part, AvrPart) else "",
        signature=str(part.signature),
        flash_bytes=part.flash.size_bytes,
        flash_page_bytes=part.flash.page_bytes,
        eeprom_bytes=part.memories[MemoryKind.EEPROM].size_bytes if MemoryKind.EEPROM in part.memories else 0,
        fuses={fuse.memory.value: fuse.default for fuse in part.fuses},
        fuse_masks={fuse.memory.value: fuse.mask for fuse in part.fuses},
        lock_mask=part.lock_mask,
        boot_sizes=tuple(sorted(starts[-1] - start for start in starts[:-1])),
        isp_pins=dict(part.pins),
        twins=part.twins,
        note=part.note,
        interface=part.interface,
        flash_start=part.flash.start,
        smallest_flash_bytes=part.smallest_flash_bytes if isinstance(part, Stm32Part) else part.flash.size_bytes,
        ram_bytes=part.ram_bytes if isinstance(part, Stm32Part) else 0,
        aliases=part.aliases,
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
        chips=bootloader.chips,
        tool_max_bytes=bootloader.tool_max_bytes,
        application_start=bootloader.application_start,
        shares_usb=bootloader.shares_usb,
        by_hand=bootloader.by_hand,
    )
