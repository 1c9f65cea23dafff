"""What the daemon costs when nothing is to be done, and how fast the command line answers: eight slots, no job."""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _stand import emulated_boards, running_daemon, tabulated

SLOTS = 8
CPU_LIMIT_PERCENT = 1.0
MEMORY_LIMIT_MB = 60.0
ANSWER_LIMIT_MS = 150.0


def answer_ms(socket: Path, runs: int) -> float:
    """Return the median time of ``ispctl --json slots``, the interpreter's start included."""
    command = [str(Path(sys.executable).with_name("ispctl")), "--socket", str(socket), "--json", "slots"]
    times = []
    for _ in range(runs):
        begun = time.monotonic()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append((time.monotonic() - begun) * 1000)
    return statistics.median(times)


def main() -> int:
    """Print the table; exit code 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with emulated_boards(folder, SLOTS, flavour="uart") as ports, running_daemon(folder, ports) as (daemon, socket):
            before_s = daemon.cpu_s()
            time.sleep(options.seconds)
            cpu_percent = (daemon.cpu_s() - before_s) / options.seconds * 100
            memory_mb = daemon.memory_mb()
            answer = answer_ms(socket, options.runs)
    rows = [
        ("idle daemon, % of a core", cpu_percent, CPU_LIMIT_PERCENT),
        ("idle daemon, MB", memory_mb, MEMORY_LIMIT_MB),
        ("ispctl --json slots, ms", answer, ANSWER_LIMIT_MS),
    ]
    print(
        tabulated(
            ("measure", "found", "limit"), [(name, f"{value:.1f}", f"{limit:.0f}") for name, value, limit in rows]
        )
    )
    return int(any(value > limit for _, value, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
