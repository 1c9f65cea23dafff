"""Chips that dfu-programmer knows, as its ``--targets`` lists them, and what it believes of the AVR ones."""

from dataclasses import dataclass

__all__ = ["ATMEL", "Target", "find_target", "target_groups"]

ATMEL = 0x03EB

_8051 = "at89c51snd1c at89c51snd2c at89c5130 at89c5131 at89c5132"
_AVR32 = (
    "at32uc3a0128 at32uc3a1128 at32uc3a0256 at32uc3a1256 at32uc3a0512 at32uc3a1512 at32uc3a0512es at32uc3a1512es "
    "at32uc3a364 at32uc3a364s at32uc3a3128 at32uc3a3128s at32uc3a3256 at32uc3a3256s at32uc3a4256s at32uc3b064 "
    "at32uc3b164 at32uc3b0128 at32uc3b1128 at32uc3b0256 at32uc3b1256 at32uc3b0256es at32uc3b1256es at32uc3b0512 "
    "at32uc3b1512 at32uc3c064 at32uc3c0128 at32uc3c0256 at32uc3c0512 at32uc3c164 at32uc3c1128 at32uc3c1256 "
    "at32uc3c1512 at32uc3c264 at32uc3c2128 at32uc3c2256 at32uc3c2512"
)
_XMEGA = (
    "atxmega64a1u atxmega128a1u atxmega64a3u atxmega128a3u atxmega192a3u atxmega256a3u atxmega16a4u atxmega32a4u "
    "atxmega64a4u atxmega128a4u atxmega256a3bu atxmega64b1 atxmega128b1 atxmega64b3 atxmega128b3 atxmega64c3 "
    "atxmega128c3 atxmega256c3 atxmega384c3"
)
_XMEGA_LATER = " atxmega16c4 atxmega32c4"
_STM32 = "stm32f4_B stm32f4_C stm32f4_E stm32f4_G"


@dataclass(frozen=True, slots=True)
class Target:
    """An AVR chip. ``product_id`` belongs to :data:`ATMEL`; the top ``boot_bytes`` of its flash are its loader's.

    ``product_id`` is None for a chip of another family, which no bench has.
    """

    name: str
    product_id: int | None = None
    flash_bytes: int = 0
    boot_bytes: int = 0
    eeprom_bytes: int = 0

    @property
    def app_end(self) -> int:
        """Address of the last byte of the application section."""
        return self.flash_bytes - self.boot_bytes - 1


_AVR = (
    Target("at90usb1287", 0x2FFB, 0x20000, 0x2000, 0x1000),
    Target("at90usb1286", 0x2FFB, 0x20000, 0x2000, 0x1000),
    Target("at90usb1287-4k", 0x2FFB, 0x20000, 0x1000, 0x1000),
    Target("at90usb1286-4k", 0x2FFB, 0x20000, 0x1000, 0x1000),
    Target("at90usb647", 0x2FF9, 0x10000, 0x2000, 0x0800),
    Target("at90usb646", 0x2FF9, 0x10000, 0x2000, 0x0800),
    Target("at90usb162", 0x2FFA, 0x04000, 0x1000, 0x0200),
    Target("at90usb82", 0x2FF7, 0x02000, 0x1000, 0x0200),
    Target("atmega32u6", 0x2FF2, 0x08000, 0x1000, 0x0400),
    Target("atmega32u4", 0x2FF4, 0x08000, 0x1000, 0x0400),
    Target("atmega32u2", 0x2FF0, 0x08000, 0x1000, 0x0400),
    Target("atmega16u4", 0x2FF3, 0x04000, 0x1000, 0x0200),
    Target("atmega16u2", 0x2FEF, 0x04000, 0x1000, 0x0200),
    Target("atmega8u2", 0x2FEE, 0x02000, 0x1000, 0x0200),
)


def target_groups(version: str) -> list[tuple[str, list[str]]]:
    """Return the names a version knows, by family, in its order."""
    groups = [
        ("8051", _8051.split()),
        ("AVR", [target.name for target in _AVR]),
        ("AVR32", _AVR32.split()),
        ("XMEGA", (_XMEGA if version == "0.6.1" else _XMEGA + _XMEGA_LATER).split()),
    ]
    if version == "1.1.0":
        groups.append(("STM32F4", _STM32.split()))
    return groups


def find_target(name: str, version: str) -> Target | None:
    """Return a chip by its name, whatever its letters' case; None for one this version does not know."""
    known = [known for _, names in target_groups(version) for known in names]
    spelt = next((known for known in known if known.lower() == name.lower()), None)
    if spelt is None:
        return None
    return next((target for target in _AVR if target.name == spelt), Target(spelt))
