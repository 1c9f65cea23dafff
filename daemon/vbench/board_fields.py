"""What a bench file says of a board, before it is made."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ispd.model.part import MemoryKind
from vbench.stm32 import Habit
from vbench.stm32_models import Clone

__all__ = ["FIRMWARE_BYTES", "USED_SHARE", "BoardFields", "BoardState"]

USED_SHARE = 4
"""A used board has three quarters of its flash filled: all but one of this many."""
FIRMWARE_BYTES = 6000


class BoardState(StrEnum):
    """What was done to a board before it came to the bench."""

    BLANK = "blank"
    USED = "used"
    """Another firmware is in it."""
    LOCKED = "locked"
    """The same, and its lock bits are set; an STM32 is read-protected."""
    BOOTLOADER = "bootloader"
    """Its ``loader`` is in it, with the fuses that the catalog has for it; a Bluepill has the STM32duino bootloader."""
    FLASHED = "flashed"
    """The same, and a firmware."""


class BoardFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A board. ``part`` is one of the catalog, or stm32f303: a board that its BOOT0 pin holds in its ROM's DFU, without a header.

    :param fuses: fuse bytes, or option bytes of an STM32 (user, data0, data1, wrp0 to wrp3).
    :param lock: lock byte, or RDP of an STM32: A5 is open.
    :param seed: tells boards of one kind apart: chance, a firmware's content, a unique id.
    :param loader: bootloader of the catalog that an image without the bench's own marker is taken for.
    :param firmware_usb: USB id of the firmware in a flashed board, and of a used STM32's.

    Of AVRs only:

    :param crystal_hz: 0 means that no crystal is fitted.
    :param unimplemented: what bits that do not exist read.
    :param hwb_low: whether its HWB pin is tied low, so that a reset enters a bootloader whose fuses want that.

    Of STM32s only:

    :param flash_kib: what there really is; by the part's order code, else the smallest of its kind.
    :param size_kib: what its size register says, where that is something else.
    :param clone: whose chip it is where not ST's.
    :param unique_id: 24 hex digits; one of its own for each board where not given.
    :param habit: what the firmware in it does to the debug port.
    :param fixed_pull_up: its D+ pull-up is a resistor to 3.3 V, as on a Bluepill, and not switched by the program.
    """

    part: str
    state: BoardState = BoardState.BLANK
    fuses: dict[MemoryKind, int] = {}
    lock: int | None = None
    supply_mv: int | UnsetType = UNSET
    seed: int = 0
    loader: str | None = None
    firmware_usb: str = "FEED:6060"
    fault: list[dict[str, Any]] = []

    crystal_hz: float | UnsetType = UNSET
    unimplemented: int | UnsetType = UNSET
    hwb_low: bool | UnsetType = UNSET

    flash_kib: Annotated[int, Meta(ge=16, le=1024)] | UnsetType = UNSET
    size_kib: Annotated[int, Meta(ge=0, le=0xFFFF)] | UnsetType = UNSET
    clone: Clone | UnsetType = UNSET
    unique_id: Annotated[str, Meta(pattern="^[0-9A-Fa-f]{24}$")] | UnsetType = UNSET
    habit: Habit | UnsetType = UNSET
    fixed_pull_up: bool | UnsetType = UNSET

    def given(self, names: frozenset[str]) -> dict[str, Any]:
        """Return those of some options that were given."""
        return {name: getattr(self, name) for name in sorted(names) if getattr(self, name) is not UNSET}
