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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from _stand import emulated_boards, flash_all, running_daemon, tabulated, write_image

from ispd.catalog.parts import load_parts
from vbench.target import AvrTarget
from vbench.usb_device import UsbDevice
from vbench.usbasp import UsbAsp
from vbench.usbtiny import UsbTiny

sys.path.append(str(Path(__file__).parents[2]))
from tests.oracle.usb.bed import UsbBed, missing_packages

PART = load_parts().avr("atmega32u4")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A programmer by our and avrdude's name of its kind, and the share of avrdude's time that is aimed at.

    :param line: options of ``python -m vbench`` for a serial one.
    :param device: makes a USB one.
    """

    name: str
    kind: str
    aim: float
    line: Mapping[str, str] | None = None
    device: Callable[[AvrTarget], UsbDevice] | None = None


CONTESTS = (
    Contest(name="ArduinoISP, 19200 baud", kind="stk500v1", aim=0.88, line={"flavour": "uart"}),
    Contest(name="ArduinoISP, USB-native", kind="stk500v1", aim=0.83, line={"flavour": "leonardo"}),
    Contest(name="USBtinyISP", kind="usbtiny", aim=0.4, device=lambda target: UsbTiny(target=target)),
    Contest(name="USBasp", kind="usbasp", aim=0.6, device=lambda target: UsbAsp(target=target)),
    Contest(name="Bus Pirate v3", kind="buspirate", aim=0.2, line={"hardware": "v3"}),
)


@contextmanager
def bed_of(contest: Contest, folder: Path) -> Iterator[Bed]:
    """Give a programmer with a fresh board."""
    if contest.device is not None:
        with UsbBed({PLACE: contest.device(AvrTarget(PART))}, real_time=True) as bed:
            yield Bed(f"usb:{PLACE}", (), bed.environment)
        return
    baud = "19200" if contest.kind == "stk500v1" else "115200"
    with emulated_boards(folder, 1, kind=contest.kind, **(contest.line or {})) as (port,):
        yield Bed(str(port), ("-P", str(port), "-b", baud))


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
        if contest.device is not None and (missing := missing_packages()):
            table.append([contest.name, f"needs Debian's {missing}", "", "", "", "", ""])
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            image = write_image(folder, options.bytes)
            with bed_of(contest, folder) as bed:
                theirs = avrdude_s(contest, bed, image)
            with bed_of(contest, folder) as bed:
                ours = ispd_s(contest, bed, image, folder)
        is_met = is_met and ours / theirs <= contest.aim
        numbers = (theirs, ours), (ours / theirs, contest.aim), (ours / physics_s(options.bytes),)
        shown = [f"{value:.{digits}f}" for values, digits in zip(numbers, (1, 2, 1), strict=True) for value in values]
        table.append([contest.name, "umockdev" if contest.device else "pty", *shown])
    print(f"{options.bytes} bytes to an ATmega32U4 at 16 MHz; physics alone: {physics_s(options.bytes):.1f} s\n")
    print(tabulated(("programmer", "bed", "avrdude s", "ispd s", "ratio", "aim", "x physics"), table))
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
