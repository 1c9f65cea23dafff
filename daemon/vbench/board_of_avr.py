"""AVR boards of a bench file."""

from ispd.catalog.bootloaders import Bootloaders, load_bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, IspdError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import AvrPart
from vbench.board import Board
from vbench.board_face import FAMILIES
from vbench.board_faults import BoardFault
from vbench.board_fields import FIRMWARE_BYTES, USED_SHARE, BoardFields, BoardState
from vbench.fault_table import read_faults
from vbench.faults import Fault
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget, Circuit

__all__ = ["AVR_OPTIONS", "avr_board", "avr_target", "part_named"]

AVR_OPTIONS = frozenset({"crystal_hz", "unimplemented", "hwb_low"})
_FACTORY_LOCK = 0xEC
"""LB and BLB0 programmed: what many factory-fresh USB AVRs are reported to carry."""
_CRYSTAL_HZ, _SUPPLY_MV = 16e6, 5000


def part_named(parts: Parts, name: str) -> AvrPart:
    """Return an AVR of the catalog. Raises ``ConfigError``."""
    try:
        return parts.avr(name)
    except IspdError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def avr_target(table: BoardFields, parts: Parts) -> AvrTarget:
    """Make the chip of a board, with what is in it. Raises ``ConfigError`` for an unknown part, loader or fault."""
    part = part_named(parts, table.part)
    unknown = [memory for memory in table.fuses if part.fuse(memory) is None]
    if unknown:
        raise ConfigError(f"{part.name} has no {unknown[0]}")
    given = {"crystal_hz": _CRYSTAL_HZ, "unimplemented": 0xFF, "supply_mv": _SUPPLY_MV}
    given |= table.given(frozenset(given))
    locked = table.state is BoardState.LOCKED
    faults = [fault for fault in read_faults(table.fault, Fault | BoardFault) if isinstance(fault, Fault)]
    try:
        target = AvrTarget(
            part,
            fuses=table.fuses,
            lock=table.lock if table.lock is not None else _FACTORY_LOCK if locked else 0xFF,
            circuit=Circuit(crystal_hz=given["crystal_hz"] or None, supply_mv=int(given["supply_mv"])),
            unimplemented=int(given["unimplemented"]),
            faults=faults,
            seed=table.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if table.state in (BoardState.USED, BoardState.LOCKED):
        filled = len(target.flash) - len(target.flash) // USED_SHARE
        target.flash[:filled] = bytes(address * 7 + (address >> 8) & 0xFF for address in range(filled))
        target.eeprom[:] = bytes(address & 0xFF for address in range(len(target.eeprom)))
    if table.state in (BoardState.BOOTLOADER, BoardState.FLASHED):
        _flash(table, target, _loader(table, load_bootloaders(parts), part))
    return target


def avr_board(table: BoardFields, bootloaders: Bootloaders, target: AvrTarget) -> Board:
    """Make the USB side of a chip's board. Raises ``ConfigError`` for a loader that the catalog or the bench does not know."""
    loader = _loader(table, bootloaders, target.part)
    faults = [fault for fault in read_faults(table.fault, Fault | BoardFault) if isinstance(fault, BoardFault)]
    known = bootloaders.presets(target.part)
    hwb_low = table.given(frozenset({"hwb_low"})).get("hwb_low", True)
    return Board(target, loader=loader, bootloaders=known, hwb_low=hwb_low, faults=faults)


def _loader(table: BoardFields, bootloaders: Bootloaders, part: AvrPart) -> Bootloader | None:
    """Return the bootloader that a board names. Raises ``ConfigError``."""
    if table.loader is None:
        return None
    try:
        loader = bootloaders.get(table.loader, part)
    except IspdError as error:
        raise ConfigError(error.message, hint=error.hint) from error
    if loader.family not in FAMILIES:
        raise ConfigError(f"the bench cannot show {loader.title}: it knows {', '.join(sorted(FAMILIES))}")
    return loader


def _flash(table: BoardFields, target: AvrTarget, loader: Bootloader | None) -> None:
    """Put the bootloader's image, its fuses and a firmware into the chip."""
    if loader is None:
        raise ConfigError(f"a board with state {table.state} needs to name its loader")
    try:
        _put(target, bootloader_image(loader, target.part))
        if table.state is BoardState.FLASHED:
            _put(target, application_image(target.part, FIRMWARE_BYTES, seed=table.seed, usb=table.firmware_usb))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for memory, value in {**loader.fuses, **table.fuses}.items():
        target.fuses[memory] = value & target.part.mask(memory)
    if table.lock is None and loader.lock is not None:
        target.core.lock = loader.lock & target.part.lock_mask


def _put(target: AvrTarget, image: Image) -> None:
    for segment in image.segments:
        target.flash[segment.start : segment.span.stop] = segment.data
