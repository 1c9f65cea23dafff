"""The daemon itself, as a process with a careless umask: its files are tight, and a stranger gets nothing from it."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.surfaces.strangers import NOBODY, needs_root, run_as
from tests.surfaces.test_access import ROOT, ask_as

from ispctl.client import Client
from ispd.api.methods import METHODS

DEADLINE_S = 30
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'clients'}"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every user reaches."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def daemon(folder: Path) -> Iterator[Path]:
    """Run the daemon with umask 0 and return its socket."""
    path = folder / "ispd.sock"
    config = folder / "ispd.toml"
    config.write_text(
        f'[daemon]\nsocket = "{path}"\nstate_dir = "{folder / "deep" / "state"}"\n[hotplug]\nudev = false\n'
    )
    command = [sys.executable, "-m", "ispd", "--config", str(config)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, umask=0, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not connects(path):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)
        yield path
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_every_file_of_the_daemon_is_tight(daemon: Path):
    with Client(daemon) as client:
        client.call("station.get")
    state = daemon.parent / "deep" / "state"
    assert mode(daemon) == 0o660
    assert mode(daemon.with_name("ispd.sock.lock")) == 0o600
    assert [mode(place) for place in (state.parent, state)] == [0o700, 0o700]
    assert {mode(path) for path in state.iterdir()} == {0o600}
    assert {path.name for path in state.iterdir()} >= {"journal.db", "journal.db-wal", "journal.db.lock"}


@needs_root
def test_a_stranger_is_refused_by_the_daemon_itself(daemon: Path):
    command = [sys.executable, "-m", "ispctl", "--socket", str(daemon)]
    for verb in ("slots", "jobs", "doctor"):
        done = run_as(NOBODY, NOBODY, [*command, verb], environment=ENVIRONMENT)
        assert done.returncode == (1 if verb == "doctor" else 4), done
    daemon.chmod(0o666)
    assert ask_as(NOBODY, NOBODY, daemon) == dict.fromkeys(METHODS, "not-allowed")
