"""Programmers in a bench file: their kinds, and the options that each kind has."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, ErrorCode
from ispd.model.part import Interface
from vbench.board_of_avr import part_named
from vbench.board_table import BoardTable
from vbench.bus_pirate import BusPirate, BusPirateHardware, BusPirateWiring
from vbench.emulated import EmulatedProgrammer
from vbench.fault_table import read_faults
from vbench.faults import ProgrammerFault, UsbFault
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware, odd_serial
from vbench.swd import SwdSocket, SwdWiring
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp, UsbAspFirmware
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny, UsbTinyModel

__all__ = ["ProgrammerKind", "ProgrammerTable"]

E = TypeVar("E", bound=StrEnum)

_STLINK_RELEASE = "V2J37S7"
_WIRING = frozenset({"swapped", "has_nrst", "supplies", "measures"})


class ProgrammerKind(StrEnum):
    """What a programmer is."""

    STK500V1 = "stk500v1"
    USBASP = "usbasp"
    USBTINY = "usbtiny"
    BUSPIRATE = "buspirate"
    USBASP_LOADER = "usbasp-loader"
    STLINK = "stlink"

    @property
    def interface(self) -> Interface:
        """What it speaks to a board."""
        return Interface.SWD if self is ProgrammerKind.STLINK else Interface.ISP


class ProgrammerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A programmer and its port; ``plugged`` false keeps it in the drawer until an event plugs it in.

    ``board_usb`` is the path of the port where its boards' own USB cables go; without it they have none.

    The options below ``fault`` belong to some kinds only, see ``_KINDS``; they keep their default where not given.
    """

    name: str
    kind: ProgrammerKind = ProgrammerKind.STK500V1
    path: str | None = None
    board_usb: str | None = None
    plugged: bool = True
    refusal: ErrorCode | None = None
    board: BoardTable | None = None
    fault: list[dict[str, Any]] = []

    flavour: Flavour | UnsetType = UNSET
    baud: int | UnsetType = UNSET
    auto_reset: bool | UnsetType = UNSET
    stuck_in_bootloader: bool | UnsetType = UNSET
    firmware: str | UnsetType = UNSET
    manufacturer: str | UnsetType = UNSET
    product: str | UnsetType = UNSET
    serial: str | UnsetType = UNSET
    slow_jumper: bool | UnsetType = UNSET
    buffer_bytes: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    tau_s: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    model: UsbTinyModel | UnsetType = UNSET
    stretch: Annotated[float, Meta(ge=1)] | UnsetType = UNSET
    part: str | UnsetType = UNSET
    hardware: BusPirateHardware | UnsetType = UNSET
    own_supply: bool | UnsetType = UNSET
    aux_on_xtal1: bool | UnsetType = UNSET
    latency_s: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    serial_bytes: str | UnsetType = UNSET
    swapped: bool | UnsetType = UNSET
    has_nrst: bool | UnsetType = UNSET
    supplies: bool | UnsetType = UNSET
    measures: bool | UnsetType = UNSET

    def check_board(self, board: BoardTable, parts: Parts) -> None:
        """Raise ``ConfigError`` for a board that this programmer does not speak to."""
        spoken = board.interface(parts)
        if spoken is not self.kind.interface:
            says = "has no header" if spoken is None else f"is programmed by {spoken.upper()}"
            raise ConfigError(
                f"programmer {self.name}: a {self.kind} speaks {self.kind.interface.upper()}, and {board.part} {says}"
            )

    def build(self, parts: Parts) -> EmulatedProgrammer:
        """Make the programmer, with the AVR of its board; a board with an STM32 is put on its header afterwards.

        Raises ``ConfigError`` for an option that is not its kind's, and for a board that it does not speak to.
        """
        kind = _KINDS[self.kind]
        given = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not UNSET}
        for name in given.keys() - kind.options:
            raise ConfigError(f"programmer {self.name}: a {self.kind} has no {name}")
        if self.board is not None:
            self.check_board(self.board, parts)
        if self.board is not None and self.kind.interface is Interface.ISP:
            given["target"] = self.board.build(parts)
        return kind.build(parts, faults=read_faults(self.fault, kind.faults), **given)


def _stk500v1(_parts: Parts, *, flavour: Flavour = Flavour.UNO, **options: Any) -> SerialProgrammer:
    return SerialProgrammer(flavour, **options)


def _usbasp(_parts: Parts, *, firmware: str = UsbAspFirmware.STOCK_2011, **options: Any) -> UsbAsp:
    return UsbAsp(_choice(UsbAspFirmware, firmware), **options)


def _usbtiny(_parts: Parts, **options: Any) -> UsbTiny:
    return UsbTiny(**options)


def _buspirate(_parts: Parts, *, own_supply: bool = False, aux_on_xtal1: bool = True, **options: Any) -> BusPirate:
    wiring = BusPirateWiring(own_supply=own_supply, aux_on_xtal1=aux_on_xtal1)
    try:
        return BusPirate(wiring=wiring, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _usbasp_loader(parts: Parts, *, target: AvrTarget | None = None, part: str = "", **options: Any) -> UsbAspLoader:
    if target is not None:
        raise ConfigError("a usbasp-loader has no header for a board: name its own part")
    return UsbAspLoader(part_named(parts, part), **options)


def _stlink(
    _parts: Parts, *, firmware: str = _STLINK_RELEASE, serial_bytes: str | None = None, **options: Any
) -> StLink:
    wiring = SwdWiring(**{name: options.pop(name) for name in _WIRING & options.keys()})
    try:
        if serial_bytes is not None:
            options["serial"] = odd_serial(bytes.fromhex(serial_bytes))
        return StLink(StLinkFirmware.named(firmware), socket=SwdSocket(wiring=wiring), **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How a kind of programmer is made, and the options and faults that it has."""

    build: Callable[..., EmulatedProgrammer]
    options: frozenset[str]
    faults: UnionType


_KINDS = {
    ProgrammerKind.STK500V1: _Kind(
        build=_stk500v1,
        options=frozenset({"flavour", "baud", "auto_reset", "stuck_in_bootloader"}),
        faults=ProgrammerFault,
    ),
    ProgrammerKind.USBASP: _Kind(
        build=_usbasp,
        options=frozenset({"firmware", "manufacturer", "product", "serial", "slow_jumper", "buffer_bytes", "tau_s"}),
        faults=UsbFault,
    ),
    ProgrammerKind.USBTINY: _Kind(build=_usbtiny, options=frozenset({"model", "tau_s", "stretch"}), faults=UsbFault),
    ProgrammerKind.BUSPIRATE: _Kind(
        build=_buspirate,
        options=frozenset({"hardware", "firmware", "own_supply", "aux_on_xtal1", "latency_s"}),
        faults=ProgrammerFault,
    ),
    ProgrammerKind.STLINK: _Kind(
        build=_stlink, options=_WIRING | {"firmware", "serial", "serial_bytes"}, faults=UsbFault
    ),
    ProgrammerKind.USBASP_LOADER: _Kind(build=_usbasp_loader, options=frozenset({"part", "tau_s"}), faults=UsbFault),
}
_OPTIONS = sorted(frozenset[str]().union(*(kind.options for kind in _KINDS.values())))


def _choice(kind: type[E], value: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"unknown firmware {value!r}; known are {', '.join(kind)}") from None
