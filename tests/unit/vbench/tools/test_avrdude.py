"""avrdude on AVR109: who does not answer, who is another chip, what was not written."""

import math
from typing import Any

import pytest
from tests.unit.vbench.loader_rig import make_chip
from tests.unit.vbench.tools.desk_bench import DeskBench

from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import Parts
from ispd.model.image import Image, Segment
from ispd.model.span import Span
from ispd.transport.contract import PortKind, ToolOutcome, UsbIdentity
from vbench.board_chip import Chip
from vbench.caterina import Caterina
from vbench.faults import LostPage
from vbench.faults import Mute as ReplyMute
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual

TTY = "/dev/ttyACM0"
PRO_MICRO = UsbIdentity(vendor_id=0x1B4F, product_id=0x9205)
PROGRAM = bytes((address * 7) & 0xFF for address in range(1000))
FILES = {"app.hex": write_hex(Image.of([Segment(0, PROGRAM)]))}
WRITE = ("-U", "flash:w:app.hex:i")


class Mute:
    """A tty with nobody behind it."""

    usb = PRO_MICRO
    version = 0
    port_kind = PortKind.SERIAL
    power_lost_at: float | None = None

    def opened(self, at: float, *, baud: int) -> None:
        """Take no notice."""

    def feed(self, data: bytes, at: float) -> None:
        """Take no notice."""

    def take(self, _now: float) -> bytes:
        """Say nothing."""
        return b""

    def next_time(self) -> float:
        """Never say anything."""
        return math.inf


class Shown:
    """A loader as a desk wants its devices."""

    version = 1

    def __init__(self, loader: Caterina) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def run(device: object, *words: str, part: str = "m32u4") -> tuple[ToolOutcome, float]:
    async def main() -> tuple[ToolOutcome, float]:
        bench = DeskBench({"ttyACM0": device})
        outcome = await bench.run("avrdude", "-p", part, "-c", "avr109", "-P", TTY, *words, inputs=FILES)
        return outcome, bench.now()

    return run_virtual(main)


def test_nobody_there() -> None:
    """Eight questions of initialisation and two of farewell, 5 s each."""
    outcome, seconds = run(Mute(), *WRITE)
    silent = "avrdude error: programmer is not responding\n"
    assert outcome.errors.decode() == (
        "\n" + 8 * silent + "avrdude error: initialization failed, rc=-1\n"
        "        - double check the connections and try again\n"
        "        - use -B to set lower ISP clock frequency, e.g. -B 125kHz\n"
        "        - use -F to override this check\n\n"
        f"{silent}avrdude error: programmer did not respond to command: leave prog mode\n"
        f"{silent}avrdude error: programmer did not respond to command: exit bootloader\n"
        "\navrdude done.  Thank you.\n\n"
    )
    assert outcome.exit_code == 1
    assert seconds == pytest.approx(51, abs=1)


def test_another_chip_is_not_touched(parts: Parts) -> None:
    chip = make_chip(parts, application=b"old")
    outcome, _ = run(Shown(Caterina(chip, PRO_MICRO)), *WRITE, part="m16u4")
    assert outcome.exit_code == 1
    assert "avrdude: device signature = 0x1e9587 (probably m32u4)\n" in outcome.errors.decode()
    assert "avrdude error: expected signature for ATmega16U4 is 1E 94 88\n" in outcome.errors.decode()
    assert chip.target.flash[:3] == b"old"


def test_a_page_that_was_not_written(parts: Parts) -> None:
    target = AvrTarget(parts.avr("atmega32u4"), faults=[LostPage(0x100)])
    target.power_on(0.0, reset_active=False)
    section = Span(0x7000, 0x8000)
    chip = Chip(target, section=section, start=section.start, ram={})
    for options, code in (((), 1), (("-V",), 0)):
        outcome, _ = run(Shown(Caterina(chip, PRO_MICRO)), *options, *WRITE)
        assert outcome.exit_code == code, "without verify it takes the loader's word"
        assert "avrdude: 1000 bytes of flash written\n" in outcome.errors.decode()
        told = "verification mismatch\n        device 0xff != input 0x00 at addr 0x0100 (error)\n"
        assert (told in outcome.errors.decode()) == bool(code)


def test_silence_in_the_middle(parts: Parts) -> None:
    """Every byte fails, and then all of them are written: words of avrdude 7.1, which comes to the truth only by its verify."""
    loader = Caterina(make_chip(parts), PRO_MICRO, faults=[ReplyMute(after_replies=40)])
    outcome, _ = run(Shown(loader), *WRITE)
    told = outcome.errors.decode()
    silent = "avrdude error: programmer is not responding\n"
    assert f"Writing | {'-' * 50} | 0% 5.00s\n\n{silent}" in told
    assert told.count(" ***failed;\n") == 1000
    assert told.count("avrdude error: butterfly programmer uses avr_write_page() but does not\n") == 8
    assert " *** page 7 (addresses 0x0368 - 0x03e7) failed to write\n\navrdude: 1000 bytes of flash written\n" in told
    assert told.count("avrdude error: programmer did not respond to command: set addr\n") >= 8
    assert outcome.exit_code in (None, 1)
