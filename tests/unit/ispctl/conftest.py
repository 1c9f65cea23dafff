"""A fake station behind a real socket, and the command as a process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.surfaces.fake_station import ServedStation, served

DEADLINE_S = 30
ROOT = Path(__file__).parents[3]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServedStation]:
    with served(tmp_path / "ispd.sock") as server:
        yield server


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'clients'}",
        "ISPD_SOCKET": str(tmp_path / "ispd.sock"),
        "COLUMNS": "200",
    }


@pytest.fixture
def command() -> list[str]:
    return [sys.executable, "-m", "ispctl"]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str], command: list[str]) -> Run:
    """Return a function that runs ``ispctl`` in the test's folder, without a terminal."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=DEADLINE_S,
            check=False,
        )

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "board.bin"
    path.write_bytes(b"\x0c\x94\x01\x00" * 8)
    return path
