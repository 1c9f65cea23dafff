"""Which jobs a slot's programmer can do: a part is programmed by ISP or by SWD, and no programmer speaks both."""

from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, ProgrammerError, RefusedError
from ispd.flashing.interface import TargetInterface
from ispd.model.part import Interface, Part
from ispd.model.recipe import PlanKind, Recipe
from ispd.station.programmer_host import ProgrammerHost

__all__ = ["MISFIT_HINT", "MisfitError", "fitting_target", "misfit", "misfit_job", "needed_part"]

MISFIT_HINT = "use a slot whose programmer is for this part; without slots named, those that can do it are taken"


class MisfitError(ProgrammerError):
    """The slot has a programmer that cannot do the recipe."""


def needed_part(recipe: Recipe, parts: Parts) -> Part | None:
    """Return the part that a recipe's programmer must be for; None where each board's own identity decides."""
    if recipe.part is None:
        return None
    try:
        return parts.get(recipe.part)
    except RefusedError:  # an own part that is no longer there: flashing says so
        return None


def misfit(recipe: Recipe, parts: Parts, interface: Interface | None) -> str | None:
    """Return why a programmer cannot do a recipe, in words; None where it can, or where nobody knows.

    :param interface: what the programmer speaks, None while nobody knows.
    """
    part = needed_part(recipe, parts)
    if part is None or interface is None or part.interface is interface:
        return None
    return f"its programmer speaks {interface.upper()}; {part.name} is programmed by {part.interface.upper()}"


def misfit_job(recipe: Recipe, parts: Parts, interface: Interface | None) -> str | None:
    """Like :func:`misfit`, for a whole job: one that goes on over USB alone needs no programmer."""
    return None if recipe.plan is PlanKind.CHAIN_ONLY else misfit(recipe, parts, interface)


async def fitting_target(host: ProgrammerHost, recipe: Recipe, parts: Parts) -> TargetInterface:
    """Return what is behind a slot's programmer, opening that first where needed.

    Raises what :meth:`ProgrammerHost.target` does, and ``MisfitError`` (programmer-cannot) where the recipe is not for it.
    """
    target = await host.target()
    why = misfit(recipe, parts, target.kind)
    if why is not None:
        raise MisfitError(ErrorCode.PROGRAMMER_CANNOT, why, hint=MISFIT_HINT)
    return target
