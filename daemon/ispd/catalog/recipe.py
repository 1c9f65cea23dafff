"""From what ``enqueue`` was given to a recipe: every check that needs no board, and those that need the part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ispd.catalog.avr_image import check_pair, find_bootloader
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.choice import (
    check_bootloader,
    check_linked,
    choose_bootloader,
    choose_fuses,
    choose_lock,
    choose_part,
)
from ispd.catalog.fuse_guard import judge_fuses, judge_lock
from ispd.catalog.fuses import known_presets
from ispd.catalog.imagefile import ImageFile, read_image
from ispd.catalog.lint import check_fit, check_image
from ispd.catalog.merge import merge_files
from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.parts import Parts
from ispd.catalog.plans import as_chained, as_merged
from ispd.catalog.split import VIA_BOOTLOADER, check_identity, check_merged, check_served, choose_chain, split_files
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import AvrPart, MemoryKind, Part
from ispd.model.recipe import PlanKind, Recipe, SourceFile, VerifyScope
from ispd.model.report import FindingLevel, FuseFinding

__all__ = ["NamedBytes", "RecipeOptions", "admit", "build_recipe"]

_LIMITS: Mapping[str, int] = {"sck_hz": 20_000_000, "supply_mv": 20_000}
"""More than any programmer clocks, more than any board is supplied with: the value is meant for something else."""

_BLB0 = 0x0C
"""Lock bits of the application section (data sheets, "Boot Lock Bits"): either one keeps the bootloader from writing or reading it."""

_LOCK_HINT = "name an image and leave the erase in: it opens the lock bits; or name a byte that only closes more"


def build_recipe(options: RecipeOptions, parts: Parts, bootloaders: Bootloaders) -> Recipe:
    """Check ``options`` and return the recipe; where the part is named (or its bootloader or an ELF file names it), it is admitted too.

    Raises ``RefusedError`` with any code of refused input; nothing was touched.
    """
    plan = options.plan or PlanKind.ISP_ONLY
    _check_numbers(options)
    _check_plan(options, plan)
    files = [_read(file, MemoryKind.FLASH) for file in options.files]
    eeprom = None if options.eeprom is None else _read(options.eeprom, MemoryKind.EEPROM)
    part = choose_part(options, [*files, *([] if eeprom is None else [eeprom])], parts)
    named = choose_bootloader(options, part, files, bootloaders)
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
    images = _images(options, plan, files, bootloader, part, parts)
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
        verify=options.verify or VerifyScope.WRITTEN,
        force_fuses=options.force_fuses,
        accept_fuses=options.accept_fuses,
        sck_hz=options.sck_hz,
        supply_mv=options.supply_mv,
        sources=images.sources + (() if eeprom is None else (eeprom.source,)),
        warnings=(*options.notes, *images.warnings, *fuse_words, *lock_words),
    )
    _check_purpose(recipe)
    told = _elf_words(files, recipe)
    if part is not None:
        told += admit(recipe, part, bootloaders)
    return replace(recipe, warnings=tuple(dict.fromkeys((*recipe.warnings, *told))))


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
    """Return what the files put on the board by ISP, and what through the bootloader."""
    if plan not in VIA_BOOTLOADER or bootloader is None:
        flash = merge_files(files, part, strip_sketch=options.strip_sketch, parts=parts)
        if plan is PlanKind.MERGED:
            check_merged(flash.image, bootloader, part, parts)
        return _Images(flash=flash.image, sources=flash.sources, warnings=flash.warnings)
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


def admit(
    recipe: Recipe, part: Part, bootloaders: Bootloaders, current_fuses: Mapping[MemoryKind, int] | None = None
) -> tuple[str, ...]:
    """Make every check that needs the part, before anything of the board is touched; return warnings.

    Of a chained recipe that is its ISP half; of ``chain-only`` nothing about fuses; of ``auto`` either way.

    :param current_fuses: bytes the board has now (the lock byte among them), where they were read. They answer questions of the fuse guard, and
        tell where the board will start when the recipe does not set the fuses.
    Raises ``RefusedError``: image-does-not-fit, image-fuse-mismatch, fuse-refused, fuse-confirm (naming every question),
    unknown-bootloader where the bootloader is not for this part, invalid-parameter.
    """
    if recipe.plan is PlanKind.CHAIN_ONLY:
        return _admit_chain(recipe, part, bootloaders)
    if recipe.plan is PlanKind.AUTO:
        both = (as_chained(recipe), as_merged(recipe))
        return tuple(dict.fromkeys(word for one in both for word in admit(one, part, bootloaders, current_fuses)))
    told: tuple[str, ...] = ()
    if recipe.bootloader is not None:
        bootloader = bootloaders.get(recipe.bootloader, part)
        check_bootloader(bootloader, part)
        told += _size_findings(recipe, part, bootloader)
    if recipe.eeprom is not None:
        check_fit(part, MemoryKind.EEPROM, recipe.eeprom)
    _decide(recipe, part, findings := _judge(recipe, part, bootloaders, current_fuses))
    _check_open(recipe, part)
    in_force = {**(current_fuses or {}), **recipe.fuses}
    told += check_image(part, recipe.flash, in_force, erase=recipe.erase, force=recipe.force_fuses)
    presets = bootloaders.presets(part)
    told += check_pair(part, recipe.flash, in_force, presets, recipe.bootloader, force=recipe.force_fuses)
    return (*told, *(f"{finding.memory}: {finding.message}" for finding in findings))


def _judge(
    recipe: Recipe, part: Part, bootloaders: Bootloaders, current: Mapping[MemoryKind, int] | None
) -> tuple[FuseFinding, ...]:
    if not isinstance(part, AvrPart):
        return ()
    findings = judge_fuses(part, recipe.fuses, current, known_presets(part, bootloaders), supply_mv=recipe.supply_mv)
    if recipe.lock is not None:
        findings += judge_lock(part, recipe.lock, (current or {}).get(MemoryKind.LOCK), erase=recipe.erase)
    return findings


def _admit_chain(recipe: Recipe, part: Part, bootloaders: Bootloaders) -> tuple[str, ...]:
    """Check what holds without ISP: the bootloader is for the part, and what a rescue would put back fits."""
    if recipe.bootloader is not None:
        check_bootloader(bootloaders.get(recipe.bootloader, part), part)
    check_fit(part, MemoryKind.FLASH, recipe.flash)
    return ()


def _check_open(recipe: Recipe, part: Part) -> None:
    """Refuse a lock byte, written before the firmware comes, that closes the application section to the bootloader."""
    if recipe.plan is not PlanKind.CHAINED or recipe.lock is None or recipe.force_fuses:
        return
    closed = ~recipe.lock & part.lock_mask & _BLB0
    if closed:
        raise RefusedError(
            ErrorCode.FUSE_REFUSED,
            f"lock 0x{recipe.lock:02X} closes the application section to the bootloader, before it has brought the firmware",
            hint=f"write lock 0x{recipe.lock | _BLB0:02X}; or put both on by ISP: --plan merged",
            facts=Facts(part=part.id, memory=MemoryKind.LOCK, expected=recipe.lock),
        )


def _check_plan(options: RecipeOptions, plan: PlanKind) -> None:
    """Refuse what a plan cannot do with the other options."""
    by_isp = [name for name in ("eeprom", "lfuse", "hfuse", "efuse", "lock") if getattr(options, name) is not None]
    if plan is PlanKind.CHAIN_ONLY and by_isp:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            f"{', '.join(by_isp)} cannot be written with --chain-only: that takes ISP",
            hint="leave it out, or write everything: --chain",
            facts=Facts(field=by_isp[0]),
        )
    if plan in VIA_BOOTLOADER and not options.erase:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "a firmware cannot go on through a bootloader without an erase",
            hint="leave the erase in; --plan merged writes both by ISP",
            facts=Facts(field="erase"),
        )
    if plan is PlanKind.CHAIN_ONLY and options.verify is VerifyScope.FULL:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "all of flash cannot be verified over USB, only what was written",
            hint="leave it out: what was written always is",
            facts=Facts(field="verify"),
        )


def _check_numbers(options: RecipeOptions) -> None:
    for field in ("lfuse", "hfuse", "efuse", "lock"):
        value = getattr(options, field)
        if value is not None and not 0 <= value <= 0xFF:
            raise _invalid(field, f"{field} must be 0x00..0xFF, not {value:#x}")
    for field, limit in _LIMITS.items():
        value = getattr(options, field)
        if value is not None and not 1 <= value <= limit:
            raise _invalid(field, f"{field} must be 1..{limit}, not {value}")


def _invalid(field: str, message: str) -> RefusedError:
    return RefusedError(ErrorCode.INVALID_PARAMETER, message, facts=Facts(field=field))


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


def _size_findings(recipe: Recipe, part: Part, bootloader: Bootloader) -> tuple[str, ...]:
    """Tell when a firmware reaches into the section of the bootloader that its fuses are for."""
    limit = bootloader.application_max_bytes
    stop = recipe.flash.span.stop
    if limit is None or stop <= limit or find_bootloader(part, recipe.flash) is not None:
        return ()
    return (f"the firmware ends at 0x{stop - 1:04X}; {bootloader.id} leaves it {limit} bytes, up to 0x{limit - 1:04X}",)


def _decide(recipe: Recipe, part: Part, findings: tuple[FuseFinding, ...]) -> None:
    """Raise for what the guard refuses or asks, unless the recipe accepts it."""
    for level, code, accepted, hint in (
        (
            FindingLevel.REFUSE,
            ErrorCode.FUSE_REFUSED,
            recipe.force_fuses,
            "correct the byte; --force-fuses writes it anyway",
        ),
        (
            FindingLevel.CONFIRM,
            ErrorCode.FUSE_CONFIRM,
            recipe.accept_fuses or recipe.force_fuses,
            "--yes accepts this",
        ),
    ):
        these = [finding for finding in findings if finding.level is level]
        if these and not accepted:
            suspect = {finding.memory for finding in these}
            doubts = [f for f in findings if f.level is FindingLevel.CHECK and f.memory in suspect]
            # no option writes a 1 into a lock bit
            is_locked = level is FindingLevel.REFUSE and these[0].memory is MemoryKind.LOCK
            raise RefusedError(
                code,
                "; ".join(_tell(recipe, finding) for finding in (*these, *doubts)),
                hint=_LOCK_HINT if is_locked else hint,
                facts=Facts(part=part.id, memory=these[0].memory, expected=_wanted(recipe, these[0].memory)),
            )


def _tell(recipe: Recipe, finding: FuseFinding) -> str:
    return f"{finding.memory} 0x{_wanted(recipe, finding.memory):02X}: {finding.message}"


def _wanted(recipe: Recipe, memory: MemoryKind) -> int:
    value = recipe.lock if memory is MemoryKind.LOCK else recipe.fuses[memory]
    return 0xFF if value is None else value
