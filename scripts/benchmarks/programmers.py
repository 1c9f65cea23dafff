"""One board through each programmer beside unmodified avrdude, and beside what physics allows: same emulated device, one run.

A factory-fresh ATmega32U4 with a 16 MHz crystal gets its low fuse (crystal, no division) and an image without blank pages. Serial
programmers sit on pseudo-terminals; USB ones behind umockdev, where avrdude and the daemon use the system's libusb. All of it
takes the time the devices take. avrdude runs with its defaults.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from _stand import emulated_boards, flash_all, running_daemon, tabulated, write_image

from ispd.catalog.parts import load_parts
from vbench.target import AvrTarget
from vbench.usb_device import UsbDevice
from vbench.usbasp import UsbAsp
from vbench.usbtiny import UsbTiny

sys.path.append(str(Path(__file__).parents[2]))
from tests.oracle.usb.bed import UsbBed, missing_packages

PART = load_parts().get("atmega32u4")
LFUSE = "0xDE"
PLACE = "1-1.4"
FASTEST_SCK_HZ = 16e6 / 6
"""A part at 12 MHz or more follows a sixth of its clock (data sheet, "Serial Programming Characteristics")."""
BITS = 32
"""SCK cycles for each byte of flash, on the way in and on the way out."""


@dataclass(frozen=True, slots=True)
class Bed:
    """Where a port with a fresh board comes from, what avrdude needs to find it, and its environment."""

    port: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None


@contextmanager
def terminal(folder: Path, **options: str) -> Iterator[Bed]:
    """Give a serial programmer."""
    baud = "19200" if options["kind"] == "stk500v1" else "115200"
    with emulated_boards(folder, 1, **options) as (port,):
        yield Bed(str(port), ("-P", str(port), "-b", baud))


@contextmanager
def usb(_folder: Path, make: Callable[[AvrTarget], UsbDevice]) -> Iterator[Bed]:
    """Give a USB programmer."""
    with UsbBed({PLACE: make(AvrTarget(PART))}, real_time=True) as bed:
        yield Bed(f"usb:{PLACE}", (), bed.environment)


@dataclass(frozen=True, slots=True)
class Contest:
    """A programmer: our name of its kind and avrdude's, the bed, and the share of avrdude's time that is aimed at."""

    name: str
    kind: str
    bed: partial[AbstractContextManager[Bed]]
    aim: float


CONTESTS = (
    Contest("ArduinoISP, 19200 baud", "stk500v1", partial(terminal, kind="stk500v1", flavour="uart"), 0.88),
    Contest("ArduinoISP, USB-native", "stk500v1", partial(terminal, kind="stk500v1", flavour="leonardo"), 0.83),
    Contest("USBtinyISP", "usbtiny", partial(usb, make=lambda target: UsbTiny(target=target)), 0.4),
    Contest("USBasp", "usbasp", partial(usb, make=lambda target: UsbAsp(target=target)), 0.6),
    Contest("Bus Pirate v3", "buspirate", partial(terminal, kind="buspirate", hardware="v3"), 0.2),
)


def avrdude_s(contest: Contest, bed: Bed, image: Path) -> float:
    """Return the seconds avrdude takes for all of it. Raises ``RuntimeError`` where it fails."""
    command = ["avrdude", "-c", contest.kind, "-p", PART.avrdude_id, *bed.options]
    command += ["-e", "-U", f"lfuse:w:{LFUSE}:m", "-U", f"flash:w:{image}:i"]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=bed.environment)
    if done.returncode != 0:
        raise RuntimeError(f"avrdude failed:\n{done.stderr}")
    return time.monotonic() - begun


def ispd_s(contest: Contest, bed: Bed, image: Path, folder: Path) -> float:
    """Return the seconds of the same through the daemon, from the command line to the verdict."""
    options = ("--part", PART.id, "--lfuse", LFUSE, "--yes")
    ports = [bed.port]
    with running_daemon(folder, ports, programmer=contest.kind, environment=bed.environment) as (_daemon, socket):
        return flash_all(socket, image, *options)


def physics_s(size_bytes: int) -> float:
    """Return what writing and reading back takes at the fastest SCK the part follows, and nothing but that."""
    pages = math.ceil(size_bytes / PART.flash.page_bytes)
    return 2 * size_bytes * BITS / FASTEST_SCK_HZ + pages * PART.times.flash_s


def main() -> int:
    """Print the table; exit code 1 where an aim is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench programmers", description=__doc__)
    parser.add_argument("--bytes", type=int, default=28 * 1024, help="size of the image")
    parser.add_argument("--only", choices=[contest.name for contest in CONTESTS], help="only this programmer")
    options = parser.parse_args()
    table = []
    is_met = True
    for contest in CONTESTS:
        if options.only not in (None, contest.name):
            continue
        if contest.bed.func is usb and (missing := missing_packages()):
            table.append([contest.name, f"needs the Debian packages {missing}", "", "", "", ""])
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            image = write_image(folder, options.bytes)
            with contest.bed(folder) as bed:
                theirs = avrdude_s(contest, bed, image)
            with contest.bed(folder) as bed:
                ours = ispd_s(contest, bed, image, folder)
        is_met = is_met and ours / theirs <= contest.aim
        floor = physics_s(options.bytes)
        share = ours / theirs
        table.append(
            [contest.name, f"{theirs:.1f}", f"{ours:.1f}", f"{share:.2f}", f"{contest.aim:.2f}", f"{ours / floor:.1f}"]
        )
    print(f"{options.bytes} bytes to an ATmega32U4 at 16 MHz; physics alone: {physics_s(options.bytes):.1f} s\n")
    print(tabulated(("programmer", "avrdude s", "ispd s", "ratio", "aim", "x physics"), table))
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
