"""Who may use the station. What refuses here is the code: the socket is open to all, and the parameters are right."""

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.surfaces.fake_station import FakeStation, served
from tests.surfaces.strangers import NOBODY, command_as, needs_root, run_as

from ispctl.client import Client
from ispctl.errors import RpcError
from ispd.api.call import Call, Peer
from ispd.api.declare import Privilege
from ispd.api.handlers import load_handlers
from ispd.api.methods import METHODS
from ispd.surfaces.access import Operators, groups_of_user, socket_group
from ispd.surfaces.jsonrpc.dispatch import Dispatcher

ROOT = Path(__file__).parents[2]
GROUP = 4242
OWNER, MEMBER, STRANGER = 900, 1000, 1001

_FILE = {"name": "a.bin", "content": base64.b64encode(b"\x0c\x94\x01\x00").decode()}
REQUESTS: dict[str, dict[str, Any]] = {
    "job.enqueue": {"images": [_FILE], "part": "atmega32u4"},
    "job.list": {},
    "job.get": {"id": 1},
    "job.cancel": {"id": 1},
    "job.pause": {"id": 1},
    "job.resume": {"id": 1},
    "unit.list": {},
    "unit.get": {"id": 1},
    "slot.list": {},
    "slot.get": {"name": "A1"},
    "slot.set": {"name": "A1", "action": "disable"},
    "slot.probe": {"name": "A1"},
    "slot.read": {"name": "A1", "memory": "flash"},
    "slot.learn": {"name": "A1"},
    "slot.rescue": {"name": "A1"},
    "programmer.list": {},
    "part.list": {},
    "part.get": {"id": "atmega32u4"},
    "bootloader.list": {},
    "image.inspect": {"image": _FILE},
    "image.merge": {"images": [_FILE, _FILE]},
    "station.get": {},
    "events.subscribe": {},
    "events.unsubscribe": {},
    "rpc.discover": {},
}
"""A request of each method that a member gets an answer to, or an error about the job it names."""


class Session:
    """A connection nobody may subscribe on."""

    subscribed = False

    def subscribe(self) -> int:
        self.subscribed = True
        return 0

    def unsubscribe(self) -> None:
        self.subscribed = False


class Untouchable(FakeStation):
    """A station that notices whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            raise AssertionError(f"{name} was asked for")
        return super().__getattribute__(name)


def operators(**given: Any) -> Operators:
    groups = {MEMBER: frozenset({100, GROUP}), STRANGER: frozenset({100})}
    return Operators(GROUP, owner=OWNER, groups_of=lambda uid: groups.get(uid, frozenset()), **given)


async def ask(station: FakeStation, peer: Peer, method: str) -> tuple[dict[str, Any], Session]:
    session = Session()
    call = Call(station=station, session=session, peer=peer, allows=operators(), workers=anyio.CapacityLimiter(1))
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": REQUESTS[method]}
    answer = await Dispatcher(load_handlers()).answer(json.dumps(message).encode(), call, anyio.Semaphore(1))
    assert answer is not None
    decoded: dict[str, Any] = msgspec.json.decode(answer)
    return decoded, session


def test_every_method_is_in_the_table():
    assert REQUESTS.keys() == METHODS.keys()


@pytest.mark.anyio
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "peer",
    [
        Peer(uid=STRANGER, gid=100, pid=1),
        Peer(uid=777, gid=777, pid=1),
        Peer(uid=None, gid=GROUP),
        Peer(),
        Peer(uid=2**32 - 1, gid=2**32 - 1),
    ],
    ids=["stranger", "unknown", "no uid", "nothing known", "minus one"],
)
async def test_others_are_refused_before_anything_is_asked_of_the_station(method: str, peer: Peer):
    answer, session = await ask(Untouchable(), peer, method)
    assert (answer["error"]["code"], answer["error"]["data"]["code"]) == (1403, "not-allowed")
    assert "result" not in answer
    assert not session.subscribed


@pytest.mark.anyio
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "peer",
    [Peer(uid=0, gid=0), Peer(uid=OWNER, gid=OWNER), Peer(uid=MEMBER, gid=100), Peer(uid=STRANGER, gid=GROUP)],
    ids=["root", "daemon", "member", "newgrp"],
)
async def test_operators_are_not(method: str, peer: Peer):
    station = FakeStation()
    station.enqueue_open()
    answer, _ = await ask(station, peer, method)
    if method == "unit.get":
        assert answer["error"]["data"]["code"] == "unknown-unit"  # it was looked for
    else:
        assert "result" in answer, answer


@pytest.mark.anyio
@pytest.mark.parametrize("privilege", Privilege)
async def test_what_each_may(privilege: Privilege):
    allows = operators()
    assert await allows(Peer(uid=0), privilege)
    assert await allows(Peer(uid=OWNER), privilege)
    assert await allows(Peer(uid=MEMBER), privilege) is (privilege is not Privilege.CONFIGURE)
    assert await allows(Peer(uid=STRANGER, gid=GROUP), privilege) is (privilege is not Privilege.CONFIGURE)
    assert not await allows(Peer(uid=STRANGER), privilege)


@pytest.mark.anyio
async def test_without_a_group_only_root_and_the_daemon_are_served():
    allows = Operators(None, owner=OWNER, groups_of=lambda _: frozenset({0, 100, GROUP}))
    let_in = [await allows(Peer(uid=uid, gid=GROUP), Privilege.VIEW) for uid in (0, OWNER, MEMBER)]
    assert let_in == [True, True, False]


@pytest.mark.anyio
async def test_who_joins_or_leaves_the_group_is_known_soon_and_asked_about_seldom():
    now, groups, asked = [0.0], {MEMBER: frozenset({GROUP})}, []

    def groups_of(uid: int) -> frozenset[int]:
        asked.append(uid)
        return groups.get(uid, frozenset())

    allows = Operators(lambda: GROUP, owner=OWNER, groups_of=groups_of, now=lambda: now[0])
    member = Peer(uid=MEMBER)
    assert [await allows(member, Privilege.VIEW) for _ in range(100)] == [True] * 100
    assert asked == [MEMBER]
    groups.clear()
    now[0] = 5.0
    assert not await allows(member, Privilege.VIEW)
    for uid in range(1000, 3000):  # many users cost no memory for ever
        assert not await allows(Peer(uid=uid), Privilege.VIEW)
    assert len(allows._known) <= 256


@pytest.mark.anyio
async def test_accounts_that_take_for_ever_keep_neither_others_nor_the_daemons_stop():
    """Users of a network come from a server; while it hangs, those who need no answer of its are served."""
    hangs, asked, told = threading.Event(), threading.Semaphore(0), []

    def groups_of(uid: int) -> frozenset[int]:
        asked.release()
        hangs.wait(60)
        return frozenset({GROUP})

    allows = Operators(GROUP, owner=OWNER, groups_of=groups_of)

    async def ask_for(uid: int) -> None:
        told.append(await allows(Peer(uid=uid), Privilege.VIEW))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for uid in range(1000, 1010):
                tasks.start_soon(ask_for, uid)
            assert await anyio.to_thread.run_sync(asked.acquire)
            assert await allows(Peer(uid=0), Privilege.VIEW)
            assert await allows(Peer(uid=STRANGER, gid=GROUP), Privilege.VIEW)
            assert told == []
            tasks.cancel_scope.cancel()  # the daemon stops
        hangs.set()
        await ask_for(MEMBER)  # the server is back
    assert told == [True]


def test_groups_come_from_the_systems_databases():
    assert os.getgid() in groups_of_user(os.getuid()) or os.getuid() == 0
    assert 0 in groups_of_user(0)
    assert groups_of_user(2**31 - 7) == frozenset()


def test_the_group_of_a_socket(tmp_path: Path):
    path = tmp_path / "s"
    assert socket_group(path) is None
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as abstract:
        assert socket_group(listening) is None
        listening.bind(str(path))
        if os.geteuid() == 0:
            os.chown(path, 0, GROUP)  # as the service manager would, SocketGroup=
            assert socket_group(listening) == GROUP
        assert socket_group(path) == socket_group(listening) == path.stat().st_gid
        abstract.bind("\0ispd-test-" + str(os.getpid()))
        assert socket_group(abstract) is None


# -- the same with a real user outside the group, over a real socket


@pytest.fixture
def open_socket() -> Iterator[Path]:
    """Serve, to anybody who cares to connect, as far as modes go."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "ispd.sock"
        with served(path):
            path.chmod(0o666)
            yield path


_ASK_ALL = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
lines = connection.makefile("rw")
for method, params in json.loads(sys.argv[2]).items():
    lines.write(json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params}) + "\\n")
    lines.flush()
    answer = json.loads(lines.readline())
    print(method, answer.get("error", {}).get("data", {}).get("code", "answered"))
"""


def ask_as(uid: int, gid: int, path: Path, *groups: int) -> dict[str, str]:
    command = [sys.executable, "-I", "-c", _ASK_ALL, str(path), json.dumps(REQUESTS)]
    done = run_as(uid, gid, command, groups=groups)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ") for line in done.stdout.splitlines())


@needs_root
def test_a_user_outside_the_group_is_refused_every_method(open_socket: Path):
    assert ask_as(NOBODY, NOBODY, open_socket) == dict.fromkeys(METHODS, "not-allowed")
    # a process that root gave the group's id to is in the group; what it asks about jobs that are not there fails later
    assert "not-allowed" not in ask_as(NOBODY, os.getegid(), open_socket).values()


@needs_root
def test_the_command_ends_with_not_allowed(open_socket: Path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'clients'}", "HOME": "/nonexistent"}
    command = [sys.executable, "-m", "ispctl", "--socket", str(open_socket)]
    for verb in (["slots"], ["--json", "jobs"], ["slot", "A1", "disable"], ["watch"]):
        done = run_as(NOBODY, NOBODY, [*command, *verb], environment=environment)
        assert (done.returncode, done.stdout) == (4, ""), done
    open_socket.chmod(0o660)
    done = run_as(NOBODY, NOBODY, [*command, "slots"], environment=environment)
    assert (done.returncode, done.stdout) == (4, "")
    assert "you may not use" in done.stderr


@needs_root
def test_a_socket_that_is_given_to_a_group_admits_its_members(open_socket: Path):
    os.chown(open_socket, 0, GROUP)
    assert "not-allowed" not in ask_as(NOBODY, GROUP, open_socket).values()
    assert ask_as(NOBODY, NOBODY, open_socket) == dict.fromkeys(METHODS, "not-allowed")


_HOLD_MANY = """
import socket, sys
held = []
for _ in range(100):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@needs_root
def test_what_one_user_leaves_open_keeps_no_other_out(open_socket: Path):
    command = command_as(NOBODY, NOBODY, [sys.executable, "-I", "-c", _HOLD_MANY, str(open_socket)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        clients = [Client(open_socket) for _ in range(20)]
        for client in clients:
            with client:
                assert client.call("job.list") == []
        holder.communicate()


def test_a_client_too_many_is_told_so_even_if_it_speaks_only_when_the_daemon_has_hung_up(tmp_path: Path):
    with served(tmp_path / "s"), ExitStack() as held:
        clients = [held.enter_context(Client(tmp_path / "s")) for _ in range(34)]
        clients[0].call("job.list")
        with pytest.raises(RpcError, match="serves 32 connections of one user at once") as caught:
            clients[-1].call("job.list")
        assert (caught.value.code, clients[1].call("job.list")) == ("too-many-clients", [])
