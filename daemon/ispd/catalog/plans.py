"""A recipe of one plan as one of another: pure, nothing is checked again here."""

from dataclasses import replace

from ispd.model.image import Image
from ispd.model.recipe import PlanKind, Recipe

__all__ = ["as_chained", "as_merged", "image_digest"]


def as_chained(recipe: Recipe) -> Recipe:
    """Return the recipe with the way over the board's own USB port."""
    return replace(recipe, plan=PlanKind.CHAINED)


def as_merged(recipe: Recipe) -> Recipe:
    """Return the recipe with bootloader and firmware as one production image that goes on through the programmer."""
    return replace(recipe, plan=PlanKind.MERGED, flash=_joined(recipe), firmware=None)


def image_digest(recipe: Recipe) -> str:
    """Return the digest of what flash holds in the end, bootloader and firmware joined; empty where the recipe writes nothing to it."""
    joined = _joined(recipe)
    return joined.sha256 if len(joined) else ""


def _joined(recipe: Recipe) -> Image:
    return recipe.flash if recipe.firmware is None else recipe.flash.merged(recipe.firmware)
