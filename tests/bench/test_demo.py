"""The demonstration as a newcomer runs it: from enqueue to the table of units, with both accidents named."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv").is_dir(), reason="scripts/demo would set up an environment of its own first")
def test_the_demo_ends_with_six_boards_passed_and_two_failures_explained() -> None:
    done = subprocess.run([ROOT / "scripts/demo"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("6 of 8 boards passed; the daemon stopped cleanly.\n")
    table = done.stdout.partition("the records")[2]
    assert table.count(" passed ") == 6
    assert "on slot A8: failed: verify-mismatch" in table
    assert "flash at 0x0A31 reads 0xBE instead of 0xB6" in table
    assert "on slot A7: interrupted: link-closed" in table
    assert table.count("hint: ") == 2
