"""What a signature reading means: the part's answer, or one of the ways a badly wired target answers."""

from ispd.errors import ErrorCode, TargetError
from ispd.model.part import Signature

__all__ = ["ECHO", "blame_fixed_sck", "complaint", "fixed_sck_hint", "plausible"]

ECHO = bytes((0, 1, 2))
"""Reply byte 4 repeats byte 3 of the instruction (the address) where no chip drives MISO but the line is delayed by one
byte: the data sheets' "Serial Programming Instruction" timing figure."""

_FLOATING = bytes((0xFF, 0xFF, 0xFF))
_SILENT = bytes((0x00, 0x00, 0x00))
_SCK_DIVIDER = 4
"""SCK stays below a fourth of a part's clock (data sheets, "Serial Programming Characteristics")."""
_VENDOR = 0x1E
"""First signature byte of every AVR: manufactured by Atmel (data sheets, "Signature Bytes")."""


def plausible(raw: bytes) -> Signature | None:
    """Return ``raw`` as a signature where an AVR can have answered it, else None."""
    return Signature(raw) if len(raw) == 3 and raw[0] == _VENDOR else None


def complaint(raw: bytes, *, is_shorted: bool = False, fixed_hz: int | None = None) -> TargetError | None:
    """Return what is wrong with a signature that was read, None where it is plausible.

    :param is_shorted: the target repeated a byte in the same instruction: MOSI is connected to MISO.
    :param fixed_hz: the only SCK the programmer has, None where it can be set.
    """
    if plausible(raw) is not None:
        return None
    seen = raw.hex(" ").upper()
    if is_shorted:
        return TargetError(
            ErrorCode.TARGET_NOT_RESPONDING,
            "the target's replies equal the bytes sent",
            hint="MOSI and MISO are connected to each other, or both wires are on one pin: check MOSI and MISO",
        )
    if raw == _FLOATING:
        return TargetError(
            ErrorCode.TARGET_NOT_RESPONDING,
            f"no target answers (signature {seen})",
            hint="check VCC, GND and MISO: the line floats high or the target has no power; check also that MOSI and MISO "
            "are not swapped",
        )
    if raw == _SILENT:
        return TargetError(
            ErrorCode.TARGET_NOT_RESPONDING,
            f"no target answers (signature {seen})",
            hint="check the RESET wire first, then try a slower SCK, then check the target's clock (crystal), then MISO, "
            f"and that MOSI and MISO are not swapped; a part with RSTDISBL or DWEN programmed never answers{_only(fixed_hz)}",
        )
    if raw == ECHO:
        return TargetError(
            ErrorCode.TARGET_LOCKED,
            f"the target only echoes (signature {seen})",
            hint="a chip erase unlocks an old read-locked part; otherwise check MISO",
        )
    return TargetError(
        ErrorCode.SIGNATURE_UNKNOWN,
        f"signature {seen} is not that of an AVR",
        hint="lower SCK, shorten the wires, press the contacts on; update the programmer's firmware where that does not "
        f"help{_only(fixed_hz)}",
    )


def _only(fixed_hz: int | None) -> str:
    """Say what a slower SCK means where the programmer has none."""
    if fixed_hz is None:
        return ""
    return (
        f"; SCK is fixed at {fixed_hz / 1000:g} kHz here: a part that runs at {fixed_hz * _SCK_DIVIDER / 1e6:g} MHz or less needs "
        "the slow-SCK jumper (USBasp: J3) or another programmer"
    )


def fixed_sck_hint(sck_hz: int) -> str:
    """Return the hint that nothing but the SCK the recipe fixes was tried."""
    return f"the recipe fixes SCK at {sck_hz} Hz and nothing else was tried: leave it out, or fix a slower one"


def blame_fixed_sck(error: TargetError, sck_hz: int) -> TargetError:
    """Return ``error`` with :func:`fixed_sck_hint` in front of its hint."""
    hint = f"{fixed_sck_hint(sck_hz)}; {error.hint}"
    return TargetError(error.code, error.message, hint=hint, facts=error.facts)
