"""From what ``enqueue`` was given to a recipe: every check that needs no board, and those that need the part."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.fuse_guard import judge_fuses, judge_lock
from ispd.catalog.fuses import known_presets
from ispd.catalog.imagefile import ImageFile, read_image
from ispd.catalog.lint import check_fit, check_image, check_pair, find_bootloader
from ispd.catalog.merge import merge_files
from ispd.catalog.parts import Parts
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.part import MemoryKind, Part
from ispd.model.recipe import Recipe
from ispd.model.report import FindingLevel, FuseFinding

__all__ = ["NamedBytes", "RecipeOptions", "admit", "build_recipe"]


@dataclass(frozen=True, slots=True)
class NamedBytes:
    """A file as a client handed it over. ``base`` is the byte address of a raw binary."""

    name: str
    content: bytes
    base: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeOptions:
    """What a client may ask for. Fields mean what they mean in :class:`~ispd.model.recipe.Recipe`; None is "not said".

    :param files: flash images; several are joined by the merge rules.
    :param part: part id, name or avrdude id.
    :param erase: chip erase first; it takes place only where flash is written.
    :param bootloader: bootloader id or QMK name; sets its fuse bytes. A fuse option beside it wins, with a warning.
    """

    files: tuple[NamedBytes, ...] = ()
    eeprom: NamedBytes | None = None
    part: str | None = None
    bootloader: str | None = None
    lfuse: int | None = None
    hfuse: int | None = None
    efuse: int | None = None
    lock: int | None = None
    erase: bool = True
    force_fuses: bool = False
    accept_fuses: bool = False
    sck_hz: int | None = None
    supply_mv: int | None = None


def build_recipe(options: RecipeOptions, parts: Parts, bootloaders: Bootloaders) -> Recipe:
    """Check ``options`` and return the recipe; where the part is named (or its bootloader names it), it is admitted too.

    Raises ``RefusedError`` with any code of refused input; nothing was touched.
    """
    part = None if options.part is None else parts.get(options.part)
    bootloader = None if options.bootloader is None else bootloaders.get(options.bootloader, part)
    if part is None and bootloader is not None and len(bootloader.parts) == 1:
        part = parts.get(bootloader.parts[0])
    _check_numbers(options)
    flash = merge_files([_read(file) for file in options.files], part)
    eeprom = None if options.eeprom is None else _read(options.eeprom)
    fuses, fuse_warnings = _choose_fuses(options, bootloader)
    recipe = Recipe(
        flash=flash.image,
        part=None if part is None else part.id,
        eeprom=None if eeprom is None else eeprom.image,
        fuses=fuses,
        lock=options.lock,
        bootloader=None if bootloader is None else bootloader.id,
        # without an image there is nothing that would bring the board back to life after an erase
        erase=options.erase and len(flash.image) > 0,
        force_fuses=options.force_fuses,
        accept_fuses=options.accept_fuses,
        sck_hz=options.sck_hz,
        supply_mv=options.supply_mv,
        sources=flash.sources + (() if eeprom is None else (eeprom.source,)),
        warnings=(*flash.warnings, *fuse_warnings),
    )
    _check_purpose(recipe)
    if part is None:
        return recipe
    told = admit(recipe, part, bootloaders)
    return replace(recipe, warnings=tuple(dict.fromkeys((*recipe.warnings, *told))))


def admit(
    recipe: Recipe, part: Part, bootloaders: Bootloaders, current_fuses: Mapping[MemoryKind, int] | None = None
) -> tuple[str, ...]:
    """Make every check that needs the part, before anything of the board is touched; return warnings.

    :param current_fuses: bytes the board has now (the lock byte among them), where they were read. They answer questions of the fuse guard, and
        tell where the board will start when the recipe does not set the fuses.
    Raises ``RefusedError``: image-does-not-fit, image-fuse-mismatch, fuse-refused, fuse-confirm (naming every question),
    unknown-bootloader where the bootloader is not for this part, invalid-parameter.
    """
    told: tuple[str, ...] = ()
    if recipe.bootloader is not None:
        bootloader = bootloaders.get(recipe.bootloader, part)
        _check_bootloader(bootloader, part)
        told += _size_findings(recipe, part, bootloader)
    if recipe.eeprom is not None:
        check_fit(part, MemoryKind.EEPROM, recipe.eeprom)
    findings = judge_fuses(
        part, recipe.fuses, current_fuses, known_presets(part, bootloaders), supply_mv=recipe.supply_mv
    )
    if recipe.lock is not None:
        findings += judge_lock(part, recipe.lock, (current_fuses or {}).get(MemoryKind.LOCK), erase=recipe.erase)
    _decide(recipe, part, findings)
    in_force = {**(current_fuses or {}), **recipe.fuses}
    told += check_image(part, recipe.flash, in_force, erase=recipe.erase, force=recipe.force_fuses)
    told += check_pair(part, recipe.flash, in_force, bootloaders.presets(part), recipe.bootloader)
    return (*told, *(f"{finding.memory}: {finding.message}" for finding in findings))


def _check_numbers(options: RecipeOptions) -> None:
    for field in ("lfuse", "hfuse", "efuse", "lock"):
        value = getattr(options, field)
        if value is not None and not 0 <= value <= 0xFF:
            raise _invalid(field, f"{field} must be 0x00..0xFF, not {value:#x}")
    for field in ("sck_hz", "supply_mv"):
        value = getattr(options, field)
        if value is not None and value < 1:
            raise _invalid(field, f"{field} must be positive, not {value}")


def _invalid(field: str, message: str) -> RefusedError:
    return RefusedError(ErrorCode.INVALID_PARAMETER, message, facts=Facts(field=field))


def _read(file: NamedBytes) -> ImageFile:
    return read_image(file.name, file.content, base=file.base)


def _choose_fuses(options: RecipeOptions, bootloader: Bootloader | None) -> tuple[dict[MemoryKind, int], list[str]]:
    """Return the fuse bytes to write: the bootloader's, and over them what was given explicitly."""
    fuses = {} if bootloader is None else dict(bootloader.fuses)
    given = {MemoryKind.LFUSE: options.lfuse, MemoryKind.HFUSE: options.hfuse, MemoryKind.EFUSE: options.efuse}
    warnings = []
    for memory, value in given.items():
        if value is None:
            continue
        known = (
            ()
            if bootloader is None or memory not in fuses
            else (fuses[memory], *bootloader.fuse_alternatives.get(memory, ()))
        )
        if bootloader is not None and known and value not in known:
            warnings.append(f"{memory} 0x{value:02X} was given; {bootloader.id} is made for 0x{known[0]:02X}")
        fuses[memory] = value
    return fuses, warnings


def _check_purpose(recipe: Recipe) -> None:
    if not len(recipe.flash) and recipe.eeprom is None and not recipe.fuses and recipe.lock is None:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "there is nothing to write: no image, no fuses, no lock byte",
            hint="name an image",
        )


def _check_bootloader(bootloader: Bootloader, part: Part) -> None:
    if not {part.id, *part.twins} & set(bootloader.parts):
        raise RefusedError(
            ErrorCode.UNKNOWN_BOOTLOADER,
            f"{bootloader.id} is a bootloader for {', '.join(bootloader.parts) or 'other parts'}, not for {part.id}",
            hint="its fuse bytes would mean something else on this part",
            facts=Facts(part=part.id),
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
            raise RefusedError(
                code,
                "; ".join(_tell(recipe, finding) for finding in (*these, *doubts)),
                hint=hint,
                facts=Facts(part=part.id, memory=these[0].memory, expected=_wanted(recipe, these[0].memory)),
            )


def _tell(recipe: Recipe, finding: FuseFinding) -> str:
    return f"{finding.memory} 0x{_wanted(recipe, finding.memory):02X}: {finding.message}"


def _wanted(recipe: Recipe, memory: MemoryKind) -> int:
    value = recipe.lock if memory is MemoryKind.LOCK else recipe.fuses[memory]
    return 0xFF if value is None else value
