"""A full bench takes no longer than one board: the benchmark's virtual half, with its limit."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "scripts/benchmarks/gang.py"


def test_32_boards_take_no_longer_than_one() -> None:
    options = ["--bed", "virtual", "--virtual-slots", "32", "--image-bytes", "2048"]
    done = subprocess.run(
        [sys.executable, BENCHMARK, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one, many = (line.split() for line in done.stdout.splitlines()[-2:])
    assert (one[2], many[2]) == ("1", "32")
    assert float(one[3]) > 1.0, "virtual seconds of a real session"
    assert float(many[4]) <= 1.05
