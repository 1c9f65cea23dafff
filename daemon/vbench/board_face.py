"""What a bootloader on the bench is: how it is started, what it shows on USB, and how it leaves.

A family of bootloaders is one module that offers ``start_loader``; which module serves which family says :data:`FAMILIES`.
The chip it runs on is :class:`~vbench.board_chip.Chip`: the same cells as the programmer's header sees.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from types import MappingProxyType
from typing import Protocol, cast

from ispd.transport.contract import UsbIdentity
from vbench.board_chip import Chip
from vbench.emulated import EmulatedFace

__all__ = [
    "FAMILIES",
    "Departure",
    "Exit",
    "Loader",
    "LoaderStart",
    "Program",
    "ResetFlag",
    "StartLoader",
    "start_loader",
]


class ResetFlag(Flag):
    """Why a chip started, as its MCUSR says; more than one at once where reset was held while the supply came."""

    NONE = 0
    POWER_ON = auto()
    EXTERNAL = auto()
    WATCHDOG = auto()


class Exit(StrEnum):
    """How a program gives up the chip."""

    APPLICATION = "application"
    """Jumps to address 0 without a reset."""
    RESET = "reset"
    """Lets the watchdog bite: the chip starts as its fuses say, RAM stays as it is."""
    HANG = "hang"
    """Leaves the bus and does nothing more until the next reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """When (bench seconds) and how a program gives up the chip. A transfer that ends later than ``at`` gets no answer."""

    at: float
    exit: Exit


class Program(Protocol):
    """What runs on a board's chip."""

    @property
    def face(self) -> EmulatedFace | None:
        """What it shows on USB once it was enumerated, the same object as long as it runs; None for nothing."""

    @property
    def departure(self) -> Departure | None:
        """When and how it leaves as things stand now; None for never. Each transfer may change it."""


Loader = Program
"""A running bootloader; most are their own face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderStart:
    """The moment a bootloader begins to run.

    :param at: bench seconds.
    :param flags: why the chip started; ``NONE`` where the program was reached by a jump.
    :param usb: vendor and product id it shows; its texts are the family's affair.
    :param name: id of the bootloader in the catalog (``caterina-promicro16``).
    :param variant: name of its kind in QMK (``qmk-dfu``), which tells builds of one family apart.
    """

    at: float
    flags: ResetFlag
    usb: UsbIdentity
    name: str
    family: str
    variant: str


class StartLoader(Protocol):
    """What a module of a family offers as ``start_loader``."""

    def __call__(self, chip: Chip, start: LoaderStart) -> Loader:
        """Begin to run. A loader that goes to the application at once has a departure at ``start.at`` and no face."""


FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "flip": "vbench.flip_dfu",
        "caterina": "vbench.caterina",
        "bootloadhid": "vbench.bootload_hid",
        "halfkay": "vbench.halfkay",
        "lufa-hid": "vbench.halfkay",
        "usbasploader": "vbench.usbasp_loader",
    }
)
"""Bootloader families of the catalog that boards of the bench can show, with the module of each."""


def start_loader(chip: Chip, start: LoaderStart) -> Loader:
    """Begin to run the bootloader of a family. Raises ``ValueError`` for a family that the bench does not know."""
    module = FAMILIES.get(start.family)
    if module is None:
        raise ValueError(f"the bench has no bootloader of the family {start.family!r}")
    begin = cast("StartLoader", importlib.import_module(module).start_loader)
    return begin(chip, start)
