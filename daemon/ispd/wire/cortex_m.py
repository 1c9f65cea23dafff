"""Debug registers of an ARMv7-M core (ARM DDI 0403, chapters B3 and C1), and the ids of Cortex-M cores."""

from enum import IntEnum, IntFlag, unique
from typing import Final

__all__ = [
    "AIRCR",
    "AIRCR_RESET",
    "CPUID",
    "DEMCR",
    "DEMCR_CATCH_RESET",
    "DEMCR_TRACE",
    "DFSR",
    "DFSR_CLEAR",
    "DHCSR",
    "XPSR_THUMB",
    "CoreRegister",
    "Dhcsr",
    "core_name",
    "dhcsr",
]

CPUID: Final = 0xE000_ED00
AIRCR: Final = 0xE000_ED0C
AIRCR_RESET: Final = 0x05FA_0004
"""The key VECTKEY with SYSRESETREQ."""
DFSR: Final = 0xE000_ED30
DFSR_CLEAR: Final = 0x1F
"""Every reason to halt; written ones clear."""
DHCSR: Final = 0xE000_EDF0
DEMCR: Final = 0xE000_EDFC
DEMCR_CATCH_RESET: Final = 0x0100_0001
"""VC_CORERESET, which halts the core at its first instruction after a reset, with TRCENA, as every tool writes it."""
DEMCR_TRACE: Final = 0x0100_0000
"""TRCENA alone: nothing is caught any more."""
XPSR_THUMB: Final = 0x0100_0000
"""EPSR.T, without which a Cortex-M faults at the first instruction."""

_DHCSR_KEY: Final = 0xA05F_0000


class Dhcsr(IntFlag):
    """Bits of DHCSR: the lower half is written, the upper half only read."""

    DEBUG = 1 << 0
    HALT = 1 << 1
    STEP = 1 << 2
    MASK_INTERRUPTS = 1 << 3
    REGISTER_READY = 1 << 16
    IS_HALTED = 1 << 17
    SLEEPS = 1 << 18
    IS_LOCKED_UP = 1 << 19
    WAS_RESET = 1 << 25
    """A reset happened since the last reading, which clears it."""


def dhcsr(bits: Dhcsr) -> int:
    """Return the word that sets these bits of DHCSR and clears the other ones."""
    return _DHCSR_KEY | bits


@unique
class CoreRegister(IntEnum):
    """Registers by the number that DCRSR knows them by."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    SP = 13
    LR = 14
    PC = 15
    XPSR = 16


_PART_NUMBERS: Final = {
    0xC20: "Cortex-M0",
    0xC23: "Cortex-M3",
    0xC24: "Cortex-M4",
    0xC27: "Cortex-M7",
    0xC60: "Cortex-M0+",
}


def core_name(cpuid: int) -> str | None:
    """Return what core a CPUID is of, None for one not known (``0x411FC231`` is a Cortex-M3 r1p1)."""
    return _PART_NUMBERS.get(cpuid >> 4 & 0xFFF)
