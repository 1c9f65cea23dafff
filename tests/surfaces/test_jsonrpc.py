"""The JSON-RPC surface over real sockets: malformed requests, batches, events, slow clients."""

import errno
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from structlog.testing import capture_logs
from tests.surfaces.fake_station import FakeStation

from ispd.api.call import Peer
from ispd.api.declare import Privilege
from ispd.surfaces.jsonrpc import Limits, serve_jsonrpc
from ispd.surfaces.jsonrpc.dispatch import MAX_BATCH
from ispd.surfaces.jsonrpc.framing import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.anyio

DEADLINE_S = 20


class Peerless:
    """A client of the tests: sends bytes, reads lines."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, *messages: object) -> None:
        for message in messages:
            data = message if isinstance(message, bytes) else json.dumps(message).encode()
            await self.stream.send(data + b"\n")

    async def receive(self) -> Any:
        with anyio.fail_after(DEADLINE_S):
            while b"\n" not in self._buffer:
                self._buffer += await self.stream.receive()
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    async def call(self, method: str, **params: Any) -> Any:
        await self.send(request(method, **params))
        return await self.receive()

    async def is_closed(self) -> bool:
        """Wait for the other end to close, whatever it still sends."""
        with anyio.fail_after(DEADLINE_S):
            try:
                while True:
                    self._buffer += await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return True


def request(method: str, id: object = 1, **params: Any) -> dict[str, Any]:  # noqa: A002 - JSON-RPC's name
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


class Served:
    """A served fake station and the means to connect to it."""

    def __init__(self, path: Path, station: FakeStation) -> None:
        self.path = path
        self.station = station

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Peerless]:
        async with await anyio.connect_unix(self.path) as stream:
            yield Peerless(stream)


@asynccontextmanager
async def serve(path: Path | socket.socket, limits: Limits | None = None, **options: Any) -> AsyncIterator[Served]:
    station = FakeStation()
    async with anyio.create_task_group() as tasks:

        async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            await serve_jsonrpc(path, station, limits=limits, task_status=task_status, **options)

        await tasks.start(run)
        yield Served(path if isinstance(path, Path) else Path(), station)
        tasks.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ispd.sock"


def error_of(response: dict[str, Any]) -> tuple[int, str, object]:
    assert set(response) == {"jsonrpc", "error", "id"}
    error = response["error"]
    assert set(error) == {"code", "message", "data"}
    return error["code"], error["data"]["code"], response["id"]


MALFORMED = [
    (b"{", -32700, "parse-error"),
    (b"\xff\xfe", -32700, "parse-error"),
    (b'{"jsonrpc":"2.0","id":1,"method":"job.list","method":"job.list"}', -32700, "parse-error"),
    (b'{"jsonrpc":"2.0","id":NaN,"method":"job.list"}', -32700, "parse-error"),
    (b'{"jsonrpc":"2.0","id":"\\ud800","method":"job.list"}', -32700, "parse-error"),
    (b"[" * 100 + b"]" * 100, -32600, "invalid-request"),
    (b"1", -32600, "invalid-request"),
    (b"null", -32600, "invalid-request"),
    (b'"job.list"', -32600, "invalid-request"),
    (b"{}", -32600, "invalid-request"),
    (b"[]", -32600, "invalid-request"),
    (b'{"id":1,"method":"job.list"}', -32600, "invalid-request"),
    (b'{"jsonrpc":"1.0","id":1,"method":"job.list"}', -32600, "invalid-request"),
    (b'{"jsonrpc":"2.0","id":1,"method":5}', -32600, "invalid-request"),
    (b'{"jsonrpc":"2.0","id":true,"method":"job.list"}', -32600, "invalid-request"),
    (b'{"jsonrpc":"2.0","id":{},"method":"job.list"}', -32600, "invalid-request"),
    (b'{"jsonrpc":"2.0","id":"%b","method":"job.list"}' % (b"x" * 300), -32600, "invalid-request"),
    (b'{"jsonrpc":"2.0","id":1,"method":"job.list","params":null}', -32600, "invalid-request"),
    (b'{"jsonrpc":"2.0","id":1,"method":"job.list","params":"x"}', -32600, "invalid-request"),
    (b'{"jsonrpc":"2.0","id":1,"method":"job.list","extra":1}', -32600, "invalid-request"),
]


@pytest.mark.parametrize(("message", "number", "code"), MALFORMED, ids=lambda value: str(value)[:60])
async def test_a_malformed_request_is_answered_and_the_connection_goes_on(
    path: Path, message: bytes, number: int, code: str
):
    async with serve(path) as served, served.connect() as client:
        await client.send(message)
        assert error_of(await client.receive()) == (number, code, None)
        assert (await client.call("job.list"))["result"] == []


@pytest.mark.parametrize(
    ("message", "number", "code"),
    [
        (request("job.burn"), -32601, "unknown-method"),
        (request("__class__"), -32601, "unknown-method"),
        ({"jsonrpc": "2.0", "id": 1, "method": "job.get", "params": [1]}, -32602, "invalid-parameter"),
        (request("job.get"), -32602, "invalid-parameter"),
        (request("job.get") | {"params": {"id": 1, "context": 1, "call": 2}}, -32602, "invalid-parameter"),
        (request("job.get") | {"params": {"id": 77}}, 1101, "unknown-job"),
        (request("slot.probe", name="A9"), 1103, "unknown-slot"),
        (request("part.get") | {"params": {"id": "z80"}}, 1008, "unknown-part"),
    ],
)
async def test_errors_keep_the_request_id_and_name_their_code(
    path: Path, message: dict[str, Any], number: int, code: str
):
    async with serve(path) as served, served.connect() as client:
        await client.send(message | {"id": "mine"})
        assert error_of(await client.receive()) == (number, code, "mine")


async def test_facts_of_an_error_reach_the_client(path: Path):
    images = [{"name": "a.bin", "content": "DJQBAA=="}]
    async with serve(path) as served, served.connect() as client:
        answer = await client.call("job.enqueue", images=images, part="atmega32u4", hfuse=0x19)
        data = answer["error"]["data"]
        assert (data["code"], data["memory"], data["expected"]) == ("fuse-confirm", "hfuse", 0x19)
        assert data["hint"]
        answer = await client.call("slot.set", name="A1", action="burn")
        assert answer["error"]["data"]["field"] == "action"


async def test_exception_text_never_reaches_a_client(path: Path):
    async with serve(path) as served, served.connect() as client:
        served.station.explode = RuntimeError("password is hunter2")
        with capture_logs() as logs:
            answer = await client.call("slot.list")
        assert "hunter2" not in json.dumps(answer)
        assert error_of(answer)[:2] == (-32603, "internal")
        [entry] = [entry for entry in logs if entry["event"] == "call failed"]
        assert entry["incident"] in answer["error"]["message"]


async def test_a_notification_is_carried_out_and_not_answered(path: Path):
    async with serve(path) as served, served.connect() as client:
        enqueue = request("job.enqueue", images=[{"name": "a.bin", "content": "DJQBAA=="}])
        del enqueue["id"]
        unknown = {"jsonrpc": "2.0", "method": "job.burn"}
        await client.send(enqueue, unknown, [enqueue, unknown], request("station.get", id=9))
        answers = [await client.receive()]
        while not served.station.jobs_by_id.keys() >= {1, 2}:
            await anyio.lowlevel.checkpoint()
        assert [answer["id"] for answer in answers] == [9]


async def test_a_batch_answers_in_order_each_item_by_itself(path: Path):
    batch = [
        request("job.list", id=1),
        {"jsonrpc": "2.0", "method": "job.list"},
        5,
        request("nope", id=2),
        request("slot.get", id=3, name="A1"),
    ]
    async with serve(path) as served, served.connect() as client:
        await client.send(batch)
        answers = await client.receive()
    assert [answer["id"] for answer in answers] == [1, None, 2, 3]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, -32600, -32601, None]


async def test_batches_are_bounded(path: Path):
    async with serve(path) as served, served.connect() as client:
        await client.send([request("job.list", id=index) for index in range(MAX_BATCH)])
        assert len(await client.receive()) == MAX_BATCH
        await client.send([request("job.list", id=index) for index in range(MAX_BATCH + 1)])
        assert error_of(await client.receive())[:2] == (-32600, "invalid-request")


@pytest.mark.parametrize("batch", [True, False], ids=["one batch", "many requests"])
async def test_calls_of_one_connection_are_bounded_and_others_go_on(path: Path, batch: bool):
    probes = [request("slot.probe", id=index, name="A1") for index in range(20)]
    async with serve(path, Limits(calls=4)) as served, served.connect() as client, served.connect() as other:
        served.station.may_probe = anyio.Event()
        await client.send(*([probes] if batch else probes))
        with anyio.fail_after(DEADLINE_S):
            while served.station.probes_running < 4:
                await anyio.lowlevel.checkpoint()
        assert (await other.call("slot.list"))["id"] == 1  # while the first connection is full
        served.station.may_probe.set()
        answers = await client.receive() if batch else [await client.receive() for _ in probes]
    assert sorted(answer["id"] for answer in answers) == list(range(20))
    assert served.station.most_probes_running == 4


async def test_events_follow_the_subscription_in_order(path: Path):
    async with serve(path) as served, served.connect() as client:
        publish = served.station.events.publish
        publish(served.station.slot("A1"))
        assert (await client.call("events.subscribe"))["result"] == {"seq": 1}
        assert (await client.call("events.subscribe"))["result"] == {"seq": 1}  # once is enough
        publish(served.station.slot("A1"))
        publish(served.station.slot("A2"))
        first, second = await client.receive(), await client.receive()
        assert (first["method"], first["params"]["seq"], second["params"]["seq"]) == ("event", 2, 3)
        assert (first["params"]["kind"], first["params"]["slot"]["name"]) == ("slot", "A1")
        assert "id" not in first
        assert (await client.call("events.unsubscribe"))["result"] == {}
        publish(served.station.slot("A1"))
        assert (await client.call("job.list"))["result"] == []  # and no event before it
        assert (await client.call("events.subscribe"))["result"] == {"seq": 4}


async def test_a_client_that_never_reads_is_told_to_resync_and_blocks_nobody(path: Path):
    async with (
        serve(path, Limits(events=16, write_s=1000)) as served,
        served.connect() as lazy,
        served.connect() as other,
    ):
        await lazy.call("events.subscribe")
        await other.call("events.subscribe")
        count = 5_000
        for number in range(1, count + 1):
            served.station.events.publish(served.station.slot("A1"))
            if number % 10 == 0:  # the other one keeps up
                assert [(await other.receive())["params"]["seq"] for _ in range(10)][-1] == number
        assert (await other.call("slot.list"))["id"] == 1
        seen = [await lazy.receive()]
        while seen[-1]["params"]["seq"] < count:
            seen.append(await lazy.receive())
    numbers = [event["params"]["seq"] for event in seen]
    gaps = [later for earlier, later in pairwise(seen) if later["params"]["seq"] != earlier["params"]["seq"] + 1]
    assert len(numbers) < count
    assert numbers == sorted(set(numbers))
    assert {event["params"]["kind"] for event in gaps} == {"resync"}  # nothing is missed unsaid


async def test_a_client_that_leaves_its_answer_unread_is_disconnected(path: Path):
    """Its answers fill the socket; the daemon waits only so long, and others are served meanwhile."""
    async with serve(path, Limits(write_s=0.2)) as served, served.connect() as lazy, served.connect() as other:
        ask_for_much = [request("rpc.discover")] * 1000
        with anyio.fail_after(DEADLINE_S), pytest.raises(anyio.BrokenResourceError):
            await lazy.send(*ask_for_much)
        assert (await other.call("job.list"))["result"] == []


async def test_a_request_of_4_mib_is_refused_and_the_answer_can_be_read(path: Path):
    async with serve(path) as served, served.connect() as client:
        image = {"name": "a.hex", "content": "A" * (MAX_MESSAGE_BYTES - 1000)}
        answer = await client.call("image.inspect", image=image)
        assert error_of(answer)[1] == "image-too-large"  # carried, and refused by the image gate
        await client.send(b"{" + b" " * MAX_MESSAGE_BYTES)
        assert error_of(await client.receive()) == (-32600, "invalid-request", None)
        assert await client.is_closed()


async def test_a_request_that_does_not_end_is_given_up(path: Path):
    async with serve(path, Limits(message_s=0.05)) as served, served.connect() as client:
        assert (await client.call("job.list"))["result"] == []
        await client.stream.send(b'{"jsonrpc":')
        assert error_of(await client.receive())[:2] == (-32700, "parse-error")
        assert await client.is_closed()


async def test_what_was_asked_before_the_framing_broke_is_still_answered(path: Path):
    async with serve(path, Limits(message_s=0.05)) as served, served.connect() as client:
        served.station.may_probe = anyio.Event()
        await client.send(request("slot.probe", name="A1"))
        await client.stream.send(b'{"jsonrpc":')
        assert error_of(await client.receive())[:2] == (-32700, "parse-error")
        served.station.may_probe.set()
        assert (await client.receive())["result"]["signature"] == "1E 95 87"
        assert await client.is_closed()


async def test_a_client_may_close_its_side_and_still_be_answered(path: Path):
    async with serve(path) as served, served.connect() as client:
        served.station.may_probe = anyio.Event()
        await client.stream.send(json.dumps(request("slot.probe", name="A1")).encode())  # no line end either
        await client.stream.send_eof()
        with anyio.fail_after(DEADLINE_S):
            while not served.station.probes_running:
                await anyio.lowlevel.checkpoint()
        served.station.may_probe.set()
        assert (await client.receive())["result"]["signature"] == "1E 95 87"
        assert await client.is_closed()


async def test_a_client_that_vanishes_does_not_take_its_call_along(path: Path):
    async with serve(path) as served:
        served.station.may_probe = anyio.Event()
        async with served.connect() as client:
            await client.send(request("slot.probe", name="A1"))
            with anyio.fail_after(DEADLINE_S):
                while not served.station.probes_running:
                    await anyio.lowlevel.checkpoint()
        async with served.connect() as other:
            assert (await other.call("job.list"))["result"] == []
            assert served.station.probes_running == 1
            served.station.may_probe.set()
            assert (await other.call("job.list"))["result"] == []


async def test_content_length_framing_is_answered_in_kind(path: Path):
    async with serve(path) as served, served.connect() as client:
        body = json.dumps(request("job.list")).encode()
        await client.stream.send(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b""
        with anyio.fail_after(DEADLINE_S):
            while not answer.endswith(b"}"):
                answer += await client.stream.receive()
        header, _, content = answer.partition(b"\r\n\r\n")
        assert header == b"Content-Length: %d" % len(content)
        assert json.loads(content)["result"] == []


async def test_connections_are_bounded_and_make_room_when_they_end(path: Path):
    async with serve(path, Limits(connections=2)) as served, served.connect() as first:
        await first.call("job.list")
        async with served.connect() as second:
            await second.call("job.list")
            async with served.connect() as third:
                refusal = await third.receive()
                assert error_of(refusal) == (1404, "too-many-clients", None)
                assert "serves 2 connections at once" in refusal["error"]["message"]
                assert await third.is_closed()
            await second.stream.send_eof()
            assert await second.is_closed()
        async with served.connect() as fourth:
            assert (await fourth.call("job.list"))["result"] == []
        assert (await first.call("job.list"))["result"] == []


async def test_the_caller_is_who_the_kernel_says(path: Path):
    asked: list[tuple[Peer, Privilege]] = []

    async def allows(peer: Peer, privilege: Privilege) -> bool:
        asked.append((peer, privilege))
        return privilege is Privilege.VIEW

    async with serve(path, allows=allows) as served, served.connect() as client:
        assert "result" in await client.call("job.list")
        assert error_of(await client.call("job.cancel", id=1) | {"id": 1}) == (1403, "not-allowed", 1)
    me = Peer(uid=os.getuid(), gid=os.getgid(), pid=os.getpid())
    assert asked == [(me, Privilege.VIEW), (me, Privilege.OPERATE)]


async def test_a_bug_met_over_one_connection_stays_there(path: Path):
    async with serve(path) as served, served.connect() as other:
        await other.call("job.list")
        hub = served.station.events
        del served.station.events
        with capture_logs() as logs:
            async with served.connect() as client:
                assert await client.is_closed()
        assert [entry["event"] for entry in logs] == ["connection ended by an error of ours"]
        served.station.events = hub
        assert (await other.call("job.list"))["result"] == []
        async with served.connect() as client:
            assert (await client.call("job.list"))["result"] == []


class OutOfDescriptors(socket.socket):
    """A listening socket whose first client comes while no descriptor is free."""

    refusals = 1

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return super().accept()


async def test_running_out_of_descriptors_passes(path: Path):
    with OutOfDescriptors(socket.AF_UNIX) as listener, capture_logs() as logs:
        listener.bind(str(path))
        listener.listen()
        async with serve(listener) as served:
            served.path = path
            async with served.connect() as client:
                assert (await client.call("job.list"))["result"] == []
    assert [entry["event"] for entry in logs] == ["no further client for the moment"]
