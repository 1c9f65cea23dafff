"""An STM32F1 behind an ST-Link on the virtual bench, worked on through the interface that the station uses."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.unit.flashing.recording_observer import RecordingObserver
from tests.unit.programmers.stlink_rig import Rig

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.flashing.observer import UnitOutcome
from ispd.flashing.sck import SckStart
from ispd.flashing.swd_interface import SwdInterface
from ispd.model.image import Image, Segment
from ispd.model.recipe import Recipe
from vbench.stm32f1 import Stm32F1

__all__ = ["BOOTLOADERS", "FLASH", "PARTS", "flash", "on", "program", "recipe", "used_chip"]

FLASH = 0x0800_0000
PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)


def program(length: int, *, seed: int = 1, at: int = FLASH) -> Image:
    """Return something that looks like a program of that many bytes, without blank stretches."""
    body = bytes(byte or 1 for byte in random.Random(seed).randbytes(length - 8))
    head = (0x2000_2800).to_bytes(4, "little") + (FLASH + 0x09).to_bytes(4, "little")
    return Image.of([Segment(at, head + body)])


def recipe(image: Image | None = None, **changes: object) -> Recipe:
    """Return a recipe with these values."""
    return replace(Recipe(flash=Image(()) if image is None else image), **changes)  # type: ignore[arg-type]  # fields by name


def used_chip(chip: Stm32F1 | None = None) -> Stm32F1:
    """Return a chip whose flash is full of something."""
    chip = chip or Stm32F1()
    chip.chip.flash[:] = random.Random(7).randbytes(len(chip.chip.flash))
    return chip


@asynccontextmanager
async def on(rig: Rig) -> AsyncIterator[SwdInterface]:
    """Lend the interface to what is on a rig."""
    target = SwdInterface(await rig.open())
    try:
        yield target
    finally:
        await target.aclose()


async def flash(rig: Rig, wanted: Recipe, observer: RecordingObserver | None = None) -> UnitOutcome:
    """Open, flash, close. Errors of opening come out."""
    async with on(rig) as target:
        return await target.flash(
            wanted,
            parts=PARTS,
            bootloaders=BOOTLOADERS,
            clock=rig.clock,
            observer=observer or RecordingObserver(),
            start=SckStart(),
        )
