"""Boards with an STM32 of a bench file."""

import hashlib
from dataclasses import replace

from ispd.errors import ConfigError
from ispd.model.part import MemoryKind, Stm32Part
from vbench.board_fields import FIRMWARE_BYTES, USED_SHARE, BoardFields, BoardState
from vbench.fault_table import read_faults
from vbench.stm32 import APPLICATION, Habit, stm32_application
from vbench.stm32_board import DfuSeBoard, Stm32Board, Stm32Fault
from vbench.stm32_models import genuine_model
from vbench.stm32f1 import Stm32F1Fault
from vbench.stm32f1_flash import RDP_OPEN

__all__ = ["DFUSE_PART", "STM32_OPTIONS", "dfuse_board", "stm32_board"]

DFUSE_PART = "stm32f303"
"""Named as the part of a board that is held in its ROM's DFU."""
STM32_OPTIONS = frozenset({"flash_kib", "size_kib", "clone", "unique_id", "habit", "fixed_pull_up"})
_LOADER = "stm32duino-pc13"
_OPTIONS = (
    MemoryKind.USER,
    MemoryKind.DATA0,
    MemoryKind.DATA1,
    MemoryKind.WRP0,
    MemoryKind.WRP1,
    MemoryKind.WRP2,
    MemoryKind.WRP3,
)
"""Option bytes in their order, after RDP (PM0075, "Option byte organization")."""
_PROTECTED = 0x00


def stm32_board(table: BoardFields, part: Stm32Part, name: str) -> Stm32Board:
    """Make a board.

    :param name: makes its unique id, together with its seed. Raises ``ConfigError``.
    """
    given = table.given(STM32_OPTIONS | {"supply_mv"})
    try:
        model = genuine_model(part, table.part, flash_kib=given.get("flash_kib"))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if "size_kib" in given:
        model = replace(model, size_kib=given["size_kib"], hides_size=model.hides_size and given["size_kib"] != 0)
    if "clone" in given:
        model = given["clone"].copy(model)
    if "supply_mv" in given:
        model = replace(model, supply_mv=given["supply_mv"])
    if table.loader not in (None, _LOADER):
        raise ConfigError(f"the bench shows {_LOADER} on an {part.name}, and not {table.loader}")
    board = Stm32Board(
        model=model,
        has_loader=table.state in (BoardState.BOOTLOADER, BoardState.FLASHED),
        uid=bytes.fromhex(given["unique_id"]) if "unique_id" in given else _unique_id(f"{name} {table.seed}"),
        fixed_pull_up=given.get("fixed_pull_up", True),
        faults=read_faults(table.fault, Stm32Fault | Stm32F1Fault),
    )
    _fill(table, board, given.get("habit"))
    _set_options(table, board)
    return board


def _fill(table: BoardFields, board: Stm32Board, habit: Habit | None) -> None:
    """Put a firmware into it: above its bootloader, or all over the flash."""
    flash = board.chip.flash
    match table.state:
        case BoardState.USED | BoardState.LOCKED:
            start, size = 0, len(flash) - len(flash) // USED_SHARE
        case BoardState.FLASHED:
            start, size = APPLICATION, FIRMWARE_BYTES
        case _ if habit is None:
            return
        case _:
            raise ConfigError(f"a board with state {table.state} has no firmware that could have a habit")
    content = stm32_application(size, seed=table.seed, usb=table.firmware_usb, start=start, habit=habit)
    flash[start : start + size] = content


def _set_options(table: BoardFields, board: Stm32Board) -> None:
    unknown = [memory for memory in table.fuses if memory not in _OPTIONS]
    if unknown:
        raise ConfigError(f"an STM32 has no {unknown[0]}")
    is_locked = table.state is BoardState.LOCKED
    rdp = table.lock if table.lock is not None else _PROTECTED if is_locked else RDP_OPEN
    values = (rdp, *(table.fuses.get(memory, 0xFF) for memory in _OPTIONS))
    try:
        board.swd.flash.set_options(bytes(values))
    except ValueError as error:
        raise ConfigError(f"an option byte of {table.part}: {error}") from error


def _unique_id(text: str) -> bytes:
    return hashlib.shake_128(text.encode()).digest(12)


def dfuse_board(table: BoardFields) -> DfuSeBoard:
    """Make a board that no programmer of the bench reaches. Raises ``ConfigError``."""
    if table.state in (BoardState.USED, BoardState.LOCKED):
        raise ConfigError(f"an {table.part} is blank, bootloader or flashed")
    if given := table.given(STM32_OPTIONS):
        raise ConfigError(f"an {table.part} has no {next(iter(given))}")
    application = b""
    if table.state is BoardState.FLASHED:
        application = stm32_application(FIRMWARE_BYTES, seed=table.seed, usb=table.firmware_usb, start=0)
    return DfuSeBoard(application=application, faults=read_faults(table.fault, Stm32Fault))
