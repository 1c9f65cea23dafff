"""A process that works on STM32F1s behind ST-Links on the bed by the daemon's own code and USB transport.

Arguments: places (``1-1.4``; several separated by commas are worked on at once), verb, and for ``flash`` a ``.bin`` file, then
switches: ``keeps_rest`` and ``unlock`` as in the recipe, ``lock`` for reading to be protected at last. Tells what became of each place as one JSON document
per line, in the order of the places, and at last what it cost.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts, load_parts
from ispd.errors import IspdError
from ispd.flashing.interface import ProbeFacts, TargetInterface
from ispd.flashing.observer import Identified, UnitOutcome
from ispd.flashing.open_target import open_target
from ispd.flashing.sck import SckStart
from ispd.flashing.target_state import TargetState
from ispd.model.image import Image, Segment
from ispd.model.job import StepRecord
from ispd.model.recipe import Recipe
from ispd.programmers.registry import load_drivers
from ispd.transport.clock import SystemClock
from ispd.transport.contract import BytePort, SerialSettings, UsbLink
from ispd.transport.usb import UsbBus

__all__: list[str] = []

FLASH_BASE = 0x0800_0000
SWITCHES = frozenset({"keeps_rest", "unlock", "lock"})


class Machine:
    """The USB bus and nothing else."""

    def __init__(self) -> None:
        self._bus = UsbBus()

    async def open_serial(self, settings: SerialSettings) -> BytePort:
        """Refuse: an ST-Link is no tty."""
        raise AssertionError(settings)

    async def open_usb(self, port: str) -> UsbLink:
        """Open the device through libusb."""
        return await self._bus.open(port)


class Nobody:
    """An observer that does not look."""

    stop_requested = False

    async def identified(self, found: Identified) -> None:
        """Nothing."""

    async def about_to_write(self, before: TargetState, warnings: tuple[str, ...]) -> None:
        """Nothing."""

    async def step_started(self, name: str) -> None:
        """Nothing."""

    async def step_finished(self, record: StepRecord) -> None:
        """Nothing."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Nothing."""

    async def checkpoint(self) -> None:
        """Go on."""


async def flash(target: TargetInterface, parts: Parts, content: bytes, switches: list[str]) -> UnitOutcome:
    """Flash bytes at the start of flash, by the daemon's floor for one unit."""
    image = Image.of([Segment(FLASH_BASE, content)])
    return await target.flash(
        Recipe(
            flash=image,
            keeps_rest="keeps_rest" in switches,
            unlock="unlock" in switches,
            lock=0x00 if "lock" in switches else None,
        ),
        parts=parts,
        bootloaders=load_bootloaders(parts),
        clock=SystemClock(),
        observer=Nobody(),
        start=SckStart(),
    )


def told_of_outcome(outcome: UnitOutcome) -> dict[str, Any]:
    """Return what is of interest."""
    return {
        "verdict": outcome.verdict.value,
        "failure": None if outcome.failure is None else outcome.failure.code,
        "message": "" if outcome.failure is None else outcome.failure.message,
        "part": outcome.part,
        "steps": [step.name for step in outcome.steps],
        "warnings": list(outcome.warnings),
    }


def told_of_facts(facts: ProbeFacts) -> dict[str, Any]:
    """Return what the target told."""
    return {
        "signature": None if facts.signature is None else str(facts.signature),
        "parts": [part.name for part in facts.parts],
        "flash_bytes": facts.flash_bytes,
        "flash_page_bytes": facts.flash_page_bytes,
        "ram_bytes": facts.ram_bytes,
        "voltage_mv": facts.voltage_mv,
        "unique_id": facts.unique_id,
        "chip": facts.chip,
        "lock": facts.lock,
        "failure": None if facts.failure is None else facts.failure.code,
    }


async def work(
    machine: Machine, parts: Parts, place: str, switches: list[str], content: bytes | None
) -> dict[str, Any]:
    """Probe at one place, or flash where there is something to."""
    begun = time.monotonic()
    try:
        target = await open_target(load_drivers()["stlink"], machine, f"usb:{place}", baud=None, usb=None)
        try:
            told = {"firmware": target.identity.firmware, "serial": target.identity.serial}
            if content is None:
                told |= told_of_facts(await target.probe(parts))
            else:
                told |= told_of_outcome(await flash(target, parts, content, switches))
        finally:
            await target.aclose()
    except IspdError as error:
        told = {"error": error.code, "message": error.message}
    return {**told, "seconds": time.monotonic() - begun}


async def main(places: list[str], switches: list[str], content: bytes | None) -> None:
    """Work on all places at once."""
    machine, parts = Machine(), load_parts()
    told: dict[str, dict[str, Any]] = {}

    async def one(place: str) -> None:
        told[place] = await work(machine, parts, place, switches, content)

    begun, begun_cpu_s = time.monotonic(), time.process_time()
    async with anyio.create_task_group() as tasks:
        for place in places:
            tasks.start_soon(one, place)
    for place in places:
        print(json.dumps(told[place]))
    print(json.dumps({"seconds": time.monotonic() - begun, "cpu_s": time.process_time() - begun_cpu_s}))


if __name__ == "__main__":
    where, verb, *rest = sys.argv[1:]
    assert SWITCHES.issuperset(rest[1:])
    anyio.run(main, where.split(","), rest[1:], Path(rest[0]).read_bytes() if verb == "flash" else None)
