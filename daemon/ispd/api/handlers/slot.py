"""The slots, and the boards and programmers on them."""

import hashlib

from ispd.api.call import Call
from ispd.api.handlers import handles
from ispd.api.methods import (
    PROGRAMMER_LIST,
    SLOT_GET,
    SLOT_LIST,
    SLOT_PROBE,
    SLOT_READ,
    SLOT_SET,
    Dump,
    ProgrammerList,
    SlotGet,
    SlotList,
    SlotProbe,
    SlotRead,
    SlotSet,
)
from ispd.model.station import Probe, Programmer, Slot

__all__ = ["change", "get", "list_programmers", "list_slots", "probe", "read"]


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
    )


@handles(PROGRAMMER_LIST)
async def list_programmers(call: Call, _params: ProgrammerList) -> list[Programmer]:
    """Answer ``programmer.list``."""
    return call.station.programmers()
