"""Everything that goes wrong with chips, wires and programmers, produced on the bench and answered with its cure.

One row a failure: what is on the slot, what is asked for, and what the record (or, where no unit came about, the job and
the slot) says about it. Rows that only a worse daemon would fail at must pass.
"""

import errno
import os
import subprocess
import sys
import tty
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import serial
from tests.bench.failure_rows import SERIAL_ROWS, Row, flash
from tests.bench.failure_rows_usb import USB_ROWS

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode
from ispd.model.job import Job, Unit, Verdict
from ispd.model.recipe import Recipe
from ispd.model.station import Slot
from ispd.model.station import Station as About
from ispd.programmers.registry import load_drivers
from ispd.station.journal import Journal
from ispd.station.spec import SlotSpec
from ispd.station.station import Knowledge, Station
from ispd.transport import serial as serial_module
from ispd.transport.contract import Hardware
from ispd.transport.machine import Machine
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget
from vbench.virtual_time import InlineWorker, VirtualClock, run_virtual

PARTS = load_parts()
PORT = "/bench/A1"


@dataclass(frozen=True)
class Outcome:
    job: Job
    unit: Unit | None
    slot: Slot

    def told(self, slot: str = "A1") -> str:
        """Everything a person can read about it."""
        failures = [self.slot.failure] + ([] if self.unit is None else [self.unit.failure])
        texts = [self.job.seen.get(slot, "")] + [f"{one.message}; {one.hint}" for one in failures if one is not None]
        return " | ".join(texts)


async def attempt(row: Row, target: AvrTarget | None, folder: Path) -> Outcome:
    hardware = BenchHardware()
    hardware.add(PORT, row.programmer(target), path="1-1.4")
    is_usb = row.kind in ("usbasp", "usbtiny")
    place = {"path": "1-1.4"} if is_usb else {"port": PORT}
    spec = SlotSpec(name="A1", programmer=row.kind, baud=row.baud, **place)
    async with hardware:
        return await flashed(hardware, spec, row.recipe, folder)


async def flashed(hardware: Hardware, spec: SlotSpec, recipe: Recipe, folder: Path) -> Outcome:
    """Run one job without count on one slot."""
    journal = await Journal.open(folder / "journal.db", InlineWorker(), now="2026-01-01T00:00:00.000+00:00")
    station = Station(
        hardware,
        journal,
        knowledge=Knowledge(parts=PARTS, bootloaders=load_bootloaders(PARTS), drivers=load_drivers()),
        clock=VirtualClock(),
        specs=[spec],
        watch_hotplug=False,
        about=About(version="", started="", socket="", state_dir="", bench=True),
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(station.run)
        with station.events.subscribe(size=100_000) as events, anyio.fail_after(600):
            job = await station.enqueue(recipe, slots=["A1"], count=None)
            while not (await station.job(job.id)).state.is_final:
                await anext(events)
        job = await station.job(job.id)
        units = await station.units(job=job.id, limit=2, before=None)
        slot = station.slot("A1")
        await station.stop()
    await journal.aclose()
    assert len(units) <= 1
    return Outcome(job, units[0] if units else None, slot)


@pytest.mark.parametrize("row", SERIAL_ROWS + USB_ROWS, ids=lambda row: row.name)
def test_every_failure_is_answered_with_its_cure(row: Row, tmp_path: Path) -> None:
    target = row.target()
    outcome = run_virtual(attempt, row, target, tmp_path)
    told = outcome.told()
    for piece in row.says:
        assert piece in told, told
    if row.code is None:
        assert outcome.unit is not None, told
        assert outcome.unit.verdict is Verdict.PASSED, told
        names = [step.name for step in outcome.unit.attempts[-1].steps]
        assert [name for name in row.steps if name not in names] == []
        assert outcome.unit.sck_hz is not None
        assert outcome.unit.sck_hz > row.faster_than_hz
    elif outcome.unit is not None:
        assert outcome.unit.verdict is Verdict.FAILED
        assert outcome.unit.failure is not None
        assert outcome.unit.failure.code == row.code, told
    else:
        assert outcome.job.passed == 0
        found = outcome.slot.failure
        assert found is None or found.code == row.code, told
        assert outcome.job.seen["A1"]
    if target is not None:
        assert not target.in_reset
        assert {violation.kind for violation in target.violations} <= row.may_break


HOLDER = """
import os, sys
open("/proc/self/comm", "w").write("ModemManager")
held = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
import fcntl, termios
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.anyio
async def test_a_busy_port_names_its_holder_and_the_cure(tmp_path: Path) -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    port = os.ttyname(slave)
    command = [sys.executable, "-c", HOLDER, port]
    async with await anyio.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        await holder.stdout.receive()
        spec = SlotSpec(name="A1", programmer="stk500v1", port=port)
        outcome = await flashed(Machine(), spec, flash(), tmp_path)
        holder.terminate()
    os.close(master)
    os.close(slave)
    assert outcome.slot.failure is not None
    assert outcome.slot.failure.code == ErrorCode.PORT_BUSY
    for piece in (f"{port} is in use by ModemManager ({holder.pid})", "install the udev rules of ispd"):
        assert piece in outcome.slot.failure.message + outcome.slot.failure.hint
        assert piece in outcome.told()


@pytest.mark.anyio
async def test_a_port_that_may_not_be_opened_names_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise serial.SerialException(errno.EACCES, "no")

    monkeypatch.setattr(serial_module, "_Tty", refuse)
    spec = SlotSpec(name="A1", programmer="stk500v1", port="/dev/ttyACM77")
    outcome = await flashed(Machine(), spec, flash(), tmp_path)
    assert outcome.slot.failure is not None
    assert outcome.slot.failure.code == ErrorCode.PERMISSION_DENIED
    assert "add the user to group dialout" in outcome.job.seen["A1"]
    assert "udev rules of ispd" in outcome.job.seen["A1"]
