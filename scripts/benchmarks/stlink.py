"""An STM32F103 on an ST-Link beside unmodified st-flash, on the same emulated device in one run; then eight at once beside one.

Both programs use the system's libusb on umockdev: st-flash from its start to its end, ispd from the command line to the verdict. Seconds
are the bench's: what the programs took, and what the device would have taken for its work in place of what it costs to emulate it;
umockdev's own time for each transfer is in them. The ratio is that of the best runs. st-flash erases the pages it writes, like
ispd with --keep-rest; by itself ispd erases the chip. Commands, and the seconds they take the device, are what no busy machine touches.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from _stand import Process, flash_all, running_daemon, tabulated
from _virtual import virtual_job_s

from ispd.model.image import Image, Segment
from ispd.model.recipe import Recipe
from ispd.station.spec import SlotSpec
from ispd.transport.contract import USB_PORT_PREFIX
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
PLACE, PART = "1-1.4", "stm32f103xb"


@dataclass(frozen=True, slots=True)
class Flashing:
    """One run.

    :param seconds: bench seconds.
    :param commands: what the ST-Link was told.
    :param device_s: what these transfers took the device.
    :param bed_share: share of the real time that the bed's CPU had.
    """

    seconds: float
    commands: int
    device_s: float
    bed_share: float


@dataclass(frozen=True, slots=True)
class GangRun:
    """Boards at once by one daemon: real seconds, and CPU seconds of the daemon and of the bed for each board."""

    boards: int
    seconds: float
    cpu_s: float
    bed_cpu_s: float


def program_of(size_bytes: int) -> bytes:
    """Return what looks like a program, has no blank stretch, and no two pages of which are alike."""
    head = (0x2000_2800).to_bytes(4, "little") + (FLASH_BASE + 0xF1).to_bytes(4, "little")
    return head + bytes(byte or 1 for byte in random.Random(size_bytes).randbytes(size_bytes - len(head)))


def used_probe() -> StLink:
    """Return a programmer with a chip that is full of something else."""
    chip = Stm32F1()
    chip.chip.flash[:] = bytes(byte ^ 0x5A for byte in program_of(len(chip.chip.flash)))
    return StLink(socket=SwdSocket(chip))


def timed(bed: UsbBed, probe: StLink, action: Callable[[], object]) -> Flashing:
    """Do something with the bed's only device, and return what it cost."""
    begun_s, begun_commands = bed.now(PLACE), probe.debugger.commands
    begun_device_s, begun_cpu_s, begun_real_s = bed.work_s[PLACE], bed.cpu_s(), time.monotonic()
    action()
    return Flashing(
        seconds=bed.now(PLACE) - begun_s,
        commands=probe.debugger.commands - begun_commands,
        device_s=bed.work_s[PLACE] - begun_device_s,
        bed_share=(bed.cpu_s() - begun_cpu_s) / (time.monotonic() - begun_real_s),
    )


def st_flash(file: Path) -> Flashing:
    """Have st-flash do it. Raises ``RuntimeError`` where it fails."""
    probe = used_probe()
    with UsbBed({PLACE: probe}) as bed:

        def run() -> None:
            done = bed.run(("st-flash", "--reset", "--format", "binary", "write", str(file), f"0x{FLASH_BASE:08x}"))
            if done.returncode != 0:
                raise RuntimeError(f"st-flash failed:\n{done.stderr}")

        found = timed(bed, probe, run)
    require_written([probe], file)
    return found


def ispd(file: Path, *options: str) -> Flashing:
    """Have ispd do it. Raises ``RuntimeError`` where it fails."""
    probe = used_probe()
    with UsbBed({PLACE: probe}) as bed, daemon_on(bed, [PLACE]) as (_daemon, socket):
        found = timed(bed, probe, lambda: flash_all(socket, file, "--part", PART, *options))
    require_written([probe], file)
    return found


@contextmanager
def daemon_on(bed: UsbBed, places: Sequence[str]) -> Iterator[tuple[Process, Path]]:
    """Run a daemon with a slot for each place."""
    with tempfile.TemporaryDirectory() as made:
        ports = [f"{USB_PORT_PREFIX}{place}" for place in places]
        with running_daemon(Path(made), ports, programmer="stlink", environment=bed.environment) as running:
            yield running


def require_written(probes: Sequence[StLink], file: Path) -> None:
    """Raise ``RuntimeError`` where a chip does not hold the file, is not left running, or was misused."""
    for probe in probes:
        chip = probe.socket.target
        assert isinstance(chip, Stm32F1)
        if not chip.chip.flash.startswith(file.read_bytes()) or chip.violations or chip.core.is_halted:
            raise RuntimeError(f"a chip was not flashed as it should be: {chip.violations}")


PROGRAMS: Mapping[str, Callable[[Path], Flashing]] = {
    "st-flash": st_flash,
    "ispd --keep-rest": lambda file: ispd(file, "--keep-rest"),
    "ispd": ispd,
}


def contest(folder: Path, runs: int) -> tuple[list[list[str]], bool]:
    """Return the table's lines about ispd and st-flash, and whether every aim is met."""
    lines, is_met = [], True
    for size in SIZES:
        file = folder / f"{size}.bin"
        file.write_bytes(program_of(size))
        found: dict[str, list[Flashing]] = {name: [] for name in PROGRAMS}
        for _ in range(runs):  # in turn: what else the machine does hits all alike
            for name, program in PROGRAMS.items():
                found[name].append(program(file))
        theirs = best_s(found["st-flash"])
        for name, runs_of_it in found.items():
            is_ours, ratio = name != "st-flash", best_s(runs_of_it) / theirs
            is_met = is_met and ratio <= AIM
            lines.append(
                [
                    f"{size} bytes, {name}",
                    f"{best_s(runs_of_it):.2f}",
                    f"{median(runs_of_it, 'seconds'):.2f}",
                    f"{ratio:.2f}" if is_ours else "",
                    f"{AIM:.2f}" if is_ours else "",
                    f"{median(runs_of_it, 'commands'):.0f}",
                    f"{median(runs_of_it, 'device_s'):.2f}",
                    f"{median(runs_of_it, 'bed_share'):.0%}",
                ]
            )
    return lines, is_met


def best_s(runs: Sequence[Flashing]) -> float:
    """Return the seconds of the run that was disturbed least."""
    return min(one.seconds for one in runs)


def median(runs: Sequence[Flashing], figure: str) -> float:
    """Return the median of one of their figures."""
    return statistics.median(float(getattr(one, figure)) for one in runs)


def virtual_gang(folder: Path, size: int) -> tuple[list[list[str]], bool]:
    """Return the lines about a station on virtual time, and whether the aim is met."""
    recipe = Recipe(flash=Image.of([Segment(FLASH_BASE, program_of(size))]))
    seconds = []
    for boards in (1, GANG):
        slots = {
            SlotSpec(name=f"S{number}", programmer="stlink", port=f"usb:1-1.{number}"): used_probe()
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
    """Flash that many chips at once by one daemon, which has a thread for each."""
    probes = {f"1-1.{number}": used_probe() for number in range(1, boards + 1)}
    with UsbBed(probes, real_time=True) as bed, daemon_on(bed, list(probes)) as (daemon, socket):
        begun_cpu_s, begun_bed_s = daemon.cpu_s(), bed.cpu_s()
        seconds = flash_all(socket, file, "--part", PART)
        cpu_s, bed_cpu_s = daemon.cpu_s() - begun_cpu_s, bed.cpu_s() - begun_bed_s
    require_written(list(probes.values()), file)
    return GangRun(boards, seconds, cpu_s / boards, bed_cpu_s / boards)


def real_gangs(folder: Path, size: int) -> list[list[str]]:
    """Return the lines about real time. All boards wait for one emulator and one umockdev there, so there is no aim."""
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
    parser.add_argument("--runs", type=int, default=5, help="how often each program flashes each image")
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
            print(f"{version} and ispd, ST-Link V2 at 1.8 MHz, {options.runs} runs\n")
            print(
                tabulated(
                    ("image, program", "best s", "median s", "ratio", "aim", "commands", "device s", "bed's CPU"), lines
                )
            )
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
