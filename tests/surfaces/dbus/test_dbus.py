"""The D-Bus surface over a fake station, on a bus of its own."""

import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from dbus_fast import Message, Variant
from tests.surfaces.dbus import bed
from tests.surfaces.dbus.bed import DbusError, connected, file_argument, needs_bus, private_bus
from tests.surfaces.fake_station import SLOTS, FakeStation
from tests.surfaces.strangers import NOBODY, needs_root, run_as

from ispd.api.declare import Privilege
from ispd.api.methods import METHODS
from ispd.catalog.imagefile import MAX_FILE_BYTES
from ispd.errors import ErrorCode
from ispd.model.job import JobState
from ispd.model.station import Programmer, Slot, SlotState
from ispd.surfaces.dbus import Bus, serve_dbus
from ispd.surfaces.dbus.authority import ACTIONS, Authority
from ispd.surfaces.dbus.members import manager_members, object_kinds
from ispd.surfaces.dbus.names import BUS_NAME, MANAGER, ROOT, error_name
from ispd.surfaces.dbus.objects import AT_MOST

pytestmark = [needs_bus, pytest.mark.anyio]

HEX = b":0400000001020304F2\n:00000001FF\n"
INVALID = error_name(ErrorCode.INVALID_PARAMETER)


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bed.PrivateBus]:
    with private_bus(tmp_path, monkeypatch) as started:
        yield started


@asynccontextmanager
async def served(station: FakeStation | None = None, **options: Any) -> AsyncIterator[FakeStation]:
    station = station or FakeStation()
    async with anyio.create_task_group() as tasks:

        async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            await serve_dbus(Bus.SYSTEM, station, task_status=task_status, **options)

        await tasks.start(run)
        yield station
        tasks.cancel_scope.cancel()


class TalkativeStation(FakeStation):
    """Fails with a text that nobody should see, once it has a secret."""

    secret = ""

    def programmers(self) -> list[Programmer]:
        if self.secret:
            raise RuntimeError(f"password is {self.secret}")
        return super().programmers()


async def fails_with(code: ErrorCode, call: Any) -> str:
    with pytest.raises(DbusError) as caught:
        await call
    assert caught.value.name == error_name(code)
    return caught.value.text


async def test_every_declared_method_is_on_the_manager_and_on_its_objects(bus):
    async with served(), connected() as client:
        described = await client.bus.introspect(BUS_NAME, ROOT)
        (manager,) = (one for one in described.interfaces if one.name == f"{BUS_NAME}.{MANAGER}")
        assert len(manager.methods) == len(METHODS)
        assert [
            (one.name, "".join(str(arg.signature) for arg in one.in_args), one.out_args[0].signature)
            for one in manager.methods
            if one.name in ("JobEnqueue", "SlotRead", "JobList", "ImageInspect", "PartGet")
        ] == [
            ("JobEnqueue", "a{sv}", "a{sv}"),
            ("JobList", "a{sv}", "aa{sv}"),
            ("SlotRead", "ss", "a{sv}"),
            ("PartGet", "sa{sv}", "a{sv}"),
            ("ImageInspect", "a{sv}a{sv}", "a{sv}"),
        ]
        slot = await client.bus.introspect(BUS_NAME, f"{ROOT}/slots/A1")
        (interface,) = (one for one in slot.interfaces if one.name == f"{BUS_NAME}.Slot")
        assert [method.name for method in interface.methods] == ["Get", "Set", "Probe", "Read"]
        assert [arg.name for arg in interface.methods[1].in_args] == ["action"]
    kinds = object_kinds()
    assert set(kinds) == {"slot", "job", "unit"}
    assert {member.name for member in kinds["job"].members} == {"Get", "Cancel", "Pause", "Resume"}


async def test_methods_answer_as_over_the_socket_without_what_has_no_value(bus):
    async with served(), connected() as client:
        slots = await client.call("SlotList")
        assert [slot["name"] for slot in slots] == ["A1", "A2"]
        assert slots[1]["failure"] == {"code": "verify-mismatch", "message": "wrong", "hint": "replace it"}
        assert "job" not in slots[0]
        probe = await client.on(f"{ROOT}/slots/A1", "Slot", "Probe")
        assert probe == {
            "slot": "A1", "signature": "1E 95 87", "parts": ["atmega32u4"], "fuses": {"lfuse": 0x5E}, "lock": 0x3F
        }  # fmt: skip
        dump = await client.call("SlotRead", "ss", "A1", "flash")
        assert bytes(dump["content"]) == bytes(range(256))
        assert (await client.call("PartGet", "sa{sv}", "m32u4", {"lfuse": Variant("y", 0x5E)}))["part"][
            "id"
        ] == "atmega32u4"
        described = await client.call("RpcDiscover")
        assert len(described["methods"]) == len(METHODS)


async def test_errors_come_by_name_with_message_and_hint(bus):
    station = TalkativeStation()
    async with served(station), connected() as client:
        text = await fails_with(ErrorCode.UNKNOWN_SLOT, client.call("SlotProbe", "s", "Z9"))
        assert text == "there is no slot Z9\nslots: A1, A2"
        await fails_with(ErrorCode.UNKNOWN_JOB, client.call("JobGet", "x", 99))
        await fails_with(ErrorCode.INVALID_PARAMETER, client.call("JobGet", "x", -1))
        text = await fails_with(
            ErrorCode.INVALID_PARAMETER, client.call("JobList", "a{sv}", {"limits": Variant("x", 1)})
        )
        assert text.startswith("limits: ")
        station.enqueue_blank()
        await fails_with(ErrorCode.JOB_ENDED, client.call("JobCancel", "x", 1))
        station.secret = "hunter2"
        assert "hunter2" not in await fails_with(ErrorCode.INTERNAL, client.call("ProgrammerList"))
        with pytest.raises(DbusError, match="UnknownMethod"):
            await client.call("SlotFly")


async def test_an_image_comes_as_a_descriptor_and_none_is_left_open(bus, tmp_path: Path):
    (tmp_path / "board.hex").write_bytes(HEX)
    async with served() as station, connected() as client:
        before = bed.open_descriptors()
        for number in range(1, 4):
            with (tmp_path / "board.hex").open("rb") as image:
                image.read()  # where the caller stands in its file does not matter
                job = await client.call(
                    "JobEnqueue",
                    "a{sv}",
                    {
                        "images": Variant("aa{sv}", [file_argument("board.hex")]),
                        "part": Variant("s", "atmega32u4"),
                        "slots": Variant("as", ["A1"]),
                    },
                    fds=(image.fileno(),),
                )
            assert (job["id"], job["slots"], job["part"]) == (number, ["A1"], "atmega32u4")
        assert station.recipes[1].sources[0].name == "board.hex"
        assert bed.open_descriptors() == before


async def test_a_pipe_is_read_to_its_end(bus):
    async with served(), connected() as client:
        reader, writer = os.pipe()
        os.write(writer, HEX)
        os.close(writer)
        try:
            report = await client.call("ImageInspect", "a{sv}a{sv}", file_argument("a.hex"), {}, fds=(reader,))
        finally:
            os.close(reader)
        assert report["name"] == "a.hex"


def no_file(folder: Path) -> int:
    return os.open("/dev/zero", os.O_RDONLY)


def a_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY)


def a_path_only(folder: Path) -> int:
    (folder / "x").write_bytes(HEX)
    return os.open(folder / "x", os.O_PATH)


def for_writing(folder: Path) -> int:
    return os.open(folder / "w", os.O_WRONLY | os.O_CREAT)


def endless(folder: Path) -> int:
    fd = os.open(folder / "sparse", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, 1 << 40)
    return fd


def one_byte_too_many(folder: Path) -> int:
    (folder / "big").write_bytes(bytes(MAX_FILE_BYTES + 1))
    return os.open(folder / "big", os.O_RDONLY)


@pytest.mark.parametrize(
    ("opened", "code"),
    [
        (no_file, ErrorCode.INVALID_PARAMETER),
        (a_folder, ErrorCode.INVALID_PARAMETER),
        (a_path_only, ErrorCode.INVALID_PARAMETER),
        (for_writing, ErrorCode.INVALID_PARAMETER),
        (endless, ErrorCode.IMAGE_TOO_LARGE),
        (one_byte_too_many, ErrorCode.IMAGE_TOO_LARGE),
    ],
)
async def test_descriptors_that_are_no_image_do_no_harm(
    bus, tmp_path: Path, opened: Callable[[Path], int], code: ErrorCode
):
    fd = opened(tmp_path)
    try:
        async with served(), connected() as client:
            before = bed.open_descriptors()
            for _ in range(2):
                await fails_with(code, client.call("ImageInspect", "a{sv}a{sv}", file_argument("a.hex"), {}, fds=(fd,)))
            assert bed.open_descriptors() == before
    finally:
        os.close(fd)


async def test_neither_a_path_nor_base64_is_taken_for_a_file(bus, tmp_path: Path):
    (tmp_path / "a.hex").write_bytes(HEX)
    async with served(), connected() as client:
        for text in (str(tmp_path / "a.hex"), "AAAA"):
            image = {"name": Variant("s", "a.hex"), "content": Variant("s", text)}
            assert "descriptor" in await fails_with(
                ErrorCode.INVALID_PARAMETER, client.call("ImageInspect", "a{sv}a{sv}", image, {})
            )


async def test_descriptors_where_none_belong_are_closed(bus, tmp_path: Path):
    with (tmp_path / "f").open("wb+") as file:
        fds = (file.fileno(), file.fileno(), file.fileno())
        async with served(), connected() as client:
            before = bed.open_descriptors()
            deep = Variant("a(sv)", [["x", Variant("ah", [0, 1])], ["y", Variant("a{hs}", {2: "z"})]])
            await fails_with(ErrorCode.INVALID_PARAMETER, client.call("JobList", "a{sv}", {"limit": deep}, fds=fds))
            await fails_with(
                ErrorCode.INVALID_PARAMETER,
                client.call("ImageInspect", "a{sv}a{sv}", {"content": deep}, {"image": Variant("h", 0)}, fds=fds),
            )
            assert bed.open_descriptors() == before


async def test_objects_follow_the_station(bus):
    async with served() as station, connected() as client:
        objects = await client.objects()
        assert set(objects) == {f"{ROOT}/slots/A1", f"{ROOT}/slots/A2"}
        shown = objects[f"{ROOT}/slots/A1"]["Slot"]
        assert (shown["State"], shown["Progress"], shown["Job"], shown["Step"]) == ("idle", 0.0, -1, "")
        await client.listen()
        station.enqueue_open()
        station.events.publish(replace(SLOTS[0], state=SlotState.BUSY, job=1, progress=0.5, step="flash"))
        assert await client.wait_for_change(f"{ROOT}/slots/A1", "State", "busy")
        ((_, changed),) = client.changes(f"{ROOT}/slots/A1")
        assert changed == {"State": "busy", "Job": 1, "Progress": 0.5, "Step": "flash"}
        station.finish(1, "verify-mismatch")
        assert await client.wait_for_change(f"{ROOT}/jobs/1", "State", "done")
        unit = (await client.objects())[f"{ROOT}/units/1"]["Unit"]
        assert (unit["Verdict"], unit["Lock"], unit["Failure"]["code"]) == ("failed", -1, "verify-mismatch")
        added = [
            plain for _, message in client.signals if message.member == "InterfacesAdded" for plain in message.body[:1]
        ]
        assert sorted(added) == [f"{ROOT}/jobs/1", f"{ROOT}/units/1"]


async def test_of_jobs_and_units_the_newest_are_shown_and_open_ones_stay(bus):
    station = FakeStation()
    station.enqueue_open()
    async with served(station), connected() as client:
        await client.listen()
        for _ in range(AT_MOST + 10):
            station.enqueue_open()
            station.finish(len(station.jobs_by_id), None)
        last = f"{ROOT}/jobs/{AT_MOST + 11}"
        with anyio.fail_after(bed.DEADLINE_S):
            while last not in (objects := await client.objects()):  # noqa: ASYNC110 - a condition
                await anyio.sleep(0.02)
        jobs = {path for path in objects if "/jobs/" in path}
        assert len(jobs) == AT_MOST
        assert {f"{ROOT}/jobs/1", last} <= jobs
        assert len([path for path in objects if "/units/" in path]) == AT_MOST
        assert (await client.call("JobGet", "x", 5))["state"] == "done"


class ManySlots(FakeStation):
    """Sixty-four slots."""

    def slots(self) -> list[Slot]:
        return [Slot(name=f"1-1.{number}", state=SlotState.BUSY) for number in range(64)]


async def test_sixty_four_slots_at_full_speed_send_five_signals_a_second_each(bus):
    station = ManySlots()
    slots = station.slots()
    async with served(station), connected() as client:
        await client.listen()
        start = anyio.current_time()
        with anyio.move_on_after(2.0):
            for step in range(1, 10_000):
                for slot in slots:
                    station.events.publish(replace(slot, bytes_done=step))
                await anyio.sleep(0.01)
        last = f"{ROOT}/slots/1_2d1_2e63"
        await client.wait_for_change(last, "BytesDone", step, step - 1)
        seconds = anyio.current_time() - start
        for slot in slots:
            times = [
                at for at, _ in client.changes(f"{ROOT}/slots/{slot.name.replace('-', '_2d').replace('.', '_2e')}")
            ]
            assert 2 <= len(times) <= seconds * 5 + 1
        await client.call("StationGet")


async def test_a_caller_who_never_reads_and_one_who_floods_hold_up_nobody(bus):
    async with served() as station, connected() as client, connected() as hostile:
        station.may_probe = anyio.Event()
        refused = []
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                try:
                    await hostile.call("SlotProbe", "s", "A1")
                except DbusError as error:
                    refused.append(error.name)

            for _ in range(30):
                tasks.start_soon(ask)
            with anyio.fail_after(bed.DEADLINE_S):
                while len(refused) < 22:  # noqa: ASYNC110 - a condition with a deadline
                    await anyio.sleep(0.01)
            assert (await client.call("StationGet"))["slots"] == 2
            station.may_probe.set()
        assert refused == ["org.freedesktop.DBus.Error.LimitsExceeded"] * 22
        assert station.most_probes_running == 8


# -- who may ----------------------------------------------------------------------------------------------------------

_ZERO = {"s": "x", "x": 1, "a{sv}": {}, "aa{sv}": []}

_STRANGER = """
import asyncio, json, sys
from dbus_fast import BusType, Message
from dbus_fast.aio import MessageBus

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    answers = {}
    for name, path, interface, member, signature, body in json.load(open(sys.argv[1])):
        reply = await bus.call(Message(destination="org.ispd.Station1", path=path, interface=interface, member=member,
                                       signature=signature, body=body))
        answers[name] = reply.error_name
    print(json.dumps(answers))

asyncio.run(main())
"""


def every_call(folder: Path) -> tuple[Path, int]:
    """Write down a call of every method, of every object's methods, and of what the bus offers on every object."""
    calls: list[tuple[str, str, str, str, str, list[Any]]] = []
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

    async def ask(self, *asked: Any) -> tuple[Any, ...]:
        _, _, _, member, _, *arguments = asked
        if member == "GetConnectionCredentials":
            if self._credentials is None:
                raise TimeoutError
            return ({key: ("x", value) for key, value in self._credentials.items()},)
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


@needs_root
async def test_the_policy_file_lets_the_group_in_and_strangers_only_see_that_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls, count = every_call(tmp_path)
    text = bed.POLICY_FILE.read_text()
    text = text[text.index("<busconfig>") + len("<busconfig>") : text.index("</busconfig>")]
    base = '<policy context="default"><allow user="*"/><deny own="*"/><deny send_type="method_call"/>'
    base += '<allow send_type="signal"/><allow send_requested_reply="true" send_type="method_return"/>'
    base += '<allow send_requested_reply="true" send_type="error"/><allow receive_type="method_call"/>'
    base += '<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>'
    base += '<allow send_destination="org.freedesktop.DBus"/></policy>'
    policy = base + text.replace('user="ispd"', f'user="{os.getuid()}"').replace('group="ispd"', f'group="{NOBODY}"')
    with private_bus(tmp_path, monkeypatch, policy):
        async with served(decide=lambda asked: Authority(asked, group=NOBODY)):
            denied = await anyio.to_thread.run_sync(ask_all, OTHER, (), calls)
            # the bus looks groups up in the system's database, where nobody has one
            let_in = await anyio.to_thread.run_sync(ask_all, NOBODY, (), calls)
    assert set(denied.values()) == {"org.freedesktop.DBus.Error.AccessDenied"}
    assert len(denied) == len(let_in) == count
    assert "org.freedesktop.DBus.Error.AccessDenied" not in let_in.values()


# -- a bus that comes and goes ----------------------------------------------------------------------------------------


async def test_without_a_bus_the_daemon_starts_and_is_there_once_there_is_one(bus):
    bus.kill()
    async with served():
        bus.start()
        await bed.until_served()


async def test_an_error_of_ours_ends_neither_the_daemon_nor_its_place_on_the_bus(bus):
    async with served() as station:
        await bed.until_served()
        station.explode = RuntimeError("a bug")
        station.enqueue_open()
        async with connected() as client:
            with anyio.fail_after(bed.DEADLINE_S):
                while await client.is_there():  # noqa: ASYNC110 - a condition with a deadline
                    await anyio.sleep(0.02)
        station.explode = None
        await bed.until_served()


# -- unmodified clients -----------------------------------------------------------------------------------------------


async def run(*command: str) -> tuple[int, str]:
    done = await anyio.run_process(command, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.skipif(shutil.which("busctl") is None, reason="busctl is not installed (systemd)")
async def test_busctl_lists_calls_and_reads(bus):
    async with served() as station:
        station.enqueue_open()
        code, text = await run("busctl", "--no-pager", "--list", "tree", BUS_NAME)
        assert code == 0
        assert f"{ROOT}/slots/A2" in text.split()
        code, text = await run("busctl", "get-property", BUS_NAME, f"{ROOT}/slots/A1", f"{BUS_NAME}.Slot", "State")
        assert (code, text) == (0, 's "idle"\n')
        manager = (BUS_NAME, ROOT, f"{BUS_NAME}.{MANAGER}")
        code, text = await run("busctl", "--json=short", "call", *manager, "JobGet", "x", "1")
        assert json.loads(text)["data"][0]["state"]["data"] == JobState.RUNNING
        code, text = await run("busctl", "call", *manager, "JobGet", "x", "7")
        assert (code, text) == (1, "Call failed: there is no job 7\n`ispctl jobs` lists them\n")


@pytest.mark.skipif(shutil.which("gdbus") is None, reason="gdbus is not installed (libglib2.0-bin)")
async def test_gdbus_introspects_and_names_errors(bus):
    async with served():
        code, text = await run("gdbus", "introspect", "-y", "-r", "-d", BUS_NAME, "-o", ROOT)
        assert code == 0
        assert "JobEnqueue(in  a{sv} options," in text
        on_slot = ("gdbus", "call", "-y", "-d", BUS_NAME, "-o", f"{ROOT}/slots/A1", "-m")
        code, text = await run(*on_slot, f"{BUS_NAME}.Slot.Set", "disable")
        assert code == 0
        assert "'state': <'disabled'>" in text
        code, text = await run(*on_slot, f"{BUS_NAME}.Slot.Set", "explode")
        assert code == 1
        assert f"GDBus.Error:{INVALID}: action: " in text
