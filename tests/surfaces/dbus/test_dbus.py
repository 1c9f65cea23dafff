"""The D-Bus surface over a fake station, on a bus of its own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import structlog.testing
from dbus_fast import Variant
from dbus_fast import introspection as intr
from tests.surfaces.dbus import bed
from tests.surfaces.dbus.bed import DbusError, connected, fails_with, needs_bus, served
from tests.surfaces.fake_station import SLOTS, FakeStation

from ispd.api.methods import METHODS
from ispd.errors import ErrorCode
from ispd.model.job import JobState
from ispd.model.station import Programmer, Slot, SlotState
from ispd.surfaces.dbus import Bus, server, wiring
from ispd.surfaces.dbus.names import BUS_NAME, MANAGER, ROOT, error_name
from ispd.surfaces.dbus.objects import AT_MOST

GOLDEN = Path(__file__).parents[2] / "golden/dbus.txt"

pytestmark = [needs_bus, pytest.mark.anyio]

INVALID = error_name(ErrorCode.INVALID_PARAMETER)


class TalkativeStation(FakeStation):
    """Fails with a text that nobody should see, once it has a secret."""

    secret = ""

    def programmers(self) -> list[Programmer]:
        if self.secret:
            raise RuntimeError(f"password is {self.secret}")
        return super().programmers()


def listed(described: intr.Node) -> list[str]:
    """Return the members of our interface on an object, one a line."""
    (interface,) = (one for one in described.interfaces if one.name.startswith(BUS_NAME))
    methods = [
        f"{interface.name}.{method.name}({', '.join(f'{arg.name} {arg.signature}' for arg in method.in_args)})"
        f" -> {', '.join(str(arg.signature) for arg in method.out_args)}"
        for method in interface.methods
    ]
    return methods + [f"{interface.name}.{one.name} {one.signature}" for one in interface.properties]


async def test_what_is_on_the_bus_is_what_was_agreed_and_every_declared_method_is_there(bus):
    """A change of the interface shows as a diff of the golden file."""
    station = FakeStation()
    station.enqueue_blank()
    async with served(station), connected() as client:
        lines: list[str] = []
        for path in ("", "/slots/A1", "/jobs/1", "/units/1"):
            lines += listed(await client.bus.introspect(BUS_NAME, f"{ROOT}{path}"))
    assert "\n".join(lines) + "\n" == await anyio.Path(GOLDEN).read_text()
    on_manager = [line for line in lines if line.startswith(f"{BUS_NAME}.{MANAGER}.") and "(" in line]
    assert len(on_manager) == len(METHODS)


async def test_methods_answer_as_over_the_socket_without_what_has_no_value(bus):
    async with served(), connected() as client:
        slots = await client.call("SlotList")
        assert [slot["name"] for slot in slots] == ["A1", "A2"]
        assert slots[1]["failure"] == {"code": "verify-mismatch", "message": "wrong", "hint": "replace it"}
        assert "job" not in slots[0]
        probe = await client.on(f"{ROOT}/slots/A1", "Slot", "Probe")
        assert probe == {
            "slot": "A1", "signature": "1E 95 87", "parts": ["atmega32u4"], "chip": "", "warnings": [],
            "fuses": {"lfuse": 0x5E}, "lock": 0x3F,
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


# -- a bus that comes and goes ----------------------------------------------------------------------------------------


async def test_without_a_bus_the_daemon_starts_and_is_there_once_there_is_one(bus):
    bus.kill()
    async with served():
        bus.start()
        await bed.until_served()


async def test_it_can_be_on_the_bus_of_a_session_too(bus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", bus.address)
    async with served(kind=Bus.SESSION):
        await bed.until_served()


async def test_a_bus_that_hangs_holds_up_nothing_else(bus):
    async with served(ManySlots()) as station:
        await bed.until_served()
        bus.halt()
        gaps = []
        for step in range(1, 150):
            for slot in station.slots():
                station.events.publish(replace(slot, bytes_done=step))
            before = anyio.current_time()
            await anyio.sleep(0.01)
            gaps.append(anyio.current_time() - before)
        bus.go_on()
        await bed.until_served()
        assert max(gaps) < 5, "sd-bus would wait for 25 s"


async def test_a_bus_that_refuses_the_name_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_LOOK_S", 0.01)
    monkeypatch.setattr(server, "_AGAIN_S", 0.01)
    tries = 0

    class Counted(wiring.Connection):
        def __init__(self, kind: Bus) -> None:
            nonlocal tries
            tries += 1
            super().__init__(kind)

    monkeypatch.setattr(server, "Connection", Counted)
    closed = bed.OPEN_POLICY.replace('<allow own="*"/>', "")
    with bed.private_bus(tmp_path, monkeypatch, closed), structlog.testing.capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await tasks.start(server.serve_dbus, Bus.SYSTEM, FakeStation())
            with anyio.fail_after(bed.DEADLINE_S):
                while tries < 5:  # noqa: ASYNC110 - a condition with a deadline
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    told = [entry["reason"] for entry in logs if entry["event"] == "not on the bus"]
    assert len(told) == 1
    assert "this daemon is not allowed to own" in told[0]


async def test_pings_find_a_bus_that_answers_no_more_and_only_that(bus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "_LOOK_S", 0.02)
    monkeypatch.setattr(wiring, "_ANSWER_S", 0.5)
    async with served(), connected() as client:
        await bed.until_served()
        owner = await client.owner()
        await anyio.sleep(1.0)  # five pings
        assert await client.owner() == owner
        bus.halt()
        await anyio.sleep(1.0)  # longer than a ping may take
        bus.go_on()
        with anyio.fail_after(bed.DEADLINE_S):
            while await client.owner() in (owner, None):  # noqa: ASYNC110 - a condition with a deadline
                await anyio.sleep(0.02)


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
