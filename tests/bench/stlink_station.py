"""Slots with ST-Links and Bluepills on virtual time, and recipes for them."""

from collections.abc import Sequence

from tests.bench.chain_station import BOOTLOADERS, PARTS

from ispd.catalog.options import NamedBytes, RecipeOptions
from ispd.catalog.recipe import build_recipe
from ispd.model.recipe import PlanKind, Recipe
from ispd.station.spec import SlotSpec
from vbench.hardware import BenchHardware
from vbench.stlink import StLink
from vbench.stm32 import APPLICATION, stm32_application, stm32_loader
from vbench.stm32_board import Stm32Board

KEYBOARD = "FEED:0106"
BLUEPILL = PARTS.get("bluepill")


def content_for(seed: int, size_bytes: int = 3_000) -> bytes:
    """Return a firmware like no other that begins where flash begins."""
    return stm32_application(size_bytes, seed=seed, usb=KEYBOARD, start=0)


def swd_recipe(seed: int, *, size_bytes: int = 3_000, part: str | None = BLUEPILL.id, unlock: bool = False) -> Recipe:
    """Return the recipe of such a firmware as its .bin."""
    content = content_for(seed, size_bytes)
    base = 0x0800_0000 if part is None else None
    options = RecipeOptions(files=(NamedBytes("keyboard.bin", content, base),), part=part, unlock=unlock)
    return build_recipe(options, PARTS, BOOTLOADERS)


def application_for(seed: int) -> bytes:
    """Return a firmware like no other for above the STM32duino bootloader."""
    return stm32_application(9_000, seed=seed, usb=KEYBOARD)


def chained_recipe(seed: int, plan: PlanKind = PlanKind.CHAINED, *, with_loader: bool = True) -> Recipe:
    """Return the recipe of the bootloader by SWD and a firmware by dfu-util."""
    files = [NamedBytes("keyboard.bin", application_for(seed), None)]
    if with_loader:
        files.insert(0, NamedBytes("generic_boot20_pc13.bin", stm32_loader(), 0x0800_0000))
    options = RecipeOptions(files=tuple(files), plan=plan, part=BLUEPILL.id, bootloader="stm32duino-pc13")
    return build_recipe(options, PARTS, BOOTLOADERS)


def new_board(number: int = 0, **options: object) -> Stm32Board:
    """Return a Bluepill as it is bought, with a serial number of its own and nothing on it."""
    uid = bytes.fromhex("52FF6C0649805452471400") + bytes((number,))
    return Stm32Board(**{"uid": uid, "has_loader": False, **options})  # type: ignore[arg-type]  # options of Stm32Board


def stlinks(boards: Sequence[Stm32Board | None], *, cables: bool = False) -> tuple[BenchHardware, list[SlotSpec]]:
    """Return a bench of one ST-Link a board, all with one serial number, and the slots S1, S2 .. for them.

    :param cables: each board's own USB cable is plugged in, too, and its slot knows where.
    """
    hardware = BenchHardware(hotplug_lag_s=0.02)
    specs = []
    for number, board in enumerate(boards, start=1):
        name, path, own = f"S{number}", f"1-1.{number}", f"1-2.{number}" if cables else None
        hardware.add(name, StLink(), path=path, board_usb=own)
        if board is not None:
            hardware.insert(name, board)
        specs.append(SlotSpec(name=name, path=path, target_usb=own))
    return hardware, specs


def holds(board: Stm32Board, content: bytes) -> bool:
    """Tell whether flash holds this from its start, and is blank behind it."""
    flash = bytes(board.chip.flash)
    return flash == content.ljust(len(flash), b"\xff")


def holds_chain(board: Stm32Board, seed: int) -> bool:
    """Tell whether flash holds the bootloader and this firmware, and nothing else up to the firmware's end."""
    whole = stm32_loader().ljust(APPLICATION, b"\xff") + application_for(seed)
    return bytes(board.chip.flash[: len(whole)]) == whole
