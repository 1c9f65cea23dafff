"""The bench's emulated programs say and do what the real ones do: each scenario is run by both, on devices made alike.

The real program runs unmodified on the bed of mocked USB devices; the emulated one on virtual time. Compared: exit code, both
streams word for word, each request to the device, what is left in the chip, files. Builds that are not installed are compared too where
``ISPD_DFU_PROGRAMMERS`` names them (paths, with colons between).
"""

import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.oracle.usb.bed import UsbBed, missing_packages
from tests.unit.vbench.tools.desk_bench import DeskBench
from tests.unit.vbench.tools.dfu_device import DfuDevice
from tests.unit.vbench.tools.flip_device import FlipDevice

from ispd.catalog.hexwriter import write_hex
from ispd.model.image import Image, Segment
from ispd.transport.contract import ToolOutcome
from vbench.virtual_time import run_virtual

pytestmark = pytest.mark.oracle

PLACE = "1-1.4"
OTHER = "1-1.5"
HELP = "Usage: dfu-programmer"
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


def say(
    *words: str,
    devices: Callable[[], dict[str, FlipDevice]] | None = None,
    first: tuple[tuple[str, ...], ...] = (),
) -> Scenario:
    return Scenario(words=words, devices=devices or one(), first=first)


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
    "first of two": say(CHIP, "erase", devices=lambda: {PLACE: FlipDevice(flash=b"a"), OTHER: FlipDevice(flash=b"b")}),
    # finding
    "no device": say(CHIP, "erase", devices=dict),
    "another chip": say(CHIP, "erase", devices=one(product_id=0x2FFB)),
    "second of two": say(f"{CHIP}:1,4", "erase", devices=lambda: {PLACE: FlipDevice(flash=b"a"), OTHER: FlipDevice(flash=b"b")}),
    "nobody there": say(f"{CHIP}:1,9", "erase"),
    # get and what an AVR has not
    **{f"get {name}": say(CHIP, "get", name) for name in ("bootloader-version", "ID1", "manufacturer", "family", "product-name", "HSB")},
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
        for name in ("crlf", "no_newline", "no_end", "sum", "loader", "large", "beyond", "start", "linear", "type9", "empty", "blank_line", "none")
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
    "flash by force of the sick": say(CHIP, "flash", "--force", "good.hex", devices=one(flash=b"\x00\x01\x02", keeps=3), first=(ERASE,)),
    "flash EEPROM by option": say(CHIP, "flash", "--force", "--suppress-validation", "--eeprom", "eeprom.hex"),
    "read": say(CHIP, "read", devices=one(flash=b"\xff" * 300 + PROGRAM + b"\xff" * 400 + b"end")),
    "read blank": say(CHIP, "read"),
    "read all": say(CHIP, "read", "--force", devices=one(flash=PROGRAM)),
    "read as it is": say(CHIP, "read", "--bin", devices=one(flash=b"\xff" * 300 + PROGRAM)),
    "read EEPROM": say(CHIP, "read", "--eeprom"),
    "read a large chip": say("at90usb1286", "read", devices=one(product_id=0x2FFB, app_bytes=0x1E000, flash=PROGRAM[:900] + b"\xff" * 0x10000 + b"far")),
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


def heard(devices: Mapping[str, FlipDevice] | Mapping[str, DfuDevice]) -> list[tuple[int, int, int, int, bytes, int]]:
    """What devices were told and asked, in order; time-outs are not seen on the wire."""
    return [
        (each.request_type, each.request, each.value, each.index, each.data, each.length if each.is_in else 0)
        for device in devices.values()
        for each in device.heard
    ]


def run_emulated_all(name: str, version: str, scenario: Scenario, devices: Mapping[str, FlipDevice]) -> ToolOutcome:
    async def main() -> ToolOutcome:
        bench = DeskBench(devices, {name: version})
        for words in scenario.first:
            await bench.run(name, *words, inputs=FILES)
        return await bench.run(name, *scenario.words, inputs=FILES)

    return run_virtual(main)


def first_line_of(text: str, usage: str) -> str:
    """Leave out the help after its first line, which the emulation does not have."""
    head, found, rest = text.partition(usage)
    return head + found + rest.partition("\n")[0] if found else text


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
    assert first_line_of(emulated.errors.decode(), HELP) == first_line_of(real.stderr.decode(), HELP)
    assert emulated.output == real.stdout
    assert emulated.exit_code == real.returncode
    assert cells(here) == cells(there)
    assert heard(here) == heard(there)


# -- dfu-util ----------------------------------------------------------------------------------------------------------


def with_suffix(
    content: bytes, *, vendor: int = 0x1EAF, product: int = 0x0003, release: int = 0x0100, length: int = 16
) -> bytes:
    numbers = (0xFFFF, product, vendor, release)
    body = content + b"".join(number.to_bytes(2, "little") for number in numbers) + b"UFD" + bytes((length,))
    return body + (zlib.crc32(body) ^ 0xFFFFFFFF).to_bytes(4, "little")


STM32 = "@Internal Flash  /0x08000000/01*001Ka,63*001Kg"
BINARIES: Mapping[str, bytes] = {
    "app.bin": PROGRAM,
    "whole.bin": PROGRAM[:2048],
    "tiny.bin": b"tiny",
    "suffix.bin": with_suffix(PROGRAM),
    "other.bin": with_suffix(PROGRAM, vendor=0x1234),
    "wild.bin": with_suffix(PROGRAM, vendor=0xFFFF, product=0xFFFF),
    "short.bin": with_suffix(PROGRAM, length=8),
    "bad.bin": with_suffix(PROGRAM)[:-1] + b"x",
    "prefix.bin": b"\x01\x00\x00\x00" + (100).to_bytes(4, "little") + bytes(100),
    "there.bin": b"",
}


def dfu(
    *words: str, place: dict[str, object] | None = None, second: dict[str, object] | None = None
) -> tuple[tuple[str, ...], Callable[[], dict[str, DfuDevice]]]:
    def devices() -> dict[str, DfuDevice]:
        found = {} if place is None else {PLACE: DfuDevice(**place)}  # type: ignore[arg-type]  # passed through
        return found if second is None else {**found, OTHER: DfuDevice(**second)}  # type: ignore[arg-type]  # as above

    return words, devices


HERE: dict[str, object] = {}
ST: dict[str, object] = {"vendor_id": 0x0483, "product_id": 0xDF11, "is_dfuse": True, "names": (STM32,)}
DOWN = ("-a", "1", "-D", "app.bin")
DFUSE = ("-a", "0", "-s", "0x08000400:leave", "-D", "app.bin")
UTIL: dict[str, tuple[tuple[str, ...], Callable[[], dict[str, DfuDevice]]]] = {
    # command line
    "nothing": dfu(),
    "version": dfu("-V"),
    "help": dfu("--help"),
    "unknown letter": dfu("-x"),
    "unknown word": dfu("--flash"),
    "ambiguous word": dfu("--de", "1"),
    "short word": dfu("--vers"),
    "argument too many": dfu("-l", "now"),
    "argument to none": dfu("--list=yes"),
    "no argument": dfu("-D"),
    "no argument of a word": dfu("--path"),
    "wait swallows": dfu("--wait", "-l", place=HERE),
    "wait swallows an option": dfu("--wait", "-d", "1eaf:0003", "-l", place=HERE),
    "number that is none": dfu("-t", "many", "-D", "app.bin"),
    "number that is empty": dfu("--cfg=", "-l"),
    # listing
    "list none": dfu("-l"),
    "list": dfu("-l", place=HERE),
    "list two": dfu("-l", place=HERE, second=ST),
    "list by path": dfu("-l", "-p", PLACE, place=HERE, second=ST),
    "list by a path that only begins so": dfu("-l", "-p", "1-1", place=HERE, second=ST),
    "list by device number": dfu("-l", "-n", "4", place=HERE, second=ST),
    "list by serial number": dfu("-l", "-S", "x", place=HERE, second={**ST, "serial": "x"}),
    "list by ids alone": dfu("-l", "-d", "0483:df11", place=HERE, second=ST),
    "list by ids of both modes": dfu("-l", "-d", "0483:df11,0483:df11", place=HERE, second=ST),
    "list by ids of DFU mode": dfu("-l", "-d", ",1eaf:*", place=HERE, second=ST),
    "list by no ids": dfu("-l", "-d", "-:-,-", place=HERE, second=ST),
    "list a setting by name": dfu("-l", "-a", "Flash", place=HERE),
    "list without texts": dfu("-l", place={"serial": "", "has_names": False}),
    "list without functional descriptor": dfu("-l", place={"has_functional": False}),
    "list in run-time mode": dfu("-l", place={"protocol": 1}),
    "list what is no DFU device": dfu("-l", "-i", "1", place=HERE),
    # finding
    "no device": dfu(*DOWN),
    "no such file": dfu("-a", "1", "-D", "none.bin", place=HERE),
    "two devices": dfu(*DOWN, place=HERE, second=HERE),
    "one of two": dfu("-p", OTHER, *DOWN, place=HERE, second=HERE),
    "two settings": dfu("-D", "app.bin", place=HERE),
    "no transfer size": dfu(*DOWN, place={"has_functional": False}),
    # plain downloads
    "download": dfu(*DOWN, place=HERE),
    "download and reset": dfu("-R", *DOWN, place=HERE),
    "download, gone by the reset": dfu("-R", *DOWN, place={"resets_away": True}),
    "download, idle at last": dfu(*DOWN, place={"ends_in": 2}),
    "download, idle at last, and reset": dfu("-R", *DOWN, place={"ends_in": 2}),
    "download, gone at last": dfu(*DOWN, place={"leaves_at": "status"}),
    "download, gone at the end": dfu(*DOWN, place={"leaves_at": "download"}),
    "download that fails": dfu(*DOWN, place={"fails_at": 1}),
    "download in other pieces": dfu("-t", "100", *DOWN, place=HERE),
    "download in small pieces": dfu("-t", "8", "-a", "1", "-D", "tiny.bin", place=HERE),
    "download in large pieces": dfu("-t", "8192", *DOWN, place=HERE),
    "download after an error": dfu(*DOWN, place={"first": 10}),
    "download after half a download": dfu(*DOWN, place={"first": 5}),
    "download to DfuSe by mistake": dfu("-s", "0x08000000", *DOWN, place=HERE),
    **{f"download {name}": dfu("-a", "1", "-D", f"{name}.bin", place=HERE) for name in ("whole", "tiny", "suffix", "other", "wild", "short", "bad", "prefix", "there")},
    "download of another's by force of ids": dfu("-d", "1234:0003", "-a", "1", "-D", "other.bin", place=HERE),
    # detaching
    "detach": dfu("-e", "-a", "1", place=HERE),
    "detach and reset": dfu("-e", "-R", "-a", "1", place=HERE),
    "detach in run-time mode": dfu("-e", "-a", "1", place={"protocol": 1, "first": 0, "names": ("app",)}),
    # uploads
    "upload": dfu("-a", "1", "-U", "out.bin", place={"content": PROGRAM}),
    "upload nothing": dfu("-a", "1", "-U", "out.bin", place=HERE),
    "upload of an even size": dfu("-a", "1", "-U", "out.bin", "-Z", "2048", place={"content": PROGRAM[:2048]}),
    "upload of another size": dfu("-a", "1", "-U", "out.bin", "-Z", "2000", place={"content": PROGRAM}),
    "upload over a file": dfu("-a", "1", "-U", "there.bin", place={"content": PROGRAM}),
    "upload that fails": dfu("-a", "1", "-U", "out.bin", place={"content": PROGRAM, "fails_at": 1}),
    # DfuSe
    "DfuSe": dfu(*DFUSE, place=ST),
    "DfuSe, gone at last": dfu(*DFUSE, place={**ST, "leaves_at": "status"}),
    "DfuSe, gone before": dfu(*DFUSE, place={**ST, "leaves_at": "download"}),
    "DfuSe with pauses": dfu(*DFUSE, place={**ST, "poll_ms": 20}),
    "DfuSe that fails": dfu(*DFUSE, place={**ST, "fails_at": 0}),
    "DfuSe that fails in the data": dfu(*DFUSE, place={**ST, "fails_at": 4}),
    "DfuSe without address": dfu("-a", "0", "-D", "app.bin", place=ST),
    "DfuSe with a wrong address": dfu("-s", "flash", "-D", "app.bin", place=ST),
    "DfuSe with a wrong modifier": dfu("-s", "0x08000400:later", "-D", "app.bin", place=ST),
    "DfuSe where it must not": dfu("-s", "0x08000000", "-D", "app.bin", place=ST),
    "DfuSe out of memory": dfu("-s", "0x08010000", "-D", "app.bin", place=ST),
    "DfuSe past the end": dfu("-s", "0x0800FF00", "-D", "app.bin", place=ST),
    "DfuSe, not at a page": dfu("-s", "0x08000500", "-D", "app.bin", place=ST),
    "DfuSe mass erase": dfu("-s", ":mass-erase:force", place=ST),
    "DfuSe mass erase without force": dfu("-s", "0x08000400:mass-erase", "-D", "app.bin", place=ST),
    "DfuSe unprotect": dfu("-s", ":unprotect:force", place=ST),
    "DfuSe without a layout": dfu(*DFUSE, place={**ST, "names": ("Flash",)}),
    "DfuSe upload": dfu("-s", "0x08000400:1500", "-U", "out.bin", place={**ST, "content": PROGRAM}),
    "DfuSe upload to the end": dfu("-s", "0x0800F000", "-U", "out.bin", place={**ST, "content": PROGRAM * 25}),
    "DfuSe upload from anywhere": dfu("-U", "out.bin", place={**ST, "content": PROGRAM * 25}),
    "DfuSe upload that fails": dfu("-s", "0x08000000:2048", "-U", "out.bin", place={**ST, "fails_at": 2}),
}  # fmt: skip


def without_trimmings(text: str) -> str:
    """Leave out the help, the banner's small print, and the bar's ways between its ends."""
    text = first_line_of(text, "Usage: dfu-util [options] ...")
    text = re.sub("Copyright .*?tickets/\n\n", "", text, flags=re.DOTALL)
    return re.sub(r"(\r(\w+ *)\t\[[= ]*\] +\d+% +\d+ bytes)+(?=\r\2)", "", text)


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("binaries")
    for name, content in BINARIES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", UTIL)
def test_dfu_util(name: str, binaries: Path) -> None:
    if shutil.which("dfu-util") is None:
        pytest.skip("dfu-util is not installed")
    words, make = UTIL[name]
    here, there = make(), make()
    (binaries / "out.bin").unlink(missing_ok=True)
    with UsbBed(there) as bed:  # type: ignore[arg-type]  # they answer like the bench's own
        real = subprocess.run(
            ["dfu-util", *words], env=bed.environment, cwd=binaries, capture_output=True, check=False, timeout=60
        )

    async def main() -> ToolOutcome:
        return await DeskBench(here).run("dfu-util", *words, inputs=BINARIES, outputs=["out.bin"])

    emulated = run_virtual(main)
    assert without_trimmings(emulated.errors.decode()) == without_trimmings(real.stderr.decode())
    assert without_trimmings(emulated.output.decode()) == without_trimmings(real.stdout.decode())
    assert emulated.exit_code == real.returncode
    out = binaries / "out.bin"
    assert emulated.files.get("out.bin") == (out.read_bytes() if out.exists() else None)
    left = [(bytes(device.content), device.erased, device.alternate) for device in here.values()]
    assert left == [(bytes(device.content), device.erased, device.alternate) for device in there.values()]
    assert heard(here) == heard(there)
