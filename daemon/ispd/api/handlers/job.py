"""The queue: create, look at and steer jobs."""

from dataclasses import replace
from functools import partial

from anyio import to_thread

from ispd.api.call import Call, StationPort
from ispd.api.handlers import handles
from ispd.api.methods.job import (
    JOB_CANCEL,
    JOB_ENQUEUE,
    JOB_GET,
    JOB_LIST,
    JOB_PAUSE,
    JOB_RESUME,
    JobCancel,
    JobEnqueue,
    JobGet,
    JobList,
    JobPause,
    JobResume,
)
from ispd.api.values import BinaryFile, OptionBytes
from ispd.catalog.keyboard import Keyboard, read_keyboard
from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.catalog.recipefile import read_recipe
from ispd.model.job import Job
from ispd.model.recipe import Recipe

__all__ = ["cancel", "enqueue", "get", "list_jobs", "pause", "resume"]


@handles(JOB_ENQUEUE)
async def enqueue(call: Call, params: JobEnqueue) -> Job:
    """Answer ``job.enqueue``. The files are parsed in a worker thread: they come from outside and may be long."""
    recipe = await to_thread.run_sync(partial(_recipe, call.station, params), limiter=call.workers)
    return await call.station.enqueue(recipe, slots=params.slots, count=params.count)


def _recipe(station: StationPort, params: JobEnqueue) -> Recipe:
    options = RecipeOptions()
    if params.recipe is not None:
        files = {file.name: file.content for file in params.recipe.files}
        options = read_recipe(params.recipe.name, params.recipe.content, files)
    options = _with_params(options, params)
    if params.keyboard is not None:
        keyboard = read_keyboard(params.keyboard.name, params.keyboard.content)
        options = _with_keyboard(options, params.keyboard.name, keyboard, station)
    return build_recipe(options, station.parts, station.bootloaders)


def _with_keyboard(options: RecipeOptions, name: str, keyboard: Keyboard, station: StationPort) -> RecipeOptions:
    """Fill what nobody said from the keyboard's metadata, and tell where somebody said something else."""
    notes = () if options.bootloader is not None else keyboard.notes
    if options.part is not None and station.parts.get(options.part) != station.parts.get(keyboard.part):
        notes += (f"{name} is for {keyboard.part}; this job is for {options.part}",)
        return replace(options, notes=(*options.notes, *notes))
    return replace(
        options,
        part=keyboard.part,
        bootloader=keyboard.bootloader if options.bootloader is None else options.bootloader,
        notes=(*options.notes, *notes),
    )


_REPLACING = ("plan", "part", "bootloader", "lfuse", "hfuse", "efuse", "lock", "clones", "verify", "sck_hz")


def _with_params(options: RecipeOptions, params: JobEnqueue) -> RecipeOptions:
    """Put what the caller asked for over what the files say; what both can only allow is allowed by either."""
    said = {name: getattr(params, name) for name in _REPLACING}
    options = replace(options, **{name: value for name, value in said.items() if value is not None})
    return replace(
        options,
        files=tuple(_file(image) for image in params.images) or options.files,
        eeprom=options.eeprom if params.eeprom is None else _file(params.eeprom),
        option_bytes={**options.option_bytes, **(params.option_bytes or OptionBytes()).named()},
        erase=options.erase and params.erase,
        keeps_rest=options.keeps_rest or params.keep_rest,
        unlock=options.unlock or params.unlock,
        strip_sketch=options.strip_sketch or params.strip_sketch,
        force_fuses=options.force_fuses or params.force_fuses,
        accept_fuses=options.accept_fuses or params.accept_fuses,
    )


def _file(file: BinaryFile) -> NamedBytes:
    return NamedBytes(file.name, file.content, file.base)


@handles(JOB_LIST)
async def list_jobs(call: Call, params: JobList) -> list[Job]:
    """Answer ``job.list``."""
    return await call.station.jobs(params.limit, params.before)


@handles(JOB_GET)
async def get(call: Call, params: JobGet) -> Job:
    """Answer ``job.get``."""
    return await call.station.job(params.id)


@handles(JOB_CANCEL)
async def cancel(call: Call, params: JobCancel) -> Job:
    """Answer ``job.cancel``."""
    return await call.station.cancel(params.id)


@handles(JOB_PAUSE)
async def pause(call: Call, params: JobPause) -> Job:
    """Answer ``job.pause``."""
    return await call.station.pause(params.id)


@handles(JOB_RESUME)
async def resume(call: Call, params: JobResume) -> Job:
    """Answer ``job.resume``."""
    return await call.station.resume(params.id)
