"""What options of a job contradict themselves or each other, whatever the part is."""

from collections.abc import Mapping

from ispd.catalog.options import RecipeOptions
from ispd.catalog.split import VIA_BOOTLOADER
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.recipe import PlanKind, VerifyScope

__all__ = ["check_options"]

_LIMITS: Mapping[str, int] = {"sck_hz": 20_000_000, "supply_mv": 20_000}
"""More than any programmer clocks, more than any board is supplied with: the value is meant for something else."""

_BYTE = range(0x100)


def check_options(options: RecipeOptions) -> None:
    """Raise ``RefusedError``: invalid-parameter for a value outside of its range, recipe-invalid for a contradiction."""
    _check_numbers(options)
    _check_erase(options)
    _check_plan(options, options.plan or PlanKind.ISP_ONLY)


def _check_erase(options: RecipeOptions) -> None:
    """Refuse what contradicts the way flash is erased."""
    if options.keeps_rest and not options.erase:
        raise _contradiction(
            "--keep-rest erases the pages of the image, --no-erase none at all", hint="leave one out", field="keep_rest"
        )
    if options.keeps_rest and options.verify is VerifyScope.FULL:
        raise _contradiction(
            "all of flash can only be verified after a chip erase: otherwise nobody knows what the rest should hold",
            hint="leave out --keep-rest, or verify what was written",
            field="verify",
        )
    if options.unlock and not options.erase:
        raise _contradiction(
            "--unlock erases all of flash where the chip is protected, --no-erase keeps it",
            hint="leave one out",
            field="unlock",
        )


def _contradiction(message: str, *, hint: str, field: str) -> RefusedError:
    return RefusedError(ErrorCode.RECIPE_INVALID, message, hint=hint, facts=Facts(field=field))


def _check_plan(options: RecipeOptions, plan: PlanKind) -> None:
    """Refuse what a plan cannot do with the other options."""
    named = [name for name in ("eeprom", "lfuse", "hfuse", "efuse", "lock") if getattr(options, name) is not None]
    named += [*options.option_bytes, *(["unlock"] if options.unlock else [])]
    if plan is PlanKind.CHAIN_ONLY and named:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            f"{', '.join(named)} cannot be written with --chain-only: that takes a programmer",
            hint="leave it out, or write everything: --chain",
            facts=Facts(field=named[0]),
        )
    if plan in VIA_BOOTLOADER and not options.erase:
        raise RefusedError(
            ErrorCode.RECIPE_INVALID,
            "a firmware cannot go on through a bootloader without an erase",
            hint="leave the erase in; --plan merged writes both through the programmer",
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
        if value is not None and value not in _BYTE:
            raise _invalid(field, f"{field} must be 0x00..0xFF, not {value:#x}")
    for memory, value in options.option_bytes.items():
        if value not in _BYTE:
            raise _invalid(memory, f"{memory} must be 0x00..0xFF, not {value:#x}")
    for field, limit in _LIMITS.items():
        value = getattr(options, field)
        if value is not None and not 1 <= value <= limit:
            raise _invalid(field, f"{field} must be 1..{limit}, not {value}")


def _invalid(field: str, message: str) -> RefusedError:
    return RefusedError(ErrorCode.INVALID_PARAMETER, message, facts=Facts(field=field))
