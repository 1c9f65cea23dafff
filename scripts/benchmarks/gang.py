"""Many boards at once: how much longer a full bench takes than a single board, and what a board costs.

Virtual time shows what the daemon itself adds; pseudo-terminals in real time add the machine. A daemon that flashed
board after board would show a ratio near the number of slots.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _stand import emulated_boards, flash_all, running_daemon, sample_image, tabulated, write_image
from _virtual import virtual_job_s

from ispd.catalog.parts import load_parts
from ispd.model.recipe import Recipe
from ispd.station.spec import SlotSpec
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.virtual_time import run_virtual

VIRTUAL_LIMIT = 1.05
REAL_LIMIT = 1.10


@dataclass(frozen=True, slots=True)
class Run:
    """One gang: how long the job took, and what it cost where that was measured."""

    slots: int
    seconds: float
    cpu_s: float | None = None
    peak_mb: float | None = None


async def virtual_run(slots: int, image_bytes: int, folder: Path) -> Run:
    """Flash a board on each of ``slots`` slots on virtual time."""
    part = load_parts().avr("atmega32u4")
    programmers = {}
    for number in range(slots):
        port = f"/bench/V{number:02}"
        spec = SlotSpec(name=f"V{number:02}", programmer="stk500v1", port=port, baud=19200)
        programmers[spec] = SerialProgrammer(Flavour.UART, target=AvrTarget(part, seed=number))
    seconds = await virtual_job_s(folder, programmers, Recipe(flash=sample_image(image_bytes)))
    return Run(slots=slots, seconds=seconds)


def real_run(slots: int, image_bytes: int, folder: Path) -> Run:
    """Flash a board on each of ``slots`` pseudo-terminals with the daemon as a process of its own."""
    folder.mkdir()
    image = write_image(folder, image_bytes)
    with emulated_boards(folder, slots, flavour="uart") as ports, running_daemon(folder, ports) as (daemon, socket):
        before_s = daemon.cpu_s()
        seconds = flash_all(socket, image)
        spent_s = daemon.cpu_s() - before_s
        peak_mb = daemon.memory_mb(peak=True)
    return Run(slots=slots, seconds=seconds, cpu_s=spent_s / slots, peak_mb=peak_mb)


def rows(bed: str, runs: tuple[Run, Run], limit: float) -> list[list[str]]:
    """Return the table's lines about one bed."""
    return [
        [
            bed,
            str(run.slots),
            f"{run.seconds:.2f}",
            f"{run.seconds / runs[0].seconds:.3f}",
            f"{limit:.2f}" if run is runs[1] else "",
            "" if run.cpu_s is None else f"{run.cpu_s:.2f}",
            "" if run.peak_mb is None else f"{run.peak_mb:.0f}",
        ]
        for run in runs
    ]


def main() -> int:
    """Print the table; exit code 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench gang", description=__doc__)
    parser.add_argument("--virtual-slots", type=int, default=32)
    parser.add_argument("--real-slots", type=int, default=16)
    parser.add_argument("--image-bytes", type=int, default=8192)
    parser.add_argument("--bed", choices=("virtual", "real"), help="only this one")
    options = parser.parse_args()
    size = options.image_bytes
    head = ("bed", "boards", "seconds", "ratio", "limit", "CPU s/board", "peak MB")
    table: list[list[str]] = []
    is_met = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.bed != "real":
            virtual = (
                run_virtual(virtual_run, 1, size, folder),
                run_virtual(virtual_run, options.virtual_slots, size, folder),
            )
            table += rows("virtual time", virtual, VIRTUAL_LIMIT)
            is_met = is_met and virtual[1].seconds <= virtual[0].seconds * VIRTUAL_LIMIT
        if options.bed != "virtual":
            real = (
                real_run(1, size, folder / "one"),
                real_run(options.real_slots, size, folder / "many"),
            )
            table += rows("pseudo-terminals", real, REAL_LIMIT)
            is_met = is_met and real[1].seconds <= real[0].seconds * REAL_LIMIT
    print(f"{size} bytes to an ATmega32U4 on each slot, ArduinoISP at 19200 baud\n")
    print(tabulated(head, table))
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
