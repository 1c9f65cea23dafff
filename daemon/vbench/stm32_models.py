"""Kinds of STM32F1 that the bench can put on a board: genuine ones by the catalog's parts, and clones of them.

Source: revisions as in RM0008 and RM0041, "MCU device ID code"; order codes as in the data sheets, "Ordering information";
clones as known to OpenOCD, stlink and pyOCD.
"""

import re
from dataclasses import replace
from enum import StrEnum

from ispd.model.part import Stm32Part
from vbench.stm32f1 import Stm32F1Model

__all__ = ["Clone", "genuine_model"]

_REVISIONS = {0x410: 0x2003, 0x412: 0x1000, 0x414: 0x1003, 0x418: 0x1001, 0x420: 0x1001, 0x428: 0x1001, 0x430: 0x1000}
"""Revision Y, A or Z of each device."""
_ORDER_CODE = re.compile(r"stm32f1\d\d[cefrtvz]([468bcdefg])")
"""Pins, then size of flash; names with an x for the pins stand for several."""
_KIB = {"4": 16, "6": 32, "8": 64, "b": 128, "c": 256, "d": 384, "e": 512, "f": 768, "g": 1024}
_CS32_DPIDR = 0x2BA0_1477
_GD32_REVISION = 0x1303


class Clone(StrEnum):
    """Whose chip it is."""

    GD32 = "gd32"
    """GigaDevice: tells itself by its revision."""
    CS32 = "cs32"
    """CKS and CS: another debug port identity."""
    APM32 = "apm32"
    """Geehy and others: half-words that come while the flash is busy are lost, and CR does not show the lock."""

    def copy(self, model: Stm32F1Model) -> Stm32F1Model:
        """Return the clone of a genuine model."""
        match self:
            case Clone.GD32:
                return replace(model, idcode=_GD32_REVISION << 16 | model.idcode & 0xFFF)
            case Clone.CS32:
                return replace(model, dpidr=_CS32_DPIDR)
            case Clone.APM32:
                return replace(model, stalls=False, shows_lock=False)


def genuine_model(part: Stm32Part, name: str, *, flash_kib: int | None = None) -> Stm32F1Model:
    """Return a genuine chip of a part.

    :param name: the name it was found by: an order code says how much flash there is.
    :param flash_kib: how much there is, where that is known. Raises ``ValueError`` for a size that the part does not have.
    """
    ordered = _ORDER_CODE.match(name.lower())
    kib = flash_kib or (_KIB[ordered[1]] if ordered else part.smallest_flash_bytes // 1024)
    flash_bytes = min(kib * 1024, part.flash.size_bytes) if flash_kib is None else kib * 1024
    if flash_bytes > part.flash.size_bytes or flash_bytes % (4 * 1024):
        raise ValueError(f"{part.name} comes with up to {part.flash.size_bytes // 1024} KiB, in steps of 4")
    device = int.from_bytes(part.signature.value, "big")
    return Stm32F1Model(
        idcode=_REVISIONS.get(device, 0x1000) << 16 | device,
        flash_bytes=flash_bytes,
        page_bytes=part.flash.page_bytes,
        size_kib=kib,
        ram_bytes=part.ram_bytes,
    )
