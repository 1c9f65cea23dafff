"""The daemon as a process of its own, with a virtual bench, on a bus of its own: flashed over D-Bus, and by a bus that dies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from dbus_fast import Variant
from tests.bench.live_daemon import LiveDaemon
from tests.surfaces.dbus import bed
from tests.surfaces.dbus.bed import connected, file_argument, needs_bus, private_bus

from ispd.catalog.hexwriter import write_hex
from ispd.model.image import Image, Segment
from ispd.surfaces.dbus.names import ROOT

pytestmark = [needs_bus, pytest.mark.anyio, pytest.mark.timeout(180)]

SLOTS = ("A1", "A2", "A3", "A4")


@asynccontextmanager
async def daemon(folder: Path, *, time_scale: float) -> AsyncIterator[LiveDaemon]:
    bench = [f"time_scale = {time_scale}\n"]
    config = ['[bench]\nfile = "bench.toml"\n[dbus]\nbus = "system"\n']
    for number, name in enumerate(SLOTS, 1):
        bench.append(f'[[programmer]]\nname = "P{number}"\nflavour = "uno"\npath = "1-1.{number}"\n')
        bench.append(f'board = {{ part = "atmega32u4", seed = {number} }}\n')
        config.append(f'[[slot]]\nname = "{name}"\nprogrammer = "stk500v1"\nport = "usb:1-1.{number}"\n')
    (folder / "bench.toml").write_text("".join(bench))
    live = LiveDaemon(folder, {})
    live.config.write_text(live.config.read_text() + "".join(config))
    await live.start()
    try:
        yield live
    finally:
        assert await live.stop() == 0, live.log()


def hex_file(folder: Path, count: int) -> Path:
    image = Image.of([Segment(0, bytes((7 * number) % 251 for number in range(count)))])
    file = folder / "board.hex"
    file.write_bytes(write_hex(image))
    return file


def descriptors_of(live: LiveDaemon) -> int:
    assert live.process is not None
    return len(list(Path(f"/proc/{live.process.pid}/fd").iterdir()))


async def enqueue(client: bed.Client, file: Path) -> int:
    with file.open("rb") as opened:
        options = {"images": Variant("aa{sv}", [file_argument(file.name)]), "slots": Variant("as", list(SLOTS))}
        job = await client.call("JobEnqueue", "a{sv}", options, fds=(opened.fileno(),))
    return int(job["id"])


async def test_an_image_by_descriptor_is_followed_to_its_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with private_bus(tmp_path, monkeypatch):
        async with daemon(tmp_path, time_scale=8.0):
            await bed.until_served()
            async with connected() as client:
                await client.listen()
                job = await enqueue(client, hex_file(tmp_path, 4000))
                assert await client.wait_for_change(f"{ROOT}/jobs/{job}", "State", "done")
                assert (await client.properties(f"{ROOT}/jobs/{job}", "Job"))["Passed"] == len(SLOTS)
                for number in range(1, len(SLOTS) + 1):
                    unit = await client.properties(f"{ROOT}/units/{number}", "Unit")
                    assert (unit["Job"], unit["Verdict"], unit["Part"]) == (job, "passed", "atmega32u4")
                for name in SLOTS:
                    told = client.changes(f"{ROOT}/slots/{name}")
                    assert {"write flash", "verify flash"} & {step for _, one in told if (step := one.get("Step"))}
                    gaps = [later - sooner for (sooner, _), (later, _) in pairwise(told)]
                    assert len(told) > 2
                    assert sum(gaps) / len(gaps) > 0.19  # five a second at most


@pytest.mark.slow
async def test_a_bus_that_dies_twenty_times_during_a_job_harms_no_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with private_bus(tmp_path, monkeypatch) as bus:
        async with daemon(tmp_path, time_scale=1.0) as live:
            await bed.until_served()
            async with connected() as client:
                job = await enqueue(client, hex_file(tmp_path, 22_000))
            before = descriptors_of(live)
            for _ in range(20):
                assert (await live.call("job.get", id=job))["state"] in ("queued", "running")
                bus.kill()
                bus.start()
                started = anyio.current_time()
                await bed.until_served()
                assert anyio.current_time() - started < 10
            assert descriptors_of(live) <= before + 1
            async with connected() as client:
                await client.listen()
                if (await client.call("JobGet", "x", job))["state"] != "done":
                    await client.wait_for_change(f"{ROOT}/jobs/{job}", "State", "done")
            assert "Traceback" not in live.log()
            assert live.log().count("not on the bus") >= 20
            units = await live.call("unit.list", job=job)
            assert [(unit["verdict"], len(unit["attempts"])) for unit in units] == [("passed", 1)] * len(SLOTS)
