"""An STM32F103 on an ST-Link beside unmodified st-flash, on the same emulated device in one run; then eight at once beside one.

Both programs use the system's libusb on umockdev. Seconds are the bench's: what the programs took, and what the device would have
taken for its work in place of what it costs to emulate it; umockdev's own time for each transfer is in them. Those of ispd are
from opening the programmer to closing it, as the daemon has them; those of st-flash from its start to its end. st-flash erases
the pages it writes, like ispd with --keep-rest; by itself ispd erases the chip. Commands are those the ST-Link got, which no
busy machine touches.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _stand import tabulated
from _virtual import virtual_job_s

from ispd.model.image import Image, Segment
from ispd.model.recipe import Recipe
from ispd.station.spec import SlotSpec
from vbench.stlink import StLink
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket
from vbench.virtual_time import run_virtual

sys.path.append(str(Path(__file__).parents[2]))
from tests.oracle.usb.bed import UsbBed, missing_packages

SIZES = (7172, 64 * 1024)
"""The STM32duino bootloader of the QMK guide, and all of an STM32F103C8's flash."""
AIM = 1.0
GANG = 8
GANG_AIM = 1.10
FLASH_BASE = 0x0800_0000
CLIENT = Path(__file__).parents[2] / "tests/oracle/usb/swd_client.py"
PLACE = "1-1.4"


@dataclass(frozen=True, slots=True)
class Flashing:
    """One run: bench seconds, commands that the ST-Link got, and which share of the real time the bed's CPU had."""

    seconds: float
    commands: int
    bed_share: float


@dataclass(frozen=True, slots=True)
class GangRun:
    """Boards at once in one process: real seconds, and CPU seconds of the process and of the bed for each board."""

    boards: int
    seconds: float
    cpu_s: float
    bed_cpu_s: float


def program_of(size_bytes: int) -> bytes:
    """Return what looks like a program, has no blank stretch, and no two pages of which are alike."""
    head = (0x2000_2800).to_bytes(4, "little") + (FLASH_BASE + 0xF1).to_bytes(4, "little")
    return head + bytes(byte or 1 for byte in random.Random(size_bytes).randbytes(size_bytes - len(head)))


def fresh_probe() -> StLink:
    """Return a programmer with a chip that is full of something else."""
    chip = Stm32F1()
    chip.chip.flash[:] = bytes(byte ^ 0x5A for byte in program_of(len(chip.chip.flash)))
    return StLink(socket=SwdSocket(chip))


def st_flash(bed: UsbBed, file: Path) -> float:
    """Return the real seconds st-flash takes. Raises ``RuntimeError`` where it fails."""
    begun = time.monotonic()
    done = bed.run(("st-flash", "--reset", "--format", "binary", "write", str(file), f"0x{FLASH_BASE:08x}"))
    if done.returncode != 0:
        raise RuntimeError(f"st-flash failed:\n{done.stderr}")
    return time.monotonic() - begun


def ispd(bed: UsbBed, places: Sequence[str], file: Path, *switches: str) -> list[dict[str, Any]]:
    """Flash on all places at once and return what the process tells. Raises ``RuntimeError`` where a board did not pass."""
    done = bed.run((sys.executable, str(CLIENT), ",".join(places), "flash", str(file), *switches))
    told = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0 or any(one.get("verdict") != "passed" for one in told[:-1]):
        raise RuntimeError(f"not every board passed:\n{done.stdout}{done.stderr}")
    return told


def ispd_pages(bed: UsbBed, file: Path) -> float:
    """Return the real seconds ispd takes where it erases the pages it writes."""
    return float(ispd(bed, [PLACE], file, "keeps_rest")[0]["seconds"])


def ispd_chip(bed: UsbBed, file: Path) -> float:
    """Return the real seconds ispd takes where it erases the chip."""
    return float(ispd(bed, [PLACE], file)[0]["seconds"])


def measured(program: Callable[[UsbBed, Path], float], file: Path) -> Flashing:
    """Have a program flash one fresh chip, and make sure of what that holds then."""
    probe = fresh_probe()
    with UsbBed({PLACE: probe}) as bed:
        begun, begun_s, begun_cpu_s = time.monotonic(), bed.now(PLACE), bed.cpu_s()
        counted_s = program(bed, file)
        real_s = time.monotonic() - begun
        skipped_s = bed.now(PLACE) - begun_s - real_s
        share = (bed.cpu_s() - begun_cpu_s) / real_s
    require_written([probe], file)
    return Flashing(counted_s + skipped_s, probe.debugger.commands, share)


def require_written(probes: Sequence[StLink], file: Path) -> None:
    """Raise ``RuntimeError`` where a chip does not hold the file, is not left running, or was misused."""
    for probe in probes:
        chip = probe.socket.target
        assert isinstance(chip, Stm32F1)
        if not chip.chip.flash.startswith(file.read_bytes()) or chip.violations or chip.core.is_halted:
            raise RuntimeError(f"a chip was not flashed as it should be: {chip.violations}")


def contest(folder: Path, runs: int) -> tuple[list[list[str]], bool]:
    """Return the table's lines about ispd and st-flash, and whether every aim is met."""
    lines, is_met = [], True
    for size in SIZES:
        file = folder / f"{size}.bin"
        file.write_bytes(program_of(size))
        found: dict[str, list[Flashing]] = {name: [] for name in PROGRAMS}
        for _ in range(runs):  # in turn: what else the machine does hits all alike
            for name, program in PROGRAMS.items():
                found[name].append(measured(program, file))
        theirs = median_s(found["st-flash"])
        for name, flashings in found.items():
            is_ours, ratio = name != "st-flash", median_s(flashings) / theirs
            is_met = is_met and ratio <= AIM
            lines.append(
                [
                    f"{size} bytes, {name}",
                    f"{min(one.seconds for one in flashings):.2f}",
                    f"{median_s(flashings):.2f}",
                    f"{ratio:.2f}" if is_ours else "",
                    f"{AIM:.2f}" if is_ours else "",
                    f"{statistics.median(one.commands for one in flashings):.0f}",
                    f"{statistics.median(one.bed_share for one in flashings):.0%}",
                ]
            )
    return lines, is_met


def median_s(runs: Sequence[Flashing]) -> float:
    """Return the median of their seconds."""
    return statistics.median(one.seconds for one in runs)


PROGRAMS = {"st-flash": st_flash, "ispd, pages": ispd_pages, "ispd, chip": ispd_chip}


def virtual_gang(folder: Path, size: int) -> tuple[list[list[str]], bool]:
    """Return the lines about a station on virtual time, and whether the aim is met."""
    recipe = Recipe(flash=Image.of([Segment(FLASH_BASE, program_of(size))]))
    seconds = []
    for boards in (1, GANG):
        slots = {
            SlotSpec(name=f"S{number}", programmer="stlink", port=f"usb:1-1.{number}"): fresh_probe()
            for number in range(1, boards + 1)
        }
        seconds.append(run_virtual(virtual_job_s, folder, slots, recipe))
    one, many = seconds
    lines = [
        ["station, virtual time", "1", f"{one:.2f}", "", "", "", ""],
        ["station, virtual time", str(GANG), f"{many:.2f}", f"{many / one:.2f}", f"{GANG_AIM:.2f}", "", ""],
    ]
    return lines, many / one <= GANG_AIM


def real_gang(file: Path, boards: int) -> GangRun:
    """Flash that many chips at once by one process with a thread for each, as the daemon does."""
    probes = {f"1-1.{number}": fresh_probe() for number in range(1, boards + 1)}
    with UsbBed(probes, real_time=True) as bed:
        begun_s = bed.cpu_s()
        cost = ispd(bed, list(probes), file)[-1]
        bed_cpu_s = bed.cpu_s() - begun_s
    require_written(list(probes.values()), file)
    return GangRun(boards, cost["seconds"], cost["cpu_s"] / boards, bed_cpu_s / boards)


def real_gangs(folder: Path, size: int) -> list[list[str]]:
    """Return the lines about real time, in which one emulator serves all boards."""
    file = folder / "gang.bin"
    file.write_bytes(program_of(size))
    one, many = real_gang(file, 1), real_gang(file, GANG)
    return [
        [
            "umockdev, real time",
            str(run.boards),
            f"{run.seconds:.2f}",
            "" if run is one else f"{run.seconds / one.seconds:.2f}",
            "",
            f"{run.cpu_s:.2f}",
            f"{run.bed_cpu_s:.2f}",
        ]
        for run in (one, many)
    ]


def main() -> int:
    """Print the tables; exit code 1 where an aim is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench stlink", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how often each program flashes each image")
    parser.add_argument("--only", choices=("st-flash", "gang"), help="only this comparison")
    options = parser.parse_args()
    missing = missing_packages()
    if missing is not None:
        print(f"without Debian's {missing} there is no bed for libusb: only virtual time is shown")
    is_met = True
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if options.only != "gang" and missing is None:
            version = subprocess.run(
                ("st-flash", "--version"), capture_output=True, text=True, check=True
            ).stdout.strip()
            lines, is_met = contest(folder, options.runs)
            print(f"{version} and ispd, ST-Link V2 at 1.8 MHz, medians of {options.runs} runs\n")
            print(tabulated(("image, program", "min s", "median s", "ratio", "aim", "commands", "bed's CPU"), lines))
        if options.only != "st-flash":
            size = SIZES[0]
            lines, is_quick = virtual_gang(folder, size)
            is_met = is_met and is_quick
            lines += real_gangs(folder, size) if missing is None else []
            print(f"\n{size} bytes to an STM32F103C8 on each ST-Link\n")
            print(tabulated(("bed", "boards", "seconds", "ratio", "aim", "CPU s/board", "bed's CPU s/board"), lines))
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
