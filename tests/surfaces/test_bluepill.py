"""A Bluepill as its user meets it: the command line, the daemon as a process, an ST-Link of the bench, and the chip behind it."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from intelhex import IntelHex
from tests.bench.live_daemon import LiveDaemon

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
FLASH = 0x0800_0000
PROGRAM = struct.pack("<II", 0x2000_5000, FLASH | 0x101).ljust(0x100, b"\0") + b"\xfe\xe7" * 700
BENCH = """
time_scale = 20.0
[[programmer]]
name = "fresh"
kind = "stlink"
path = "1-1.1"
board_usb = "1-2.1"
board = { part = "bluepill" }
[[programmer]]
name = "locked"
kind = "stlink"
path = "1-1.2"
board_usb = "1-2.2"
board = { part = "bluepill", state = "locked", firmware_usb = "FEED:0002" }
"""
SLOTS = """
[bench]
file = "bench.toml"
[[slot]]
name = "A1"
programmer = "stlink"
port = "usb:1-1.1"
[[slot]]
name = "A2"
programmer = "stlink"
port = "usb:1-1.2"
"""


@pytest.fixture
async def station(tmp_path: Path) -> AsyncIterator[LiveDaemon]:
    (tmp_path / "bench.toml").write_text(BENCH)
    (tmp_path / "program.bin").write_bytes(PROGRAM)
    live = LiveDaemon(tmp_path, {})
    live.config.write_text(live.config.read_text() + SLOTS)
    await live.start()
    assert [slot["state"] for slot in await live.call("slot.list")] == ["idle", "idle"], (
        "the socket is up once all is ready"
    )
    try:
        yield live
    finally:
        assert await live.stop() == 0, live.log()


async def ispctl(station: LiveDaemon, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process(
        [sys.executable, "-m", "ispctl", "--socket", str(station.socket), *arguments],
        cwd=station.folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'daemon'}:{ROOT / 'clients'}"},
        check=False,
    )


async def answer(station: LiveDaemon, *arguments: str) -> Any:
    done = await ispctl(station, "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return json.loads(done.stdout)


async def test_a_probe_shows_field_by_field_what_st_info_does(station: LiveDaemon):
    """The fields of ``st-info --probe`` (stlink 1.7.0): version, serial, flash and page size, sram, chipid, descr."""
    probe = await answer(station, "probe", "A1")
    assert {
        "version": probe["firmware"],
        "flash": probe["flash_bytes"],
        "pagesize": probe["flash_page_bytes"],
        "sram": probe["ram_bytes"],
        "chipid": probe["signature"],
        "descr": probe["parts"],
    } == {
        "version": "V2J37S7",
        "flash": 0x10000,
        "pagesize": 1024,
        "sram": 0x5000,
        "chipid": "0x0410",
        "descr": ["stm32f103xb"],
    }
    assert re.fullmatch("[0-9A-F]{24}", probe["serial"])
    assert re.fullmatch("[0-9A-F]{24}", probe["unique_id"])
    assert (probe["programmer"], probe["lock"], probe["voltage_mv"] > 3000) == ("stlink", 0xA5, True)
    assert (probe["failure"], probe["warnings"]) == (None, [])
    shown = (await ispctl(station, "probe", "A1")).stdout.decode()
    for value in (
        "V2J37S7",
        probe["serial"],
        "65536 bytes, pages of 1024",
        "20480 bytes",
        "0x0410",
        probe["unique_id"],
    ):
        assert value in shown
    assert "protection: none" in shown.splitlines()


async def test_a_protected_board_is_told_how_to_be_opened_and_then_is(station: LiveDaemon):
    """What other tools call an unknown memory region."""
    flashing = ("enqueue", "program.bin", "--part", "bluepill", "--slots", "A2", "--wait")
    assert b"protection: against reading\n" in (await ispctl(station, "probe", "A2")).stdout
    assert (await ispctl(station, "read", "A2", "flash")).returncode == 1
    locked = await ispctl(station, *flashing)
    assert locked.returncode == 1
    assert b"target-locked" in locked.stdout
    assert b"hint: --unlock " in locked.stdout
    opened = await ispctl(station, *flashing, "--unlock", "--option-byte", "data0=0x42")
    assert opened.returncode == 0, opened.stdout + opened.stderr
    unit = (await answer(station, "units"))[0]
    assert (unit["verdict"], unit["lock_before"], unit["lock"]) == ("passed", 0, 0xA5)
    assert (unit["fuses_after"]["data0"], unit["fuses_after"]["user"]) == (0x42, 0xFF)
    assert "unlock" in [step["name"] for step in unit["attempts"][0]["steps"]]
    assert (await ispctl(station, "read", "A2", "data0")).stdout == b"0x42\n"


async def test_what_was_flashed_is_read_back_at_its_addresses(station: LiveDaemon):
    flashed = await ispctl(station, "enqueue", "program.bin", "--part", "bluepill", "--slots", "A1", "--wait")
    assert flashed.returncode == 0, flashed.stdout + flashed.stderr
    assert (await ispctl(station, "read", "A1", "flash", "-o", "dump.hex")).returncode == 0
    assert (await ispctl(station, "read", "A1", "flash", "-o", "dump.bin")).returncode == 0
    dump, raw = IntelHex(str(station.folder / "dump.hex")), (station.folder / "dump.bin").read_bytes()
    assert (dump.minaddr(), len(raw)) == (FLASH, 0x10000)
    assert dump.tobinstr() == raw == PROGRAM.ljust(0x10000, b"\xff")


async def test_what_belongs_to_avrs_is_refused_before_anything_happens(station: LiveDaemon):
    for wrong in (
        ("--lfuse", "0x5E"),
        ("--part", "m32u4"),
        ("--option-byte", "user=0xFE"),
        ("--bootloader", "caterina"),
    ):
        # of two parts the last one counts
        done = await ispctl(station, "enqueue", "program.bin", "--part", "bluepill", *wrong)
        assert (done.returncode, done.stdout) == (2, b""), wrong
        assert done.stderr.startswith(b"ispctl: ")
    assert await answer(station, "jobs") == []
