"""How fast a firmware gets onto boards on one slot, measured there, and which way is the faster one. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from ispd.model.job import StepRecord
from ispd.model.recipe import PlanKind

__all__ = ["IspPace", "SlotPace", "UsbPace", "choose_plan", "isp_pace"]

_FLASH_STEPS = ("write flash", "verify flash")


@dataclass(frozen=True, slots=True)
class UsbPace:
    """Over the board's own USB port: what does not depend on the firmware's size, and seconds per byte of it."""

    fixed_s: float
    byte_s: float


@dataclass(frozen=True, slots=True)
class IspPace:
    """Through the programmer: seconds that a byte takes to be written and read back."""

    byte_s: float


@dataclass(frozen=True, slots=True)
class SlotPace:
    """What was measured on one slot with one part; None where a way was not taken yet."""

    isp: IspPace | None = None
    usb: UsbPace | None = None


def isp_pace(steps: Iterable[StepRecord], image_bytes: int) -> IspPace | None:
    """Return what the steps of a unit that passed tell about ISP; None where no flash was written."""
    seconds = sum(step.seconds for step in steps if step.name in _FLASH_STEPS)
    return IspPace(seconds / image_bytes) if seconds > 0 and image_bytes else None


def choose_plan(pace: SlotPace, firmware_bytes: int) -> PlanKind:
    """Return the way of the next board: each is taken once to be measured, ``chained`` first, then the faster one.

    The bootloader goes on through the programmer either way, so that only the firmware's way is compared.
    """
    if pace.usb is None:
        return PlanKind.CHAINED
    if pace.isp is None:
        return PlanKind.MERGED
    by_usb = pace.usb.fixed_s + pace.usb.byte_s * firmware_bytes
    return PlanKind.CHAINED if by_usb <= pace.isp.byte_s * firmware_bytes else PlanKind.MERGED
