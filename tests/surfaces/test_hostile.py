"""Clients that mean harm or know no better: whatever they send or hold back, others are served."""

import base64
import errno
import gc
import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs
from tests.surfaces.test_jsonrpc import DEADLINE_S, Served, error_of, request, serve

from ispd.surfaces.jsonrpc import Limits

pytestmark = pytest.mark.anyio

HEADS = [
    b"",
    b"{",
    b'{"jsonrpc": "2.0", ',
    b"Content-Length: 100\r\n",
    b"Content-Length: 100\r\n\r\n{",
    b"Content-",
    b"[" * 30,
]
"""Beginnings of messages, and saying nothing at all."""


async def is_served(served: Served) -> bool:
    with anyio.fail_after(DEADLINE_S):
        async with served.connect() as client:
            return bool((await client.call("job.list"))["result"] == [])


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.usefixtures("many_files")
async def test_a_thousand_connections_that_say_nothing(tmp_path: Path):
    path = tmp_path / "s"
    async with serve(path) as served, served.connect() as early:
        assert (await early.call("job.list"))["result"] == []
        gc.collect()  # of tests before
        before = descriptors()
        with ExitStack() as held, capture_logs() as logs:
            for number in range(1000):
                client = held.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                while client.connect_ex(str(path)) == errno.EAGAIN:  # the queue of new connections is full
                    await anyio.lowlevel.checkpoint()
                client.send(HEADS[number % len(HEADS)])
            assert (await early.call("job.list"))["result"] == []
            # what they cost is bounded: the server holds no more than its limit
            assert descriptors() - before <= 1000 + Limits().connections
            held.close()
        assert len(logs) <= 2, "they do not fill the log"
        with anyio.fail_after(3 * DEADLINE_S):
            while descriptors() > before:
                await anyio.lowlevel.checkpoint()
        assert await is_served(served)


@pytest.mark.parametrize("head", HEADS[1:])
async def test_half_a_message_is_waited_for_only_so_long(tmp_path: Path, head: bytes):
    async with serve(tmp_path / "s", Limits(message_s=0.05)) as served, served.connect() as client:
        await client.stream.send(head)
        assert await is_served(served)  # meanwhile
        assert await client.is_closed()


async def test_a_message_that_trickles_in_is_given_up_too(tmp_path: Path):
    """Each byte in time, the whole not: the clock runs from the first byte."""
    answer = b""
    async with serve(tmp_path / "s", Limits(message_s=0.1)) as served, served.connect() as client:
        with anyio.fail_after(DEADLINE_S):
            while not answer:
                await client.stream.send(b"[")
                with anyio.move_on_after(0.002):
                    answer = await client.stream.receive()
        assert error_of(json.loads(answer))[1] == "parse-error"
        await client.stream.send_eof()
        assert await client.is_closed()


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"a":' * 15_000 + b"1" + b"}" * 15_000,
        b'{"jsonrpc":"2.0","method":"job.list","id":' + b"9" * 4000 + b"}",
        b'{"jsonrpc":"2.0","method":"job.list","id":1e400}',
        b'{"jsonrpc":"2.0","method":"job.list","id":"' + b"\\u0041" * 5000 + b'"}',
        b'{"jsonrpc":"2.0","method":"' + b"j" * 1_000_000 + b'","id":1}',
        b'{"jsonrpc":"2.0","method":"job.\xff\xfelist","id":1}',
        b'{"jsonrpc":"2.0","method":"job.list","id":"\xed\xa0\x80"}',
        b'{"jsonrpc":"2.0","method":"job.list","id":1}\x00',
        b"\x00" * 1000,
        b"\xc0\x80\xf8\x88\x80\x80\x80",
        "\u202e{}".encode(),
    ],
    ids=lambda line: repr(line[:24]),
)
async def test_what_no_reader_should_swallow_is_refused(tmp_path: Path, line: bytes):
    async with serve(tmp_path / "s") as served, served.connect() as client:
        await client.send(line)
        answer = await client.receive()
        assert error_of(answer)[1] in ("parse-error", "invalid-request", "unknown-method")
        assert len(json.dumps(answer)) < 1000, "what was sent is not sent back"
        if not line.startswith((b"\x00", b"\xc0", b"\xe2")):
            assert (await client.call("job.list"))["result"] == []
        assert await is_served(served)


@pytest.mark.parametrize("number", [2**53, -(2**63), 2**63, 10**39, 1.5, -0.0, "", "\u2028", "0"])
async def test_an_id_comes_back_as_it_was_or_not_at_all(tmp_path: Path, number: object):
    async with serve(tmp_path / "s") as served, served.connect() as client:
        await client.send(request("job.list", id=number))
        answer = await client.receive()
        assert answer.get("id") == number or error_of(answer) == (-32600, "invalid-request", None)
        assert await is_served(served)


@pytest.mark.parametrize(
    ("method", "files"),
    [
        ("job.enqueue", {"recipe": ("r.toml", b"a = " + b"[" * 30_000)}),
        ("job.enqueue", {"recipe": ("r.toml", b"a." * 30_000 + b"a = 1")}),
        ("job.enqueue", {"keyboard": ("keyboard.json", b"[" * 30_000)}),
        ("job.enqueue", {"keyboard": ("rules.mk", b"MCU = $(" * 10_000)}),
        ("image.inspect", {"image": ("a.hex", b":" * 500_000)}),
        ("image.inspect", {"image": ("a.hex", b":00000001FF\n" * 40_000)}),
        ("image.inspect", {"image": ("a.elf", b"\x7fELF" + b"\xff" * 500)}),
        ("image.inspect", {"image": ("a.bin", b"\xff" * 1_100_000)}),
    ],
)
async def test_files_made_to_hurt_their_reader_are_refused(
    tmp_path: Path, method: str, files: dict[str, tuple[str, bytes]]
):
    params = {
        key: {"name": name, "content": base64.b64encode(content).decode()} for key, (name, content) in files.items()
    }
    async with serve(tmp_path / "s") as served, served.connect() as client:
        answer = await client.call(method, **params)
        assert await is_served(served)
    assert answer["error"]["data"]["code"] != "internal", answer
