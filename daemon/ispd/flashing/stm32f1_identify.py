"""Which STM32F1 is on the slot, how much flash it has, and how it is protected."""

from dataclasses import dataclass
from typing import Final

from ispd.errors import ErrorCode, Facts, TargetError
from ispd.model.recipe import ClonePolicy
from ispd.programmers.contract import Monitor
from ispd.programmers.swd_contract import SwdProgrammer
from ispd.wire.stm32f1 import (
    DBGMCU_IDCODE,
    FAMILIES,
    FLASH_OBR,
    FLASH_SIZE,
    FLASH_WRPR,
    UNIQUE_ID,
    Family,
    OptionBytes,
    clone_maker,
    is_read_protected,
)

__all__ = ["Stm32Facts", "identify"]

_NO_SIZE: Final = frozenset({0x0000, 0xFFFF})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stm32Facts:
    """What was read from the chip.

    :param chip_id: lower 12 bits of DBGMCU_IDCODE; ``revision`` the upper 16.
    :param flash_bytes: what is believed.
    :param flash_kib: what the flash size register says, right or not.
    :param unique_id: 24 hexadecimal digits; empty on a chip that is read protected and does not tell.
    :param options: option bytes in force.
    :param wrpr: write protection in force, a bit per group of pages; a one lets it be written.
    """

    chip_id: int
    revision: int
    family: Family
    flash_bytes: int
    flash_kib: int
    unique_id: str
    is_read_protected: bool
    options: OptionBytes
    wrpr: int
    warnings: tuple[str, ...] = ()

    @property
    def is_protected(self) -> bool:
        """True where something cannot be read or written."""
        return self.is_read_protected or self.wrpr != 0xFFFF_FFFF


class _Patient:
    """Never stops anything."""

    stop_requested = False

    def advance(self, done_bytes: int) -> None:
        """Nobody watches."""


async def identify(programmer: SwdProgrammer, clones: ClonePolicy) -> Stm32Facts:
    """Read who the connected chip is. Nothing is changed.

    Raises ``TargetError``: target-not-responding for an empty id, signature-unknown for one that is no STM32F1's,
    signature-mismatch for a clone that is rejected.
    """
    id_code = await programmer.read_word(DBGMCU_IDCODE)
    chip_id, revision = id_code & 0xFFF, id_code >> 16
    family = _family(chip_id)
    warnings = _judge(id_code, clones)
    obr, wrpr = await programmer.read_word(FLASH_OBR), await programmer.read_word(FLASH_WRPR)
    is_locked = is_read_protected(obr)
    flash_kib = await programmer.read_word(FLASH_SIZE) & 0xFFFF
    flash_bytes, doubt = _believe(flash_kib, family, is_locked=is_locked)
    patient: Monitor = _Patient()
    unique_id = (await programmer.read(UNIQUE_ID, patient)).hex().upper()
    return Stm32Facts(
        chip_id=chip_id,
        revision=revision,
        family=family,
        flash_bytes=flash_bytes,
        flash_kib=flash_kib,
        unique_id=unique_id,
        is_read_protected=is_locked,
        options=OptionBytes.of_registers(obr, wrpr),
        wrpr=wrpr,
        warnings=(*warnings, *doubt),
    )


def _family(chip_id: int) -> Family:
    family = FAMILIES.get(chip_id)
    if family is not None:
        return family
    if chip_id in (0x000, 0xFFF):
        raise TargetError(
            ErrorCode.TARGET_NOT_RESPONDING,
            f"the chip's id reads 0x{chip_id:03X}",
            hint="are SWDIO and SWCLK swapped? check them, GND and the board's supply",
        )
    known = ", ".join(f"{one:03X}" for one in FAMILIES)
    raise TargetError(
        ErrorCode.SIGNATURE_UNKNOWN,
        f"the chip's id is 0x{chip_id:03X}, which is no STM32F1's",
        hint=f"only STM32F1 are flashed by SWD (ids {known})",
        facts=Facts(memory="signature"),
    )


def _judge(id_code: int, policy: ClonePolicy) -> tuple[str, ...]:
    """Note or refuse the revision of a chip that only looks like an STM32. Raises ``TargetError`` (signature-mismatch)."""
    maker = clone_maker(id_code)
    if maker is None or policy is ClonePolicy.ALLOW:
        return ()
    message = f"the target is a clone: revision {id_code >> 16:04X} is {maker}'s"
    if policy is ClonePolicy.REJECT:
        raise TargetError(
            ErrorCode.SIGNATURE_MISMATCH, message, hint="take this board out, or allow clones in the recipe"
        )
    return (message,)


def _believe(flash_kib: int, family: Family, *, is_locked: bool) -> tuple[int, tuple[str, ...]]:
    """Return how much flash there is as far as its size register can be believed, and what is to be said about that.

    Many chips sold with 64 KiB say 128 (and have them); some say nothing while they are read protected.
    """
    if flash_kib in _NO_SIZE:
        assumed = family.smallest_flash_bytes
        why = " as it is read protected" if is_locked else ""
        return assumed, (f"the chip does not tell its flash size{why}; {assumed // 1024} KiB are assumed",)
    if flash_kib * 1024 > family.largest_flash_bytes:
        largest = family.largest_flash_bytes
        return largest, (f"the chip claims {flash_kib} KiB of flash; {largest // 1024} KiB are used",)
    return flash_kib * 1024, ()
