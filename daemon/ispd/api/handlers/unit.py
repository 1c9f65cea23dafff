"""The records of boards."""

from ispd.api.call import Call
from ispd.api.handlers import handles
from ispd.api.methods.unit import UNIT_GET, UNIT_LIST, UnitGet, UnitList
from ispd.model.job import Unit

__all__ = ["get", "list_units"]


@handles(UNIT_LIST)
async def list_units(call: Call, params: UnitList) -> list[Unit]:
    """Answer ``unit.list``. A job that does not exist is an error, one that met no board an empty list."""
    if params.job is not None:
        await call.station.job(params.job)
    return await call.station.units(job=params.job, limit=params.limit, before=params.before)


@handles(UNIT_GET)
async def get(call: Call, params: UnitGet) -> Unit:
    """Answer ``unit.get``."""
    return await call.station.unit(params.id)
