"""Who may use the station over D-Bus: by the daemon, by polkit, and by the policy of the bus."""

import itertools
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from dbus_fast import Message
from tests.surfaces.dbus import bed
from tests.surfaces.dbus.bed import connected, needs_bus, private_bus, served
from tests.surfaces.fake_station import SLOTS
from tests.surfaces.strangers import NOBODY, needs_root, run_as

from ispd.api.declare import Privilege
from ispd.api.methods import METHODS
from ispd.errors import ErrorCode
from ispd.surfaces.dbus import server
from ispd.surfaces.dbus.authority import ACTIONS, Authority
from ispd.surfaces.dbus.members import manager_members, object_kinds
from ispd.surfaces.dbus.names import BUS_NAME, MANAGER, ROOT, error_name

pytestmark = [needs_bus, pytest.mark.anyio]

_ZERO = {"s": "x", "x": 1, "a{sv}": {}, "aa{sv}": []}

_STRANGER = """
import asyncio, json, sys
from dbus_fast import BusType, Message
from dbus_fast.aio import MessageBus

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    answers = {}
    dbus = "org.freedesktop.DBus"
    heard = asyncio.Event()
    bus.add_message_handler(lambda message: heard.set() if message.member == "PropertiesChanged" else None)
    await bus.call(Message(destination=dbus, path="/org/freedesktop/DBus", interface=dbus, member="AddMatch",
                           signature="s", body=["type='signal',sender='org.ispd.Station1'"]))
    owner = (await bus.call(Message(destination=dbus, path="/org/freedesktop/DBus", interface=dbus, member="GetNameOwner",
                                    signature="s", body=["org.ispd.Station1"]))).body[0]
    for name, path, interface, member, signature, body in json.load(open(sys.argv[1])):
        to = owner if name.startswith("unique ") else "org.ispd.Station1"
        reply = await bus.call(Message(destination=to, path=path, interface=interface, member=member, signature=signature,
                                       body=body))
        answers[name] = reply.error_name
    if "seen" in answers:
        try:
            await asyncio.wait_for(heard.wait(), 2)
            answers["signals"] = "heard"
        except asyncio.TimeoutError:
            answers["signals"] = None
    print(json.dumps(answers))

asyncio.run(main())
"""


def every_call(folder: Path, *more: tuple[Any, ...]) -> tuple[Path, int]:
    """Write down a call of every method, of a slot's own methods, and some more; return the file and their number."""
    calls = list(more)
    for member in manager_members():
        signature = "".join(kind for _, kind in member.inputs)
        body = [_ZERO[kind] for _, kind in member.inputs]
        calls.append((member.method.name, ROOT, f"{BUS_NAME}.{MANAGER}", member.name, signature, body))
    for member in object_kinds()["slot"].members:
        body = [_ZERO[kind] for _, kind in member.inputs]
        signature = "".join(kind for _, kind in member.inputs)
        calls.append((f"Slot.{member.name}", f"{ROOT}/slots/A1", f"{BUS_NAME}.Slot", member.name, signature, body))
    (folder / "calls.json").write_text(json.dumps(calls))
    return folder / "calls.json", len(calls)


@needs_root
async def test_a_stranger_is_refused_for_every_method_by_the_daemon_itself(bus, tmp_path: Path):
    calls, count = every_call(tmp_path)
    async with served():
        answers = await anyio.to_thread.run_sync(ask_all, NOBODY, (), calls)
    assert len(answers) == count >= len(METHODS) + 4
    assert set(answers.values()) == {error_name(ErrorCode.NOT_ALLOWED)}


@needs_root
async def test_a_member_of_the_group_is_let_in_for_every_method(bus, tmp_path: Path):
    calls, count = every_call(tmp_path)
    async with served(decide=lambda asked: Authority(asked, group=4242)):
        answers = await anyio.to_thread.run_sync(ask_all, NOBODY, (4242,), calls)
    assert len(answers) == count
    assert error_name(ErrorCode.NOT_ALLOWED) not in answers.values()
    assert answers["slot.list"] is None


def ask_all(uid: int, groups: tuple[int, ...], calls: Path) -> dict[str, str | None]:
    done = run_as(uid, uid, [sys.executable, "-c", _STRANGER, str(calls)], groups=groups)
    assert done.returncode == 0, done.stderr
    answers: dict[str, str | None] = json.loads(done.stdout)
    return answers


class Told:
    """A bus that tells what a test wants it to."""

    def __init__(self, credentials: dict[str, Any] | None, verdict: Any = None) -> None:
        self._credentials = credentials
        self._verdict = verdict
        self.actions: list[str] = []

    async def ask(self, *asked: Any, within_s: float | None = None) -> tuple[Any, ...]:
        _, _, _, member, _, *arguments = asked
        if member == "GetConnectionCredentials":
            if self._credentials is None:
                raise TimeoutError
            return ({key: ("x", value) for key, value in self._credentials.items()},)
        assert within_s is not None, "polkitd may have to be started first"
        self.actions.append(arguments[1])
        if isinstance(self._verdict, Exception):
            raise self._verdict
        return (self._verdict,)


OTHER = 1
"""User ``daemon`` (Debian base-passwd)."""

STRANGER = {"UnixUserID": 1000, "UnixGroupIDs": [1000], "ProcessID": 77}


@pytest.mark.parametrize(
    ("credentials", "polkit", "is_allowed", "is_asked"),
    [
        ({"UnixUserID": 0}, None, True, False),
        ({"UnixUserID": 500}, None, True, False),
        ({**STRANGER, "UnixGroupIDs": [1000, 44]}, None, True, False),
        (STRANGER, (True, False, {}), True, True),
        (STRANGER, (False, False, {}), False, True),
        (STRANGER, (False, True, {}), False, True),  # a dialogue would be needed
        (STRANGER, (1, False, {}), False, True),
        (STRANGER, (), False, True),
        (STRANGER, OSError("no such action"), False, True),
        (STRANGER, TimeoutError(), False, True),
        ({"ProcessID": 77}, (True, False, {}), False, False),
        (None, (True, False, {}), False, False),
    ],
)
async def test_group_first_then_polkit_and_every_doubt_means_no(
    credentials: dict[str, Any] | None, polkit: Any, is_allowed: bool, is_asked: bool
):
    for method in METHODS.values():
        told = Told(credentials, polkit)
        authority = Authority(told, group=44, owner=500)
        caller = await authority.caller(":1.7")
        assert await authority.allows(":1.7", caller, method.privilege) is is_allowed
        assert told.actions == (["org.ispd.station1.operate"] if is_asked else [])


class Polkit:
    """The part of polkitd that is asked; it says what it is told to."""

    def __init__(self) -> None:
        self.says = False
        self.asked: set[tuple[Any, ...]] = set()

    def __call__(self, message: Message) -> Message | None:
        if message.member != "CheckAuthorization":
            return None
        (kind, subject), action, _, flags, _ = message.body
        self.asked.add((kind, subject["name"].value, action, flags))
        return Message.new_method_return(message, "(bba{ss})", [[self.says, False, {}]])


@needs_root
async def test_polkit_decides_about_those_outside_the_group(bus, tmp_path: Path):
    calls, count = every_call(tmp_path)
    polkit = Polkit()
    async with served(), connected() as client:
        client.bus.add_message_handler(polkit)
        await client.bus.request_name("org.freedesktop.PolicyKit1")
        refused = await anyio.to_thread.run_sync(ask_all, NOBODY, (), calls)
        polkit.says = True
        let_in = await anyio.to_thread.run_sync(ask_all, NOBODY, (), calls)
    assert set(refused.values()) == {error_name(ErrorCode.NOT_ALLOWED)}
    assert len(refused) == len(let_in) == count
    assert error_name(ErrorCode.NOT_ALLOWED) not in let_in.values()
    assert {(kind, action, flags) for kind, _, action, flags in polkit.asked} == {
        ("system-bus-name", "org.ispd.station1.operate", 0)
    }
    assert len({name for _, name, _, _ in polkit.asked}) == 2


async def test_the_actions_that_are_asked_for_are_those_that_polkit_is_told_of():
    told = re.findall(r'<action id="([^"]+)">', bed.POLICY_FILE.with_suffix(".policy").read_text())
    assert set(told) == set(ACTIONS.values())
    assert set(ACTIONS) == set(Privilege)


SYSTEM_POLICY = """
  <policy context="default">
    <allow user="*"/> <deny own="*"/> <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/> <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/> <allow receive_type="method_return"/>
    <allow receive_type="error"/> <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>"""
"""What dbus-daemon's own system.conf says (D-Bus 1.14)."""

BUS_CALLS: list[tuple[Any, ...]] = [
    ("objects", ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", "", []),
    ("all", f"{ROOT}/slots/A1", "org.freedesktop.DBus.Properties", "GetAll", "s", [f"{BUS_NAME}.Slot"]),
    ("one", ROOT, "org.freedesktop.DBus.Properties", "Get", "ss", [f"{BUS_NAME}.{MANAGER}", "StateDir"]),
]
BUS_CALLS += [(f"unique {name}", *call) for name, *call in BUS_CALLS]
"""The same to the connection's unique name, which everybody may ask the bus for."""
SEEN: list[tuple[Any, ...]] = [("seen", ROOT, "org.freedesktop.DBus.Introspectable", "Introspect", "", [])]


async def stays_on_the_bus() -> bool:
    """Tell whether the station has the same connection after it has looked at it for a while."""
    async with connected() as client:
        owner = await client.owner()
        looks = 3 * server._PING_EVERY * server._LOOK_S
        await anyio.sleep(looks)
        return owner is not None and owner == await client.owner()


@needs_root
async def test_the_policy_file_lets_the_group_in_and_strangers_only_see_that_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server, "_LOOK_S", 0.02)
    calls, count = every_call(tmp_path, *BUS_CALLS, *SEEN)
    text = bed.POLICY_FILE.read_text()
    text = text[text.index("<busconfig>") + len("<busconfig>") : text.index("</busconfig>")]
    # the bus looks groups up in the system's database, where nobody has one
    text = text.replace('user="ispd"', f'user="{os.getuid()}"').replace('group="ispd"', f'group="{NOBODY}"')
    with private_bus(tmp_path, monkeypatch, SYSTEM_POLICY + text):
        allowed = served(decide=lambda asked: Authority(asked, group=NOBODY))
        async with allowed as station, anyio.create_task_group() as tasks:

            async def publish() -> None:
                for number in itertools.count():
                    station.events.publish(replace(SLOTS[0], bytes_done=number))
                    await anyio.sleep(0.02)

            tasks.start_soon(publish)
            assert await stays_on_the_bus()
            denied = await anyio.to_thread.run_sync(ask_all, OTHER, (), calls)
            let_in = await anyio.to_thread.run_sync(ask_all, NOBODY, (), calls)
            tasks.cancel_scope.cancel()
    assert denied.pop("seen") is None
    assert (denied.pop("signals"), let_in.pop("signals")) == (None, "heard")
    assert set(denied.values()) == {"org.freedesktop.DBus.Error.AccessDenied"}
    assert (len(denied), len(let_in)) == (count - 1, count)
    assert "org.freedesktop.DBus.Error.AccessDenied" not in let_in.values()
