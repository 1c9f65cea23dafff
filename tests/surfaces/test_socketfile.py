"""The socket file: there only when usable, one daemon at a time, gone afterwards."""

import fcntl
import os
import socket
import stat
from pathlib import Path

import anyio
import pytest
from tests.surfaces.fake_station import FakeStation

from ispd.errors import ConfigError
from ispd.surfaces.jsonrpc import serve_jsonrpc
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


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_its_mode_does_not_depend_on_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        with listen(tmp_path / "s"):
            modes = {entry.name: stat.S_IMODE(entry.lstat().st_mode) for entry in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes["s"] == 0o660
    assert modes["s.lock"] & 0o177 == 0


@pytest.mark.parametrize("target", ["victim", "nowhere", "other.sock"])
def test_a_link_in_its_place_is_left_alone(tmp_path: Path, target: str):
    (tmp_path / "victim").write_text("precious")
    path = tmp_path / "ispd.sock"
    path.symlink_to(target)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other.sock"))  # dead: it could be replaced, were it not a link
        with pytest.raises(ConfigError, match="not a socket"), listen(path):
            pass
    assert path.is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_what_stands_in_the_place_of_its_lock_is_not_written_to(tmp_path: Path, kind: str):
    lock = tmp_path / "ispd.sock.lock"
    (tmp_path / "victim").write_text("precious")
    match kind:
        case "link":
            lock.symlink_to("victim")
        case "dangling":
            lock.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(lock)
    if kind == "pipe":
        with listen(tmp_path / "ispd.sock"):  # serves as a lock as well as a file does
            assert connects(tmp_path / "ispd.sock")
    else:
        with pytest.raises(ConfigError, match="no socket can be made"), listen(tmp_path / "ispd.sock"):
            pass
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_link_where_it_is_made_is_not_followed(tmp_path: Path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / f".ispd.sock.{os.getpid()}").symlink_to("victim")
    with listen(tmp_path / "ispd.sock"):
        assert connects(tmp_path / "ispd.sock")
        assert not (tmp_path / "ispd.sock").is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ispd.sock.lock", "victim"]


@pytest.mark.anyio
async def test_a_socket_of_the_service_managers_stays_as_it_is(tmp_path: Path):
    path = tmp_path / "ispd.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o640)
        listening.listen()
        before = path.lstat()
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_jsonrpc, listening, FakeStation())
            assert connects(path)
            tasks.cancel_scope.cancel()
        after = path.lstat()
    kept = ("st_ino", "st_mode", "st_uid", "st_gid")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert not path.with_name("ispd.sock.lock").exists()
