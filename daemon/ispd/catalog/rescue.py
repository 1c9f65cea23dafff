"""From a job that brings firmware over USB to one that brings the board itself back: bootloader, fuses and lock bits by its programmer, then the rest."""

from collections.abc import Sequence
from dataclasses import replace

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.imagefile import ImageFile, read_image
from ispd.catalog.merge import merge_files
from ispd.catalog.options import NamedBytes
from ispd.catalog.parts import Parts
from ispd.catalog.placement import place_files
from ispd.catalog.recipe import admit
from ispd.catalog.sections import sides
from ispd.catalog.split import VIA_BOOTLOADER, check_identity, check_served, choose_chain
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import MemoryKind, Part
from ispd.model.recipe import PlanKind, Recipe, SourceFile

__all__ = ["as_rescue"]


def as_rescue(recipe: Recipe, parts: Parts, bootloaders: Bootloaders, files: Sequence[NamedBytes] = ()) -> Recipe:
    """Return the chained recipe that saves a board which ``recipe`` left without a working bootloader.

    A ``chain-only`` recipe sets no fuses; its rescue sets those of the bootloader, and its lock byte.

    :param files: bootloader image, where the recipe has none or another one is wanted; what it holds besides the bootloader is left out.
    Raises ``RefusedError``: nothing-to-rescue where the recipe brings no firmware through a bootloader, or nobody named a bootloader image;
    recipe-invalid where ``files`` hold none; and what :func:`~ispd.catalog.recipe.admit` raises.
    """
    if recipe.plan not in VIA_BOOTLOADER or recipe.firmware is None or recipe.bootloader is None:
        raise _nothing(
            "this job writes everything through the programmer", hint="flash the board again: ispctl enqueue"
        )
    bootloader = bootloaders.get(recipe.bootloader)
    if recipe.part is None:
        raise _nothing(
            f"{bootloader.title} is put on by no programmer here", hint="put the bootloader on by other means"
        )
    part = parts.get(recipe.part)
    images = [read_image(f.name, f.content, base=f.base, memory=MemoryKind.FLASH) for f in files]
    if bootloader.is_any and images:
        bootloader, _ = choose_chain(None, part, images, parts, bootloaders)
    loader, sources, told = _loader(recipe, images, bootloader, part)
    check_served(bootloader, PlanKind.CHAINED)
    told += check_identity(loader, bootloader, force=recipe.force_fuses)
    is_complete = recipe.plan is not PlanKind.CHAIN_ONLY
    rescue = replace(
        recipe,
        plan=PlanKind.CHAINED,
        bootloader=bootloader.id,
        flash=loader,
        fuses=recipe.fuses if is_complete else dict(bootloader.fuses),
        lock=recipe.lock if is_complete else bootloader.lock,
        erase=True,
        sources=recipe.sources + sources,
    )
    told += admit(rescue, part, bootloaders)
    return replace(rescue, warnings=tuple(dict.fromkeys((*recipe.warnings, *told))))


def _loader(
    recipe: Recipe, files: Sequence[ImageFile], bootloader: Bootloader, part: Part
) -> tuple[Image, tuple[SourceFile, ...], tuple[str, ...]]:
    """Return the bootloader image, where it is from, and what was noticed."""
    wanted = f"the bootloader's image, {bootloader.image_file}" if bootloader.image_file else "the bootloader's image"
    if not files:
        if not len(recipe.flash):
            raise _nothing("the job has no bootloader image to put back", hint=f"name {wanted}")
        return recipe.flash, (), ()
    start = 0 if bootloader.section is None else bootloader.section.start
    merged = merge_files(place_files(files, part, bootloader), part)
    loader = merged.image if bootloader.section is None else sides(merged.image, bootloader)[0]
    if not len(loader):
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            f"there is no bootloader in what was named: nothing in its place at 0x{start:04X}",
            hint=f"name {wanted}",
            facts=Facts(field="images"),
        )
    return loader, merged.sources, merged.warnings


def _nothing(message: str, *, hint: str) -> RefusedError:
    return RefusedError(ErrorCode.NOTHING_TO_RESCUE, message, hint=hint)
