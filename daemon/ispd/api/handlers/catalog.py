"""What the catalog knows about parts, bootloaders and image files. Files are parsed in worker threads."""

from dataclasses import replace
from functools import partial

from anyio import to_thread

from ispd.api.call import Call, StationPort
from ispd.api.handlers import handles
from ispd.api.methods import (
    BOOTLOADER_LIST,
    IMAGE_INSPECT,
    IMAGE_MERGE,
    PART_GET,
    PART_LIST,
    BootloaderList,
    ExplainedPart,
    ImageInspect,
    ImageMerge,
    Merged,
    PartGet,
    PartList,
)
from ispd.catalog.fuse_guard import judge_lock
from ispd.catalog.fuses import known_presets
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.imagefile import read_image
from ispd.catalog.lint import check_image
from ispd.catalog.merge import merge_files
from ispd.catalog.reports import describe_bootloader, describe_part, explain_fuses, inspect_image
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
    given = {MemoryKind.LFUSE: params.lfuse, MemoryKind.HFUSE: params.hfuse, MemoryKind.EFUSE: params.efuse}
    values = {memory: value for memory, value in given.items() if value is not None}
    presets = known_presets(part, call.station.bootloaders)
    fuses = explain_fuses(part, values, presets)
    if params.lock is not None:
        fuses = replace(fuses, findings=(*fuses.findings, *judge_lock(part, params.lock)))
    return ExplainedPart(part=describe_part(part), fuses=fuses)


@handles(BOOTLOADER_LIST)
async def list_bootloaders(call: Call, _params: BootloaderList) -> list[BootloaderReport]:
    """Answer ``bootloader.list``."""
    return [describe_bootloader(bootloader) for bootloader in call.station.bootloaders]


@handles(IMAGE_INSPECT)
async def inspect(call: Call, params: ImageInspect) -> ImageReport:
    """Answer ``image.inspect``."""
    return await to_thread.run_sync(partial(_inspect, call.station, params), limiter=call.workers)


def _inspect(station: StationPort, params: ImageInspect) -> ImageReport:
    file = read_image(params.image.name, params.image.content)
    report = inspect_image(file, station.parts, station.bootloaders)
    if params.part is None:
        return report
    told = check_image(station.parts.get(params.part), file.image, {})
    return replace(report, findings=tuple(dict.fromkeys((*report.findings, *told))))


@handles(IMAGE_MERGE)
async def merge(call: Call, params: ImageMerge) -> Merged:
    """Answer ``image.merge``."""
    return await to_thread.run_sync(partial(_merge, call.station, params), limiter=call.workers)


def _merge(station: StationPort, params: ImageMerge) -> Merged:
    part = None if params.part is None else station.parts.get(params.part)
    joined = merge_files([read_image(image.name, image.content) for image in params.images], part)
    told = () if part is None else check_image(part, joined.image, {})
    content = write_hex(joined.image)
    report = inspect_image(read_image(_MERGED_NAME, content), station.parts, station.bootloaders)
    findings = tuple(dict.fromkeys((*joined.warnings, *report.findings, *told)))
    return Merged(name=_MERGED_NAME, content=content, report=replace(report, findings=findings))
