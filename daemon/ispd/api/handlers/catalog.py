"""What the catalog knows about parts, bootloaders and image files. Files are parsed in worker threads."""

from dataclasses import replace
from functools import partial

from anyio import to_thread

from ispd.api.call import Call, StationPort
from ispd.api.handlers import handles
from ispd.api.methods.catalog import (
    BOOTLOADER_LIST,
    IMAGE_INSPECT,
    IMAGE_MERGE,
    PART_GET,
    PART_LIST,
    BootloaderList,
    ImageInspect,
    ImageMerge,
    PartGet,
    PartList,
)
from ispd.api.values import BinaryFile, ExplainedPart, Merged, OptionBytes
from ispd.catalog.choice import check_bootloader, check_linked, choose_bootloader, choose_fuses, choose_lock
from ispd.catalog.fuses import known_presets
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.imagefile import ImageFile, read_image
from ispd.catalog.inspection import inspect_image
from ispd.catalog.lint import check_fit, check_image
from ispd.catalog.merge import merge_files
from ispd.catalog.options import RecipeOptions
from ispd.catalog.placement import held_loader, place_files, sketch_words
from ispd.catalog.reports import describe_bootloader, describe_part, explain_fuses
from ispd.model.part import MemoryKind
from ispd.model.report import BootloaderReport, ImageReport, PartReport

__all__ = ["get_part", "inspect", "list_bootloaders", "list_parts", "merge"]

_MERGED_NAME = "production.hex"


@handles(PART_LIST)
async def list_parts(call: Call, _params: PartList) -> list[PartReport]:
    """Answer ``part.list``."""
    return [describe_part(part) for part in call.station.parts]


@handles(PART_GET)
async def get_part(call: Call, params: PartGet) -> ExplainedPart:
    """Answer ``part.get``."""
    part = call.station.parts.get(params.id)
    options = RecipeOptions(
        bootloader=params.bootloader,
        lfuse=params.lfuse,
        hfuse=params.hfuse,
        efuse=params.efuse,
        lock=params.lock,
        option_bytes=(params.option_bytes or OptionBytes()).named(),
    )
    bootloader = choose_bootloader(options, part, (), call.station.bootloaders)
    if bootloader is not None:
        check_bootloader(bootloader, part)
    values, _ = choose_fuses(options, bootloader, part)
    lock, _ = choose_lock(options, bootloader, part)
    fuses = explain_fuses(part, values, known_presets(part, call.station.bootloaders), lock=lock)
    return ExplainedPart(part=describe_part(part), fuses=fuses)


@handles(BOOTLOADER_LIST)
async def list_bootloaders(call: Call, _params: BootloaderList) -> list[BootloaderReport]:
    """Answer ``bootloader.list``."""
    tools = {family: tool.name for tool in call.station.tools for family in tool.families}
    return [
        replace(describe_bootloader(bootloader), tool=tools.get(bootloader.family, ""))
        for bootloader in call.station.bootloaders
    ]


@handles(IMAGE_INSPECT)
async def inspect(call: Call, params: ImageInspect) -> ImageReport:
    """Answer ``image.inspect``."""
    return await to_thread.run_sync(partial(_inspect, call.station, params), limiter=call.workers)


def _inspect(station: StationPort, params: ImageInspect) -> ImageReport:
    memory = None if params.memory is None else MemoryKind(params.memory)
    file = _read(params.image, memory)
    report = inspect_image(file, station.parts, station.bootloaders)
    if params.part is None:
        return report
    part = station.parts.get(params.part)
    check_linked(file, part, station.parts)
    if file.memory is MemoryKind.EEPROM:
        check_fit(part, MemoryKind.EEPROM, file.image)
        return report
    told = check_image(part, file.image, {})
    return replace(report, findings=tuple(dict.fromkeys((*report.findings, *told))))


def _read(file: BinaryFile, memory: MemoryKind | None = None) -> ImageFile:
    return read_image(file.name, file.content, base=file.base, memory=memory)


@handles(IMAGE_MERGE)
async def merge(call: Call, params: ImageMerge) -> Merged:
    """Answer ``image.merge``."""
    return await to_thread.run_sync(partial(_merge, call.station, params), limiter=call.workers)


def _merge(station: StationPort, params: ImageMerge) -> Merged:
    part = None if params.part is None else station.parts.get(params.part)
    read = [_read(image, MemoryKind.FLASH) for image in params.images]
    for file in read:
        if part is not None:
            check_linked(file, part, station.parts)
    loader = held_loader(read, part, station.bootloaders)
    files = place_files(read, part, loader)
    joined = merge_files(files, part, strip_sketch=params.strip_sketch, parts=station.parts, loader=loader)
    told = () if part is None else check_image(part, joined.image, {})
    content = write_hex(joined.image)
    report = inspect_image(read_image(_MERGED_NAME, content), station.parts, station.bootloaders)
    told = (*sketch_words(read, loader), *told)
    findings = tuple(dict.fromkeys((*joined.warnings, *joined.notes, *report.findings, *told)))
    return Merged(name=_MERGED_NAME, content=content, report=replace(report, findings=findings))
