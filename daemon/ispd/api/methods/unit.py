"""The records of boards."""

from ispd.api.declare import Method, Params, Privilege
from ispd.api.methods.fields import Before, JobId, Limit, UnitId
from ispd.errors import ErrorCode
from ispd.model.job import Unit

__all__ = ["UNIT_GET", "UNIT_LIST", "UnitGet", "UnitList"]


class UnitList(Params, frozen=True, kw_only=True):
    """List units, the records of boards, newest first."""

    job: JobId | None = None
    limit: Limit = 100
    before: Before | None = None


class UnitGet(Params, frozen=True, kw_only=True):
    """Show one unit's complete record."""

    id: UnitId


UNIT_LIST = Method(
    name="unit.list",
    params=UnitList,
    result=list[Unit],
    result_text="units, newest first",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_JOB,),
)
UNIT_GET = Method(
    name="unit.get",
    params=UnitGet,
    result=Unit,
    result_text="the unit's record",
    privilege=Privilege.VIEW,
    errors=(ErrorCode.UNKNOWN_UNIT,),
)
