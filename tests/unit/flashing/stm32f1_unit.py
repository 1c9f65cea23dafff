"""An STM32F1 behind an ST-Link on the virtual bench, flashed once, with an observer that writes down what it is told."""

import random
from collections.abc import Callable

from tests.unit.programmers.stlink_rig import Rig

from ispd.errors import JobError
from ispd.flashing.stm32f1_execute import Stm32Outcome, flash_stm32f1
from ispd.flashing.stm32f1_identify import Stm32Facts
from ispd.flashing.stm32f1_plan import Stm32Plan, Stm32Wish
from ispd.model.image import Image, Segment
from ispd.model.job import StepRecord
from ispd.programmers.swd_contract import SwdConnection

__all__ = ["FLASH", "Recorder", "flash", "program"]

FLASH = 0x0800_0000


def program(length: int, *, seed: int = 1, at: int = FLASH) -> Image:
    """Return something that looks like a program of that many bytes, without blank stretches."""
    body = bytes(byte or 1 for byte in random.Random(seed).randbytes(length - 8))
    head = (0x2000_2800).to_bytes(4, "little") + (FLASH + 0xF1).to_bytes(4, "little")
    return Image.of([Segment(at, head + body)])


class Recorder:
    """``stop_at`` is the number of the checkpoint that raises ``reason``."""

    def __init__(self, *, stop_at: int | None = None, reason: Callable[[], JobError] | None = None) -> None:
        self.events: list[str] = []
        self.plans: list[Stm32Plan] = []
        self.facts: Stm32Facts | None = None
        self.progressed: list[tuple[int, int]] = []
        self.checkpoints = 0
        self._stop_at = stop_at
        self._reason = reason

    async def identified(self, facts: Stm32Facts, connection: SwdConnection) -> None:
        self.facts = facts
        self.events.append(f"identified {facts.chip_id:03X} at {connection.clock_hz}")

    async def about_to_write(self, plan: Stm32Plan, warnings: tuple[str, ...]) -> None:  # noqa: ARG002 - the observer's signature
        self.plans.append(plan)
        self.events.append("intent")

    async def step_started(self, name: str) -> None:
        self.events.append(f"begin {name}")

    async def step_finished(self, record: StepRecord) -> None:
        self.events.append(f"end {record.name}")

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self.progressed.append((done_bytes, total_bytes))

    async def checkpoint(self) -> None:
        self.checkpoints += 1
        if self._reason is not None and self.checkpoints - 1 == self._stop_at:
            raise self._reason()


async def flash(rig: Rig, wish: Stm32Wish, recorder: Recorder | None = None) -> Stm32Outcome:
    """Open, flash, close. Errors of opening come out."""
    probe = await rig.open()
    try:
        return await flash_stm32f1(probe, wish, clock=rig.clock, observer=recorder or Recorder())
    finally:
        await probe.aclose()
