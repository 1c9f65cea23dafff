"""Following a job: nothing is missed for good, and the exit code is what the job deserves."""

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.surfaces.fake_station import FakeStation, ServedStation, served

from ispctl.client import Client
from ispctl.errors import NoDaemonError, RpcError, WaitTimeoutError
from ispctl.follow import Follower, exit_of, units_of

Units = list[dict[str, Any]]


def units(*said: str) -> Units:
    """Return units from ``slot verdict [code]``, oldest first."""
    found = []
    for number, words in enumerate(said, 1):
        slot, verdict, *code = words.split()
        failure = {"code": code[0]} if code else None
        found.append({"id": number, "slot": slot, "verdict": None if verdict == "-" else verdict, "failure": failure})
    return found


@pytest.mark.parametrize(
    ("state", "met", "code"),
    [
        ("done", units("A1 passed", "A2 passed"), 0),
        ("done", units("A1 passed", "A2 failed verify-mismatch"), 1),
        ("done", units("A1 failed verify-mismatch", "A1 passed"), 1),
        ("done", units("A1 failed fuse-refused", "A2 failed image-does-not-fit"), 2),
        ("done", units("A1 failed fuse-refused", "A2 failed target-locked"), 1),
        ("done", units("A1 passed", "A2 failed fuse-confirm"), 2),
        ("done", units("A1 interrupted interrupted", "A1 passed"), 0),
        ("done", units("A1 interrupted interrupted", "A2 passed"), 1),
        ("done", units("A1 passed", "A1 interrupted interrupted"), 1),
        ("done", units("A1 needs-rescue"), 1),
        ("done", units("A1 passed", "A2 -"), 1),
        ("done", [], 1),
        ("empty", [], 1),
        ("cancelled", units("A1 passed"), 1),
        ("cancelled", units("A1 cancelled"), 1),
    ],
)
def test_exit_codes(state: str, met: Units, code: int):
    assert exit_of({"state": state}, met) == code


def pause_when_followed(server: ServedStation) -> None:
    """Pause job 1 as soon as somebody reads events."""

    async def pause() -> None:
        with anyio.fail_after(20):
            while not server.station.events._subscriptions:
                await anyio.lowlevel.checkpoint()
        await server.station.pause(1)

    threading.Thread(target=server.call, args=(pause,)).start()


def drown(station: FakeStation) -> None:
    """End the job, then publish so much at once that a reader loses the event saying so."""
    station.finish(1, None)
    for _ in range(1000):
        station.events.publish(station.slot("A1"))


def test_an_end_that_was_lost_among_events_is_still_seen(tmp_path: Path):
    told: list[dict[str, Any]] = []
    with served(tmp_path / "s") as server:
        server.call(server.station.enqueue_open)

        def tell(event: dict[str, Any]) -> None:
            told.append(event)
            if len(told) == 1:
                server.call(drown, server.station)

        pause_when_followed(server)
        job = Follower(tmp_path / "s", 1, tell, timeout_s=20).run(Client(tmp_path / "s"))
    assert job["state"] == "done"
    assert [event["job"]["state"] for event in told] == ["paused"]


def test_events_of_others_are_not_told(tmp_path: Path):
    told: list[dict[str, Any]] = []
    with served(tmp_path / "s") as server:
        client = Client(tmp_path / "s")
        client.call("events.subscribe")
        server.call(server.station.enqueue_open)
        server.call(server.station.enqueue_open)
        for job in (2, 1):
            server.call(server.station.finish, job, None)
        Follower(tmp_path / "s", 1, told.append, timeout_s=20).run(client, is_subscribed=True)
    assert [event["kind"] for event in told] == ["job", "unit", "job"]
    assert {(event["job"] or {"id": event["unit"] and event["unit"]["job"]})["id"] for event in told} == {1}


def test_a_daemon_that_stays_away_and_one_that_forgot_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ispctl.follow._GRACE_S", 0.1)
    with served(tmp_path / "s") as server:
        server.call(server.station.enqueue_open)

        def stop(_event: object) -> None:
            server.stop()

        pause_when_followed(server)
        with pytest.raises(NoDaemonError):
            Follower(tmp_path / "s", 1, stop, timeout_s=None).run(Client(tmp_path / "s"))
        with pytest.raises(WaitTimeoutError):
            Follower(tmp_path / "s", 1, stop, timeout_s=0.0)._reconnect()
        server.station.jobs_by_id.clear()
        server.start()
        with pytest.raises(RpcError) as caught:
            Follower(tmp_path / "s", 1, stop, timeout_s=None).run(Client(tmp_path / "s"))
        assert caught.value.code == "unknown-job"


def test_all_pages_of_units_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ispctl.follow._PAGE", 3)
    with served(tmp_path / "s") as server:
        server.call(server.station.enqueue_open)
        server.call(server.station.finish, 1, *[None] * 7)
        with Client(tmp_path / "s") as client:
            assert [unit["id"] for unit in units_of(client, 1)] == [1, 2, 3, 4, 5, 6, 7]
