"""From what ``enqueue`` was given to a recipe: every check that needs no board, and those that need the part."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ispd.catalog.admission import admit
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.choice import (
    check_bootloader,
    check_linked,
    choose_bootloader,
    choose_fuses,
    choose_lock,
    choose_part,
)
from ispd.catalog.imagefile import ImageFile, read_image
from ispd.catalog.merge import merge_files
from ispd.catalog.option_rules import check_options
from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.parts import Parts
from ispd.catalog.placement import held_loader, linking_words, place_files, sketch_words
from ispd.catalog.sections import check_application, holds, is_below_firmware, sides
from ispd.catalog.split import VIA_BOOTLOADER, check_identity, check_merged, check_served, choose_chain, split_files
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import MemoryKind, Part
from ispd.model.recipe import ClonePolicy, PlanKind, Recipe, SourceFile, VerifyScope

__all__ = ["NamedBytes", "RecipeOptions", "admit", "build_recipe"]


def build_recipe(options: RecipeOptions, parts: Parts, bootloaders: Bootloaders) -> Recipe:
    """Check ``options`` and return the recipe; where the part is named (or its bootloader or an ELF file names it), it is admitted too.

    Raises ``RefusedError`` with any code of refused input; nothing was touched.
    """
    plan = options.plan or PlanKind.ISP_ONLY
    check_options(options)
    files = [_read(file, MemoryKind.FLASH) for file in options.files]
    eeprom = None if options.eeprom is None else _read(options.eeprom, MemoryKind.EEPROM)
    known = choose_part(options, [*files, *([] if eeprom is None else [eeprom])], parts)
    named = choose_bootloader(options, known, files, bootloaders)
    bootloader, part = _chosen(named, known, plan, files, parts, bootloaders)
    loader = bootloader if plan in VIA_BOOTLOADER else _loader_in(files, plan, part, named, bootloaders)
    told_of_files = (*sketch_words(files, loader), *linking_words(files, part, loader, bootloaders))
    files = place_files(files, part, loader)
    images = _images(options, plan, files, loader if bootloader is None else bootloader, part, parts)
    # a board that has its bootloader has its fuses
    preset = None if plan is PlanKind.CHAIN_ONLY else named
    fuses, fuse_words = choose_fuses(options, preset, part)
    lock, lock_words = choose_lock(options, preset, part)
    recipe = Recipe(
        flash=images.flash,
        plan=plan,
        firmware=images.firmware,
        part=None if part is None else part.id,
        eeprom=None if eeprom is None else eeprom.image,
        fuses=fuses,
        lock=lock,
        bootloader=None if bootloader is None else bootloader.id,
        # without an image there is nothing that would bring the board back to life after an erase
        erase=options.erase and len(images.flash) > 0,
        keeps_rest=options.keeps_rest and len(images.flash) > 0,
        unlock=options.unlock,
        clones=options.clones or ClonePolicy.WARN,
        verify=options.verify or VerifyScope.WRITTEN,
        force_fuses=options.force_fuses,
        accept_fuses=options.accept_fuses,
        sck_hz=options.sck_hz,
        supply_mv=options.supply_mv,
        sources=images.sources + (() if eeprom is None else (eeprom.source,)),
        warnings=(*options.notes, *told_of_files, *images.warnings, *fuse_words, *lock_words),
    )
    _check_purpose(recipe)
    told = _elf_words(files, recipe)
    if part is not None:
        told += admit(recipe, part, bootloaders)
    return replace(recipe, warnings=tuple(dict.fromkeys((*recipe.warnings, *told))))


def _chosen(
    named: Bootloader | None,
    part: Part | None,
    plan: PlanKind,
    files: Sequence[ImageFile],
    parts: Parts,
    bootloaders: Bootloaders,
) -> tuple[Bootloader | None, Part | None]:
    """Return the bootloader and the part that a plan is for, as far as they are known; every file suits the part.

    :param named: the bootloader that was named, or is in a file; it may name the part.
    """
    bootloader = named
    if plan in VIA_BOOTLOADER:
        bootloader, part = choose_chain(named, part, files, parts, bootloaders)
    elif part is None and named is not None:
        if named.chips:
            check_served(named, plan)
        part = parts.get(named.parts[0]) if len(named.parts) == 1 else None
    if part is not None:
        for file in files:
            check_linked(file, part, parts)
    return bootloader, part


def _loader_in(
    files: Sequence[ImageFile], plan: PlanKind, part: Part | None, named: Bootloader | None, bootloaders: Bootloaders
) -> Bootloader | None:
    """Return the bootloader at the begin of flash that goes on with a firmware by the programmer."""
    known = () if part is None else bootloaders.presets(part)
    held = held_loader(files, part, known if named is None else (named,))
    # a bootloader that is only named is put on by no file, unless the plan says that one of them is it
    return named if held is None and plan is PlanKind.MERGED else held


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    flash: Image
    firmware: Image | None = None
    sources: tuple[SourceFile, ...]
    warnings: tuple[str, ...]


def _images(
    options: RecipeOptions,
    plan: PlanKind,
    files: Sequence[ImageFile],
    bootloader: Bootloader | None,
    part: Part | None,
    parts: Parts,
) -> _Images:
    """Return what the files put on the board by its programmer, and what through the bootloader."""
    if plan not in VIA_BOOTLOADER or bootloader is None:
        below = bootloader if bootloader is not None and is_below_firmware(bootloader) else None
        flash = merge_files(files, part, strip_sketch=options.strip_sketch, parts=parts, loader=below)
        if plan is PlanKind.MERGED:
            check_merged(flash.image, bootloader, part, parts)
        told = _application_words(flash.image, below, plan, force=options.force_fuses)
        return _Images(flash=flash.image, sources=flash.sources, warnings=(*flash.warnings, *told))
    if part is not None:
        check_bootloader(bootloader, part)
    check_served(bootloader, plan)
    split = split_files(files, bootloader, part, plan, strip_sketch=options.strip_sketch)
    told = check_identity(split.bootloader, bootloader, force=options.force_fuses)
    return _Images(
        flash=split.bootloader,
        firmware=split.firmware,
        sources=split.sources,
        warnings=(*split.warnings, *told, *_fuse_advice(options, plan, bootloader), *_entry_advice(plan, bootloader)),
    )


def _application_words(image: Image, loader: Bootloader | None, plan: PlanKind, *, force: bool) -> tuple[str, ...]:
    """Check a firmware that goes on together with the bootloader below it."""
    if loader is None or not (plan is PlanKind.MERGED or holds(image, loader)):
        return ()
    _, firmware = sides(image, loader)
    return check_application(firmware, loader, force=force) if len(firmware) else ()


def _fuse_advice(options: RecipeOptions, plan: PlanKind, bootloader: Bootloader) -> tuple[str, ...]:
    """Tell where a bootloader goes on without the fuses that start it: it was not named, only recognised."""
    given = (options.bootloader, options.lfuse, options.hfuse, options.efuse)
    if plan is PlanKind.CHAIN_ONLY or not bootloader.fuses or any(value is not None for value in given):
        return ()
    return (f"no fuses are written; those of {bootloader.id} come with --bootloader {bootloader.id}",)


def _entry_advice(plan: PlanKind, bootloader: Bootloader) -> tuple[str, ...]:
    """Tell where each board needs a hand before its bootloader starts."""
    if plan is PlanKind.CHAIN_ONLY or not bootloader.entry:
        return ()
    return (
        f"{bootloader.title} starts on a board without firmware while {bootloader.entry}; --plan merged needs no hands",
    )


def _read(file: NamedBytes, memory: MemoryKind) -> ImageFile:
    return read_image(file.name, file.content, base=file.base, memory=memory)


def _elf_words(files: Sequence[ImageFile], recipe: Recipe) -> tuple[str, ...]:
    """Tell what ELF files hold besides flash that this job does not write: nobody asked for it."""
    words: list[str] = []
    for file in files:
        if file.elf is None:
            continue
        wanted = {**file.elf.fuses, **({} if file.elf.lock is None else {MemoryKind.LOCK: file.elf.lock})}
        written = {**recipe.fuses, **({} if recipe.lock is None else {MemoryKind.LOCK: recipe.lock})}
        left = [f"{memory} 0x{value:02X}" for memory, value in wanted.items() if written.get(memory) != value]
        if left:
            words.append(f"{file.name} names {', '.join(left)}, which this job does not write")
        if file.elf.eeprom is not None and recipe.eeprom is None:
            words.append(
                f"{file.name} holds {len(file.elf.eeprom)} bytes for the EEPROM, which this job does not write"
            )
    return tuple(words)


def _check_purpose(recipe: Recipe) -> None:
    if (
        recipe.firmware is None
        and not len(recipe.flash)
        and recipe.eeprom is None
        and not recipe.fuses
        and recipe.lock is None
    ):
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "there is nothing to write: no image, no fuses, no lock byte",
            hint="name an image",
        )
    if recipe.verify is VerifyScope.FULL and not recipe.erase:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "all of flash can only be verified after a chip erase: otherwise nobody knows what the rest should hold",
            hint="name an image and leave the erase in, or verify what was written",
            facts=Facts(field="verify"),
        )
