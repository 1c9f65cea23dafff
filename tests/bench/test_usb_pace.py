"""How long a keyboard's image takes through the programmers whose SCK can be set: bench seconds, so that no machine is too slow.

A factory-fresh ATmega32U4 on a 16 MHz crystal; its low fuse is written first, and what follows runs at the SCK which that allows.
"""

import random
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from tests.bench.failure_rows import Row, board
from tests.bench.failure_rows_usb import KINDS
from tests.bench.test_failure_hints import attempt

from ispd.model.image import Image, Segment
from ispd.model.job import Verdict
from ispd.model.part import MemoryKind
from ispd.model.recipe import Recipe
from ispd.transport.contract import ControlTransfer
from vbench.emulated import ControlReply
from vbench.target import AvrTarget
from vbench.usbasp import UsbAsp
from vbench.virtual_time import run_virtual

IMAGE = bytes(at * 73 + (at >> 8) & 0xFF for at in range(28 * 1024))


@pytest.mark.parametrize(
    ("kind", "sck_hz", "limit_s"),
    [
        # all pages written and read back; avrdude 7.1 with its defaults takes 10, 50 and 80 s
        ("usbasp", 1_500_000, 5.8),
        ("usbtiny", 344_827, 16.5),
        ("buspirate", 2_000_000, 5.7),
    ],
)
def test_28_kib_in_no_more_than(kind: str, sck_hz: int, limit_s: float, tmp_path: Path) -> None:
    recipe = Recipe(
        flash=Image.of([Segment(0, IMAGE)]), fuses={MemoryKind.LFUSE: 0xDE}, part="atmega32u4", accept_fuses=True
    )
    row = Row(name=kind, kind=kind, programmer=KINDS[kind], recipe=recipe)
    target = board("atmega32u4")
    unit = run_virtual(attempt, row, target, tmp_path).unit
    assert unit is not None
    assert unit.verdict is Verdict.PASSED
    assert bytes(target.flash[: len(IMAGE)]) == IMAGE
    assert unit.sck_hz == sck_hz
    assert unit.finished is not None
    seconds = (datetime.fromisoformat(unit.finished) - datetime.fromisoformat(unit.started)).total_seconds()
    assert seconds <= limit_s


class Jittery(UsbAsp):
    """A USBasp on a busy machine: most transfers seem to take some milliseconds longer."""

    def __init__(self, target: AvrTarget | None, seed: int) -> None:
        super().__init__(target=target)
        self.chance = random.Random(seed)

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        reply = super().control(transfer, at)
        delay_s = self.chance.choice((0.0, *(self.chance.uniform(0.0, 6e-3) for _ in range(3))))
        return replace(reply, ends_at=reply.ends_at + delay_s)


@pytest.mark.parametrize("seed", range(8))
def test_a_busy_machine_is_not_taken_for_a_slow_programmer(seed: int, tmp_path: Path) -> None:
    recipe = Recipe(flash=Image.of([Segment(0, IMAGE[:256])]), fuses={MemoryKind.LFUSE: 0xDE}, accept_fuses=True)
    row = Row(name="busy", kind="usbasp", programmer=lambda target: Jittery(target, seed), recipe=recipe)
    unit = run_virtual(attempt, row, board("atmega32u4"), tmp_path).unit
    assert unit is not None
    assert (unit.verdict, unit.sck_hz) == (Verdict.PASSED, 1_500_000)
