"""One board beside unmodified avrdude: the whole session, on the same emulated ArduinoISP, in one run.

Twice: at 19200 baud, where the line is the limit, and on a USB-native board, where it is none.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _stand import emulated_boards, flash_all, running_daemon, tabulated, write_image

BEDS = (
    # name, flavour, bytes, limit
    ("19200 baud", "uart", 28 * 1024, 0.88),
    ("USB-native", "leonardo", 8 * 1024, 0.83),
)


def avrdude_s(port: Path, image: Path) -> float:
    """Return the seconds avrdude takes to erase, write and verify the image. Raises ``RuntimeError`` where it fails."""
    begun = time.monotonic()
    command = ["avrdude", "-c", "stk500v1", "-p", "m32u4", "-P", str(port), "-b", "19200", "-U", f"flash:w:{image}:i"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"avrdude failed:\n{done.stderr}")
    return time.monotonic() - begun


def ispd_s(folder: Path, port: Path, image: Path) -> float:
    """Return the seconds of the same through the daemon, from the command line to the verdict."""
    with running_daemon(folder, [port]) as (_daemon, socket):
        return flash_all(socket, image)


def main() -> int:
    """Print the table; exit code 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench avrdude", description=__doc__)
    parser.add_argument("--bed", choices=[bed[0] for bed in BEDS], help="only this one")
    options = parser.parse_args()
    table = []
    is_met = True
    for name, flavour, size, limit in BEDS:
        if options.bed not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            image = write_image(folder, size)
            with emulated_boards(folder, 1, flavour=flavour) as (port,):
                theirs = avrdude_s(port, image)
                ours = ispd_s(folder, port, image)
        is_met = is_met and ours / theirs <= limit
        table.append([name, size, f"{theirs:.1f}", f"{ours:.1f}", f"{ours / theirs:.3f}", f"{limit:.2f}"])
    print(tabulated(("line", "bytes", "avrdude s", "ispd s", "ratio", "limit"), table))
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
