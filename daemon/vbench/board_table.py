"""Boards in a bench file, and the faults that any table there may list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, get_args

import msgspec

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, IspdError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import AvrPart, MemoryKind
from vbench.board import Board
from vbench.board_face import FAMILIES
from vbench.board_faults import BoardFault
from vbench.emulated import EmulatedBoard
from vbench.faults import Fault
from vbench.firmware_image import application_image, bootloader_image
from vbench.stm32 import APPLICATION, stm32_application
from vbench.stm32_board import DfuSeBoard, Stm32Board, Stm32Fault
from vbench.target import AvrTarget, Circuit

__all__ = ["BoardState", "BoardTable", "part_named", "read_faults"]

T = TypeVar("T")

_USED_SHARE = 4
"""A used board has three quarters of its flash filled."""
_FACTORY_LOCK = 0xEC
"""LB and BLB0 programmed: what many factory-fresh USB AVRs are reported to carry."""
_FIRMWARE_BYTES = 6000
_STM32_WITH_ROM = "stm32f303"
_STM32 = frozenset({"stm32f103", _STM32_WITH_ROM})
"""Named as the part of a board on a port of its own: a Bluepill, whose bootloader is STM32duino, and a board held in its ROM's DFU."""


class BoardState(StrEnum):
    """What was done to a board before it came to the bench."""

    BLANK = "blank"
    USED = "used"
    LOCKED = "locked"
    BOOTLOADER = "bootloader"
    """Its ``loader`` is in it, with the fuses that the catalog has for it."""
    FLASHED = "flashed"
    """The same, and a firmware."""


class BoardTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A board. ``crystal_hz`` 0 means that no crystal is fitted.

    ``part`` is one of the catalog, or on a port without programmer stm32f103 (a Bluepill) or stm32f303 (in its ROM's DFU).

    :param loader: bootloader of the catalog that an image without the bench's own marker is taken for.
    :param hwb_low: whether its HWB pin is tied low, so that a reset enters a bootloader whose fuses want that.
    :param firmware_usb: USB id of the firmware in a flashed board.
    """

    part: str
    state: BoardState = BoardState.BLANK
    fuses: dict[MemoryKind, int] = {}
    lock: int | None = None
    crystal_hz: float = 16e6
    supply_mv: int = 5000
    unimplemented: int = 0xFF
    seed: int = 0
    loader: str | None = None
    hwb_low: bool = True
    firmware_usb: str = "FEED:6060"
    fault: list[dict[str, Any]] = []

    def build(self, parts: Parts) -> AvrTarget:
        """Make the chip of a board, with what is in it. Raises ``ConfigError`` for an unknown part, loader or fault."""
        part = part_named(parts, self.part)
        unknown = [memory for memory in self.fuses if part.fuse(memory) is None]
        if unknown:
            raise ConfigError(f"{part.name} has no {unknown[0]}")
        locked = self.state is BoardState.LOCKED
        faults = [fault for fault in read_faults(self.fault, Fault | BoardFault) if isinstance(fault, Fault)]
        try:
            target = AvrTarget(
                part,
                fuses=self.fuses,
                lock=self.lock if self.lock is not None else _FACTORY_LOCK if locked else 0xFF,
                circuit=Circuit(crystal_hz=self.crystal_hz or None, supply_mv=self.supply_mv),
                unimplemented=self.unimplemented,
                faults=faults,
                seed=self.seed,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.state in (BoardState.USED, BoardState.LOCKED):
            filled = len(target.flash) - len(target.flash) // _USED_SHARE
            target.flash[:filled] = bytes(address * 7 + (address >> 8) & 0xFF for address in range(filled))
            target.eeprom[:] = bytes(address & 0xFF for address in range(len(target.eeprom)))
        if self.state in (BoardState.BOOTLOADER, BoardState.FLASHED):
            self._flash(target, self._loader(load_bootloaders(parts), part))
        return target

    def build_board(self, parts: Parts, bootloaders: Bootloaders, target: AvrTarget | None = None) -> EmulatedBoard:
        """Make the board with its USB side.

        :param target: its chip, where :meth:`build` has made it already.
        Raises ``ConfigError`` for what the catalog or the bench does not know.
        """
        if target is None and self.part in _STM32:
            return self._stm32()
        target = target or self.build(parts)
        loader = self._loader(bootloaders, target.part)
        faults = [fault for fault in read_faults(self.fault, Fault | BoardFault) if isinstance(fault, BoardFault)]
        known = bootloaders.presets(target.part)
        return Board(target, loader=loader, bootloaders=known, hwb_low=self.hwb_low, faults=faults)

    def _stm32(self) -> EmulatedBoard:
        """Make a board that no programmer of the bench reaches. A Bluepill without its bootloader is blank for good."""
        if self.state in (BoardState.USED, BoardState.LOCKED):
            raise ConfigError(f"an {self.part} is blank, bootloader or flashed")
        faults = read_faults(self.fault, Stm32Fault)
        has_rom = self.part == _STM32_WITH_ROM
        application = b""
        if self.state is BoardState.FLASHED:
            start = 0 if has_rom else APPLICATION
            application = stm32_application(_FIRMWARE_BYTES, seed=self.seed, usb=self.firmware_usb, start=start)
        if has_rom:
            return DfuSeBoard(application=application, faults=faults)
        return Stm32Board(has_loader=self.state is not BoardState.BLANK, application=application, faults=faults)

    def _loader(self, bootloaders: Bootloaders, part: AvrPart) -> Bootloader | None:
        if self.loader is None:
            return None
        try:
            loader = bootloaders.get(self.loader, part)
        except IspdError as error:
            raise ConfigError(error.message, hint=error.hint) from error
        if loader.family not in FAMILIES:
            raise ConfigError(f"the bench cannot show {loader.title}: it knows {', '.join(sorted(FAMILIES))}")
        return loader

    def _flash(self, target: AvrTarget, loader: Bootloader | None) -> None:
        """Put the bootloader's image, its fuses and a firmware into the chip."""
        if loader is None:
            raise ConfigError(f"a board with state {self.state} needs to name its loader")
        try:
            _put(target, bootloader_image(loader, target.part))
            if self.state is BoardState.FLASHED:
                _put(target, application_image(target.part, _FIRMWARE_BYTES, seed=self.seed, usb=self.firmware_usb))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        for memory, value in {**loader.fuses, **self.fuses}.items():
            target.fuses[memory] = value & target.part.mask(memory)
        if self.lock is None and loader.lock is not None:
            target.core.lock = loader.lock & target.part.lock_mask


def _put(target: AvrTarget, image: Image) -> None:
    for segment in image.segments:
        target.flash[segment.start : segment.span.stop] = segment.data


def part_named(parts: Parts, name: str) -> AvrPart:
    """Return an AVR of the catalog. Raises ``ConfigError``."""
    try:
        return parts.avr(name)
    except IspdError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def read_faults(tables: Sequence[Mapping[str, Any]], union: UnionType) -> tuple[Any, ...]:
    """Make faults of their tables: ``kind`` is the name of one of the union's classes. Raises ``ConfigError``."""
    kinds = {re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(): kind for kind in get_args(union)}
    return tuple(_fault(table, kinds) for table in tables)


def _fault(table: Mapping[str, Any], kinds: dict[str, type[T]]) -> T:
    values = dict(table)
    name = values.pop("kind", None)
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"unknown fault {name!r}; known are {', '.join(sorted(kinds))}")
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]  # every member of the union is a dataclass
    if not values.keys() <= known.keys():
        raise ConfigError(f"fault {name} has no {', '.join(sorted(values.keys() - known.keys()))}")
    try:
        for key, value in values.items():
            if known[key] is bytes and isinstance(value, str):
                values[key] = bytes.fromhex(value)
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"fault {name}: {error}") from error
