"""The checks of a recipe that need the part, before anything of a board is touched."""

from collections.abc import Mapping

from ispd.catalog.avr_image import check_pair, find_bootloader
from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.choice import check_bootloader
from ispd.catalog.fuse_guard import judge_fuses, judge_lock
from ispd.catalog.fuses import known_presets
from ispd.catalog.lint import check_fit, check_image, check_memory
from ispd.catalog.option_guard import RDP_OPEN, judge_options, judge_rdp, protected_flash
from ispd.catalog.placement import linking_word
from ispd.catalog.plans import as_chained, as_merged
from ispd.catalog.sections import is_below_firmware
from ispd.catalog.split import VIA_BOOTLOADER
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.part import AvrPart, Interface, MemoryKind, Part, Stm32Part
from ispd.model.recipe import PlanKind, Recipe
from ispd.model.report import FindingLevel, FuseFinding
from ispd.model.span import Span

__all__ = ["admit"]

_BLB0 = 0x0C
"""Lock bits of the application section (data sheets, "Boot Lock Bits"): either one keeps the bootloader from writing or reading it."""

_LOCK_HINT = "name an image and leave the erase in: it opens the lock bits; or name a byte that only closes more"


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
    _check_family(recipe, part)
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
        if isinstance(part, Stm32Part):
            _check_writable(recipe, part, bootloader)
    if recipe.eeprom is not None:
        check_fit(part, MemoryKind.EEPROM, recipe.eeprom)
    _decide(recipe, part, findings := _judge(recipe, part, bootloaders, current_fuses))
    if isinstance(part, AvrPart):
        _check_open(recipe, part)
    in_force = {**(current_fuses or {}), **recipe.fuses}
    erases_all = recipe.erase and not recipe.keeps_rest
    told += check_image(part, recipe.flash, in_force, erase=erases_all, force=recipe.force_fuses)
    if (
        isinstance(part, Stm32Part) and recipe.part is None and recipe.bootloader is None
    ):  # said already where it was known
        told += linking_word("the image", recipe.flash, part, bootloaders)
    presets = bootloaders.presets(part)
    told += check_pair(part, recipe.flash, in_force, presets, recipe.bootloader, force=recipe.force_fuses)
    return (*told, *_unlock_words(recipe, part), *(f"{finding.memory}: {finding.message}" for finding in findings))


def _check_family(recipe: Recipe, part: Part) -> None:
    """Refuse by name what the part's family does not have."""
    if recipe.eeprom is not None:
        check_memory(part, MemoryKind.EEPROM)
    if recipe.keeps_rest and part.interface is Interface.ISP:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            f"{part.name} cannot keep what the image does not hold: ISP erases the whole chip",
            hint="leave out --keep-rest; --no-erase writes without erasing, where flash is blank",
            facts=Facts(part=part.id, field="keep_rest"),
        )
    if recipe.lock in (None, RDP_OPEN) or recipe.plan not in VIA_BOOTLOADER or not isinstance(part, Stm32Part):
        return
    raise RefusedError(
        ErrorCode.RECIPE_INVALID,
        f"lock 0x{recipe.lock:02X} closes the flash of {part.name} to its bootloader's firmware and to the check of it",
        hint="put both on by the programmer: --plan merged",
        facts=Facts(part=part.id, memory=MemoryKind.LOCK, field="lock"),
    )


def _unlock_words(recipe: Recipe, part: Part) -> tuple[str, ...]:
    if recipe.unlock and part.interface is Interface.ISP:
        return (f"{part.name} needs no --unlock: every chip erase opens its lock bits",)
    return ()


def _judge(
    recipe: Recipe, part: Part, bootloaders: Bootloaders, current: Mapping[MemoryKind, int] | None
) -> tuple[FuseFinding, ...]:
    now = (current or {}).get(MemoryKind.LOCK)
    if isinstance(part, Stm32Part):
        return judge_options(part, recipe.fuses, current) + (
            () if recipe.lock is None else judge_rdp(part, recipe.lock, now)
        )
    if not isinstance(part, AvrPart):
        return ()
    findings = judge_fuses(part, recipe.fuses, current, known_presets(part, bootloaders), supply_mv=recipe.supply_mv)
    if recipe.lock is not None:
        findings += judge_lock(part, recipe.lock, now, erase=recipe.erase)
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


def _check_writable(recipe: Recipe, part: Stm32Part, bootloader: Bootloader) -> None:
    """Refuse option bytes, in force before the firmware comes, that protect the firmware's place from the bootloader."""
    if recipe.plan is not PlanKind.CHAINED or recipe.force_fuses:
        return
    application = Span(bootloader.application_start, part.flash.span.stop)
    closed = [span for span in protected_flash(part, recipe.fuses) if len(span.overlap(application))]
    if closed:
        raise RefusedError(
            ErrorCode.FUSE_REFUSED,
            f"the option bytes protect 0x{closed[0].start:08X}..0x{closed[0].stop - 1:08X} from {bootloader.id}, before it has brought the firmware",
            hint="put both on by the programmer: --plan merged",
            facts=Facts(part=part.id, memory=MemoryKind.WRP0, address=closed[0].start),
        )


def _size_findings(recipe: Recipe, part: Part, bootloader: Bootloader) -> tuple[str, ...]:
    """Tell when a firmware reaches into the section of the bootloader that its fuses are for."""
    limit = bootloader.application_max_bytes
    stop = recipe.flash.span.stop
    if (
        is_below_firmware(bootloader)
        or limit is None
        or stop <= limit
        or find_bootloader(part, recipe.flash) is not None
    ):
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
