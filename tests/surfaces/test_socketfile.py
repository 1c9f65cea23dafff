"""The socket file: there only when usable, one daemon at a time, gone afterwards."""

import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from ispd.errors import ConfigError
from ispd.surfaces.jsonrpc.socketfile import listen


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_it_is_for_owner_and_group_and_goes_with_the_daemon(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    before = os.umask(0o077)
    try:
        with listen(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert connects(path)
    finally:
        os.umask(before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["ispd.sock.lock"]


def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    assert not connects(path)
    with listen(path):
        assert connects(path)


def test_the_socket_of_a_living_daemon_is_left_alone(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    with listen(path):
        with pytest.raises(ConfigError, match="another ispd"), listen(path):
            pass
        assert connects(path)


def test_of_two_daemons_started_at_once_one_goes_on(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    with (tmp_path / "ispd.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other one, before its socket is there
        with pytest.raises(ConfigError, match="another ispd"), listen(path):
            pass
    with listen(path):
        assert connects(path)


def test_a_socket_served_by_something_else_is_left_alone(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ConfigError, match="another ispd"), listen(path):
            pass
        assert connects(path)


def test_a_file_is_never_replaced(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"), listen(path):
        pass
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/ispd.sock", "x" * 120])
def test_an_impossible_place_is_said(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="no socket can be made"), listen(tmp_path / name):
        pass


def test_what_took_the_place_meanwhile_is_not_removed(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    with listen(path):
        path.unlink()
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
