"""What the daemon tells systemd and takes from it: against real sockets, as systemd's manual pages describe them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from ispd.app import feed_watchdog
from ispd.service import ServiceManager, inherited_socket
from vbench.virtual_time import run_virtual


@pytest.fixture
def manager_socket(tmp_path: Path) -> socket.socket:
    """Return a socket that listens as systemd's does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.setblocking(False)
    return listener


def told(listener: socket.socket) -> list[str]:
    """Return what has been told so far."""
    lines = []
    while True:
        try:
            lines.append(listener.recv(4096).decode())
        except BlockingIOError:
            return lines


def test_the_manager_is_told_what_happens(tmp_path: Path, manager_socket: socket.socket) -> None:
    with manager_socket:
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.watchdog_s is None
        manager.ready()
        manager.status("8 slots")
        manager.alive()
        manager.stopping()
        assert told(manager_socket) == ["READY=1", "STATUS=8 slots", "WATCHDOG=1", "STOPPING=1"]


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0ispd-test-{os.getpid()}")
        ServiceManager({"NOTIFY_SOCKET": f"@ispd-test-{os.getpid()}"}).ready()
        listener.settimeout(5)
        assert listener.recv(64) == b"READY=1"


def test_without_a_manager_and_with_one_that_is_gone_the_work_goes_on(tmp_path: Path) -> None:
    ServiceManager({}).ready()
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


@pytest.mark.parametrize(
    ("environ", "patience_s"),
    [
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "500000"}, 0.5),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_meant_for_this_process_or_off(environ: dict[str, str], patience_s: float | None) -> None:
    assert ServiceManager(environ).watchdog_s == patience_s


class Work:
    """Stands for the station: makes progress, until something hangs."""

    def __init__(self) -> None:
        self.answers = True
        self.hangs = False

    async def is_making_progress(self) -> bool:
        if self.hangs:
            await anyio.sleep_forever()
        return self.answers


@pytest.mark.parametrize("trouble", ["answers", "hangs"])
def test_the_watchdog_is_fed_while_there_is_progress_and_no_longer(
    tmp_path: Path, manager_socket: socket.socket, trouble: str
) -> None:
    work = Work()
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})

    async def shift() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed_watchdog, work, manager)
            await anyio.sleep(59)
            assert told(manager_socket) == ["WATCHDOG=1"] * 3
            setattr(work, trouble, trouble == "hangs")
            await anyio.sleep(600)
            assert told(manager_socket) == []
            tasks.cancel_scope.cancel()

    with manager_socket:
        run_virtual(shift)


TAKER = """
import os, sys
from ispd.service import inherited_socket
os.environ["LISTEN_PID"] = str(os.getpid())
found = inherited_socket()
print(None if found is None else found.getsockname(), None if found is None else os.get_inheritable(found.fileno()))
"""


def test_a_socket_that_listened_before_us_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "api.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        command = f"exec {sys.executable} -c '{TAKER}' 3<&{listener.fileno()}"
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "LISTEN_FDS": "1"},
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == [path, "False"]


def test_sockets_for_another_process_are_left_alone() -> None:
    assert inherited_socket({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    assert inherited_socket({}) is None
