"""The Bus Pirate's text terminal: its banner, its prompts, and the menu that changes the line's rate. Pure.

Sources: ``procMenu.c`` (``versionInfo``, ``setBaudRate``, ``getnumber``) and ``base.h`` of the stock firmware 6.3, the same of
the community firmware. A main prompt is ``HiZ>``, a menu's ends in its default: ``(9)>``.
"""

import re
from dataclasses import dataclass
from typing import Final

__all__ = [
    "DEFAULT_BAUD",
    "PROMPT",
    "RATE_CONFIRM",
    "RATE_DIALOGUE",
    "Firmware",
    "divisor_of",
    "is_main_prompt",
    "parse_banner",
]

DEFAULT_BAUD: Final = 115200
PROMPT: Final = b">"

RATE_DIALOGUE: Final = (b"b\n", b"10\n")
"""Opens the menu of rates, then asks for a raw divisor; each is followed by a prompt, the divisor by the new rate."""

RATE_CONFIRM: Final = b" "
"""Said at the new rate; the terminal takes nothing else until it heard it."""

_DIVISOR_CLOCK: Final = 4_000_000
_FIXED_ON_V4: Final = ((6, 3), 2151)
_BANNER: Final = re.compile(rb"Bus Pirate (v(\d+)[\w.]*)")
_FIRMWARE: Final = re.compile(rb"Firmware (v(\d+)\.(\d+)[\w.-]*(?: \(?r(\d+)\)?)?)")


def divisor_of(baud: int) -> int:
    """Return the raw divisor for a rate: 4 MHz / (divisor + 1), the PIC's 16 MHz with BRGH set."""
    return _DIVISOR_CLOCK // baud - 1


def is_main_prompt(heard: bytes) -> bool:
    """Tell whether a text ends in the terminal's own prompt, not in a menu's."""
    text = heard.rstrip(b" ")
    return text.endswith(b">") and not text.endswith(b")>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What the banner said; None for what it did not say.

    ``version`` tells the families apart: up to 6 is stock, 7 the community firmware and all its builds until 2025, 8 the
    one after it.
    """

    text: str
    hardware: int | None = None
    version: tuple[int, int] | None = None
    revision: int | None = None

    @property
    def may_write_then_read(self) -> bool:
        """False where ``05`` is known not to exist (before 5.5)."""
        return self.version is None or self.version >= (5, 5)

    @property
    def may_change_rate(self) -> bool:
        """True where hardware and firmware are known to take other rates; the v4 is a USB device without one."""
        return self.hardware == 3 and self.version is not None and self.version >= (5, 5)

    @property
    def is_usb(self) -> bool:
        """True for the v4, whose USB controller holds the host back by itself."""
        return self.hardware == 4

    @property
    def may_read_flash(self) -> bool:
        """False where asking for ``06`` would hang the firmware: on a v4 before r2151 it waits on a UART that is none."""
        return not self.is_usb or self.version is None or (self.version, self.revision or 0) >= _FIXED_ON_V4

    @property
    def is_streaming(self) -> bool:
        """Whether ``05`` may clock bytes out while others still arrive (8.0 does, the others collect them first)."""
        return self.version is None or self.version >= (8, 0)

    @property
    def may_invert_edge(self) -> bool:
        """Whether the clock edge bit may mean the opposite (community builds of 2017 to March 2019, all called 7.x)."""
        return self.version is None or (7, 0) <= self.version < (8, 0)

    @property
    def has_sound_speeds(self) -> bool:
        """Whether SPI speed code 4 is known to be 2 MHz; community builds of 2016 to 2025 had another table."""
        return self.version is not None and not (7, 0) <= self.version < (8, 0)


def parse_banner(heard: bytes, *, is_v4: bool = False) -> Firmware:
    """Return what a terminal's banner tells, an unknown firmware where it tells nothing.

    ``is_v4``: a v4 is known by its USB identity; community firmwares of 2017 to 2025 never show their banner there.
    """
    hardware, firmware = _BANNER.search(heard), _FIRMWARE.search(heard)
    named = firmware.group(1).decode("ascii") if firmware else "unknown firmware"
    board = hardware.group(1).decode("ascii").rstrip(".") if hardware else "v4" if is_v4 else "unknown"
    return Firmware(
        text=f"{named} on hardware {board}",
        hardware=int(hardware.group(2)) if hardware else 4 if is_v4 else None,
        version=(int(firmware.group(2)), int(firmware.group(3))) if firmware else None,
        revision=int(firmware.group(4)) if firmware and firmware.group(4) else None,
    )
