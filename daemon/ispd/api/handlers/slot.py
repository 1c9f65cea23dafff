"""The slots, and the boards and programmers on them."""

import hashlib
from dataclasses import replace
from functools import partial

from anyio import to_thread

from ispd.api.call import Call, StationPort
from ispd.api.handlers import handles
from ispd.api.methods.slot import (
    PROGRAMMER_LIST,
    SLOT_GET,
    SLOT_LEARN,
    SLOT_LIST,
    SLOT_PROBE,
    SLOT_READ,
    SLOT_RESCUE,
    SLOT_SET,
    ProgrammerList,
    SlotGet,
    SlotLearn,
    SlotList,
    SlotProbe,
    SlotRead,
    SlotRescue,
    SlotSet,
)
from ispd.api.values import Dump
from ispd.catalog.options import NamedBytes
from ispd.catalog.rescue import as_rescue
from ispd.model.job import Job
from ispd.model.part import MemoryKind
from ispd.model.station import Probe, Programmer, Slot

__all__ = ["change", "get", "learn", "list_programmers", "list_slots", "probe", "read", "rescue"]


@handles(SLOT_LIST)
async def list_slots(call: Call, _params: SlotList) -> list[Slot]:
    """Answer ``slot.list``."""
    return call.station.slots()


@handles(SLOT_GET)
async def get(call: Call, params: SlotGet) -> Slot:
    """Answer ``slot.get``."""
    return call.station.slot(params.name)


@handles(SLOT_SET)
async def change(call: Call, params: SlotSet) -> Slot:
    """Answer ``slot.set``."""
    return await call.station.set_slot(params.name, params.action)


@handles(SLOT_PROBE)
async def probe(call: Call, params: SlotProbe) -> Probe:
    """Answer ``slot.probe``."""
    return await call.station.probe(params.name)


@handles(SLOT_READ)
async def read(call: Call, params: SlotRead) -> Dump:
    """Answer ``slot.read``."""
    content = await call.station.read(params.name, params.memory)
    return Dump(
        slot=params.name,
        memory=params.memory,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
        start=_start(call.station, params.name) if params.memory is MemoryKind.FLASH else 0,
    )


def _start(station: StationPort, slot: str) -> int:
    """Return the address at which flash begins. The parts that a programmer speaks to all have it at the same one."""
    interface = next((one.interface for one in station.programmers() if one.slot == slot), None)
    return next((part.flash.start for part in station.parts if part.interface is interface), 0)


@handles(SLOT_LEARN)
async def learn(call: Call, params: SlotLearn) -> Slot:
    """Answer ``slot.learn``."""
    return await call.station.learn(params.name)


@handles(SLOT_RESCUE)
async def rescue(call: Call, params: SlotRescue) -> Job:
    """Answer ``slot.rescue``. The files are parsed in a worker thread, as those of a new job."""
    station = call.station
    station.slot(params.name)  # a slot that does not exist is told of before what it would be for
    recipe = await station.recipe_to_rescue(params.unit)
    images = [NamedBytes(file.name, file.content, file.base) for file in params.images]
    rescuing = partial(as_rescue, recipe, station.parts, station.bootloaders, images)
    rescue_recipe = await to_thread.run_sync(rescuing, limiter=call.workers)
    if params.unlock:
        rescue_recipe = replace(rescue_recipe, unlock=True)
    return await station.enqueue(rescue_recipe, slots=[params.name], count=None)


@handles(PROGRAMMER_LIST)
async def list_programmers(call: Call, _params: ProgrammerList) -> list[Programmer]:
    """Answer ``programmer.list``."""
    return call.station.programmers()
