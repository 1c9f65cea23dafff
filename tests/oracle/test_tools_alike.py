"""The bench's emulated programs say and do what the real ones do: each scenario is run by both, on devices made alike.

The real program runs unmodified on the bed of mocked USB devices; the emulated one on virtual time. Compared: exit code, both
streams word for word, what is left in the chip, files. Builds that are not installed are compared too where
``ISPD_DFU_PROGRAMMERS`` names them (paths, with colons between).
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.oracle.usb.bed import UsbBed, missing_packages
from tests.unit.vbench.tools.desk_bench import DeskBench
from tests.unit.vbench.tools.flip_device import FlipDevice

from ispd.catalog.hexwriter import write_hex
from ispd.model.image import Image, Segment
from ispd.transport.contract import ToolOutcome
from vbench.virtual_time import run_virtual

pytestmark = pytest.mark.oracle

PLACE = "1-1.4"
OTHER = "1-1.5"
PROGRAM = bytes((address * 5 + (address >> 8)) & 0xFF for address in range(3000))


def hex_of(*segments: tuple[int, bytes]) -> bytes:
    return write_hex(Image.of([Segment(start, data) for start, data in segments]))


GOOD = hex_of((0, PROGRAM))
GAPS = hex_of((0x100, b"one"), (0x480, b"\xff\xfe" * 700), (0x6FF0, b"end"))
FILES: Mapping[str, bytes] = {
    "good.hex": GOOD,
    "gaps.hex": GAPS,
    "crlf.hex": GOOD.replace(b"\n", b"\r\n"),
    "no_newline.hex": GOOD.rstrip(b"\r\n"),
    "no_end.hex": GOOD.replace(b":00000001FF\n", b""),
    "sum.hex": GOOD.replace(b"\n:", b"0\n:", 1).replace(b":10", b":0F", 1),
    "loader.hex": hex_of((0, PROGRAM), (0x7000, b"loader")),
    "large.hex": hex_of((0, b"a" * 0x8010)),
    "beyond.hex": hex_of((0, PROGRAM), (0x10000, b"far")),
    "start.hex": GOOD.replace(b":00000001FF", b":0400000300007000" + b"89\n:00000001FF"),
    "linear.hex": b":0400000500001000E7\n" + GOOD,
    "type9.hex": b":00000009F7\n" + GOOD,
    "empty.hex": b":00000001FF\n",
    "blank_line.hex": GOOD.replace(b"\n", b"\n\n", 1),
    "eeprom.hex": hex_of((0, b"\x00"), (14, b"\x01")),
}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is run, and on what; ``first`` are runs that come before it."""

    words: tuple[str, ...]
    devices: Callable[[], dict[str, FlipDevice]] = field(default=lambda: {PLACE: FlipDevice()})
    first: tuple[tuple[str, ...], ...] = ()


def one(**options: object) -> Callable[[], dict[str, FlipDevice]]:
    return lambda: {PLACE: FlipDevice(**options)}  # type: ignore[arg-type]  # passed through


def say(*words: str, devices: Callable[[], dict[str, FlipDevice]] = one(), first: tuple[tuple[str, ...], ...] = ()) -> Scenario:  # noqa: B008, E501  # a function of constants
    return Scenario(words=words, devices=devices, first=first)


CHIP = "atmega32u4"
ERASE = (CHIP, "erase")
ALL_VERSIONS: dict[str, Scenario] = {
    # command line
    "nothing": say(),
    "one word": say(CHIP),
    "version": say("--version"),
    "targets": say("--targets"),
    "wrong target": say("at90usb64", "erase"),
    "no command of that name": say(CHIP, "wipe"),
    "letters of another case": say("ATmega32U4", "GET", "id1"),
    "empty argument": say(CHIP, "erase", ""),
    "force": say(CHIP, "erase", "--force", devices=one(flash=PROGRAM)),
    "force of a flash": say(CHIP, "flash", "--force", "good.hex"),
    "one word too many": say(CHIP, "reset", "now"),
    "two files": say(CHIP, "flash", "good.hex", "gaps.hex"),
    "no file": say(CHIP, "flash"),
    "address without bus": say(f"{CHIP}:,4", "erase"),
    "bus zero": say(f"{CHIP}:0,4", "erase"),
    "address zero": say(f"{CHIP}:1,0", "erase"),
    "address negative": say(f"{CHIP}:1,-3", "erase"),
    "octal, and what follows": say(f"{CHIP}:01,003x", "get", "ID1"),
    "hexadecimal": say(f"{CHIP}:0x1,0x3", "get", "ID1"),
    "suppress validation of a get": say(CHIP, "get", "ID1", "--suppress-validation"),
    "serial number": say(CHIP, "flash", "--serial=0a0b0c:16", "good.hex"),
    "odd serial number": say(CHIP, "flash", "--serial=0a0:16", "good.hex"),
    "serial number that is none": say(CHIP, "flash", "--serial=xx:16", "good.hex"),
    # finding
    "no device": say(CHIP, "erase", devices=dict),
    "another chip": say(CHIP, "erase", devices=one(product_id=0x2FFB)),
    "second of two": say(f"{CHIP}:1,4", "erase", devices=lambda: {PLACE: FlipDevice(flash=b"a"), OTHER: FlipDevice(flash=b"b")}),  # noqa: E501
    "nobody there": say(f"{CHIP}:1,9", "erase"),
    # get and what an AVR has not
    **{f"get {name}": say(CHIP, "get", name) for name in ("bootloader-version", "ID1", "manufacturer", "family", "product-name", "HSB")},  # noqa: E501
    "get nothing": say(CHIP, "get"),
    "get quietly": say(CHIP, "get", "ID2", "--quiet"),
    "get what there is not": say(CHIP, "get", "ID9"),
    "getfuse": say(CHIP, "getfuse", "LOCK"),
    "setfuse": say(CHIP, "setfuse", "LOCK", "0"),
    "setsecure": say(CHIP, "setsecure"),
    "configure": say(CHIP, "configure", "BSB", "1"),
    # erase
    "erase blank": say(CHIP, "erase"),
    "erase full": say(CHIP, "erase", devices=one(flash=PROGRAM)),
    "erase quietly": say(CHIP, "erase", "--quiet", devices=one(flash=PROGRAM)),
    "erase without check": say(CHIP, "erase", "--suppress-validation", devices=one(flash=PROGRAM, keeps=1)),
    "not blank at 0x1": say(CHIP, "erase", devices=one(flash=PROGRAM, keeps=2)),
    "not blank at 0x100": say(CHIP, "erase", devices=one(flash=b"\xff" * 0xFF + b"a", keeps=0x100)),
    "erase of a large chip": say("at90usb1286", "erase", devices=one(product_id=0x2FFB, app_bytes=0x1E000, flash=b"a" * 0x11000)),
    "not blank in the second half": say(
        "at90usb1286",
        "erase",
        devices=one(product_id=0x2FFB, app_bytes=0x1E000, flash=b"\xff" * 0x10001 + b"a", keeps=0x10002),
    ),
    "erase ends with errWRITE": say(CHIP, "erase", devices=one(flash=PROGRAM, erase_status=3)),
    "erase of a protected chip": say(CHIP, "erase", devices=one(flash=PROGRAM, is_protected=True)),
    "erase that takes its time": say(CHIP, "erase", devices=one(flash=PROGRAM, busy_polls=3)),
    # flash
    "flash": say(CHIP, "flash", "good.hex"),
    "flash quietly": say(CHIP, "flash", "--quiet", "good.hex"),
    "flash with gaps": say(CHIP, "flash", "gaps.hex"),
    "flash without check": say(CHIP, "flash", "--suppress-validation", "good.hex"),
    "flash over something": say(CHIP, "flash", "good.hex", devices=one(flash=b"\x00" * 8)),
    "flash over something elsewhere": say(CHIP, "flash", "good.hex", devices=one(flash=b"\xff" * 4000 + b"old")),
    "flash of the sick": say(CHIP, "flash", "good.hex", devices=one(flash=b"\x00\x01\x02", keeps=3), first=(ERASE,)),
    "flash of a protected chip": say(CHIP, "flash", "good.hex", devices=one(is_protected=True)),
    "flash of an unreadable chip": say(CHIP, "flash", "good.hex", devices=one(is_unreadable=True)),
    "flash with a dead cell": say(CHIP, "flash", "good.hex", devices=one(stuck=700)),
    "flash after erase": say(CHIP, "flash", "good.hex", devices=one(flash=PROGRAM[::-1]), first=(ERASE,)),
    **{
        f"flash {name}": say(CHIP, "flash", f"{name}.hex")
        for name in ("crlf", "no_newline", "no_end", "sum", "loader", "large", "beyond", "start", "linear", "type9", "empty", "blank_line", "none")  # noqa: E501
    },
    "flash beside the loader": say(CHIP, "flash", "--suppress-bootloader-mem", "loader.hex"),
    "flash at an address": say(f"{CHIP}:1,3", "flash", "good.hex"),
    "flash a large chip": say("at90usb1286", "flash", "beyond.hex", devices=one(product_id=0x2FFB, app_bytes=0x1E000)),
    "flash beyond a medium chip": say("at90usb646", "flash", "beyond.hex", devices=one(product_id=0x2FF9, app_bytes=0xE000)),
    "flash EEPROM": say(CHIP, "flash-eeprom", "eeprom.hex"),
    # reading
    "dump": say(CHIP, "dump", devices=one(flash=PROGRAM)),
    "dump of a large chip": say("at90usb1286", "dump", devices=one(product_id=0x2FFB, app_bytes=0x1E000, flash=PROGRAM * 30)),
    "dump of an unreadable chip": say(CHIP, "dump", devices=one(is_unreadable=True)),
    "dump EEPROM": say(CHIP, "dump-eeprom"),
    # leaving
    "reset": say(CHIP, "reset"),
    "reset of one that stays": say(CHIP, "reset", devices=one(leaves=False)),
    "start": say(CHIP, "start"),
    "start of one that stays": say(CHIP, "start", devices=one(leaves=False)),
}  # fmt: skip
LATER_VERSIONS: dict[str, Scenario] = {
    "erase by force of a blank chip": say(CHIP, "erase", "--force"),
    "flash by force of the sick": say(CHIP, "flash", "--force", "good.hex", devices=one(flash=b"\x00\x01\x02", keeps=3), first=(ERASE,)),  # noqa: E501
    "flash EEPROM by option": say(CHIP, "flash", "--force", "--suppress-validation", "--eeprom", "eeprom.hex"),
    "read": say(CHIP, "read", devices=one(flash=b"\xff" * 300 + PROGRAM + b"\xff" * 400 + b"end")),
    "read blank": say(CHIP, "read"),
    "read all": say(CHIP, "read", "--force", devices=one(flash=PROGRAM)),
    "read as it is": say(CHIP, "read", "--bin", devices=one(flash=b"\xff" * 300 + PROGRAM)),
    "read EEPROM": say(CHIP, "read", "--eeprom"),
    "read a large chip": say("at90usb1286", "read", devices=one(product_id=0x2FFB, app_bytes=0x1E000, flash=PROGRAM[:900] + b"\xff" * 0x10000 + b"far")),  # noqa: E501
    "launch": say(CHIP, "launch"),
    "launch without reset": say(CHIP, "launch", "--no-reset"),
    "launch one that stays": say(CHIP, "launch", devices=one(leaves=False)),
    "validate first": say(CHIP, "flash", "--validate-first", "good.hex", devices=one(flash=PROGRAM.ljust(3072, b"\xff"))),
    "erase first": say(CHIP, "flash", "--erase-first", "good.hex", devices=one(flash=PROGRAM[::-1])),
    "ignore outside": say(CHIP, "flash", "--ignore-outside", "good.hex", devices=one(flash=b"\xff" * 4000 + b"old")),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    if missing := missing_packages():
        pytest.skip(f"USB devices cannot be mocked without the Debian packages {missing}")


def installed() -> list[str]:
    named = os.environ.get("ISPD_DFU_PROGRAMMERS", "").split(":")
    return [path for path in (shutil.which("dfu-programmer"), *named) if path]


def version_of(path: str) -> str:
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    return (told.stdout + told.stderr).split()[1]


def cells(devices: Mapping[str, FlipDevice]) -> dict[str, tuple[bytes, bytes, int]]:
    return {path: (bytes(device.flash), bytes(device.eeprom), device.erases) for path, device in devices.items()}


def run_emulated_all(name: str, version: str, scenario: Scenario, devices: Mapping[str, FlipDevice]) -> ToolOutcome:
    async def main() -> ToolOutcome:
        bench = DeskBench(devices, {name: version})
        for words in scenario.first:
            await bench.run(name, *words, inputs=FILES)
        return await bench.run(name, *scenario.words, inputs=FILES)

    return run_virtual(main)


def first_line_of_usage(text: str) -> str:
    """Leave out the help after its first line, which the emulation does not have."""
    head, usage, rest = text.partition("Usage: dfu-programmer")
    return head + usage + rest.partition("\n")[0] if usage else text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", [*ALL_VERSIONS, *LATER_VERSIONS])
@pytest.mark.parametrize("program", installed() or ["dfu-programmer"], ids=os.path.dirname)
def test_dfu_programmer(program: str, name: str, folder: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip("dfu-programmer is not installed")
    version = version_of(program)
    scenario = ALL_VERSIONS.get(name) or LATER_VERSIONS[name]
    here, there = scenario.devices(), scenario.devices()
    with UsbBed(there) as bed:  # type: ignore[arg-type]  # they answer like the bench's own
        for words in (*scenario.first, scenario.words):
            real = subprocess.run(
                [program, *words], env=bed.environment, cwd=folder, capture_output=True, check=False, timeout=60
            )
    emulated = run_emulated_all("dfu-programmer", version, scenario, here)
    assert first_line_of_usage(emulated.errors.decode()) == first_line_of_usage(real.stderr.decode())
    assert emulated.output == real.stdout
    assert emulated.exit_code == real.returncode
    assert cells(here) == cells(there)
