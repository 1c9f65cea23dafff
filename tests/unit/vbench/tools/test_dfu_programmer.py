"""dfu-programmer's words, streams and exit codes by version, the ones that lie among them; and what reaches the chip."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.unit.vbench.tools.desk_bench import DeskBench
from tests.unit.vbench.tools.flip_device import FlipDevice

from ispd.catalog.hexwriter import write_hex
from ispd.model.image import Image, Segment
from ispd.transport.contract import ToolOutcome
from vbench.virtual_time import run_virtual, virtual

PLACE = "1-1.4"
CHIP = "atmega32u4"
OLD, NEW, LATEST = "0.6.1", "0.7.2", "1.1.0"
PROGRAM = bytes((address * 5) & 0xFF for address in range(3000))
GOOD = write_hex(Image.of([Segment(0, PROGRAM)]))
FILES = {
    "good.hex": GOOD,
    "no_newline.hex": GOOD.rstrip(b"\n"),
    "loader.hex": write_hex(Image.of([Segment(0, PROGRAM), Segment(0x7000, b"loader")])),
    "large.hex": write_hex(Image.of([Segment(0, b"a" * 0x8010)])),
    "eeprom.hex": b":0100000000FF\n:00000001FF\n",
}
SICK = {"flash": PROGRAM, "keeps": 2}
AT_256 = {"flash": b"\xff" * 0xFF + b"a", "keeps": 0x100}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run on what, and what the program says of it; ``told`` is all of standard error, ``hint`` a part of it.

    :param output: None where it is no matter.
    """

    version: str
    words: tuple[str, ...]
    code: int
    told: str | None = None
    hint: str = ""
    output: bytes | None = b""
    device: dict[str, Any] | None = field(default_factory=dict)


def case(
    version: str,
    words: str,
    code: int,
    told: str | None = None,
    *,
    hint: str = "",
    output: bytes | None = b"",
    device: dict[str, Any] | None = None,
    is_there: bool = True,
) -> Case:
    return Case(
        version=version,
        words=tuple(words.split()),
        code=code,
        told=told,
        hint=hint,
        output=output,
        device=(device or {}) if is_there else None,
    )


NOT_THERE = "dfu-programmer: no device present.\n"
CHECKING = "Checking memory from 0x0 to 0x6FFF...  "
BOOTLOADER = "Bootloader and code overlap.\nUse --suppress-bootloader-mem to ignore\n"
NOT_BLANK = "The target memory for the program is not blank.\nUse --force flag to override this error check.\n"
CASES = {
    # the command line
    "old: no force": case(OLD, f"{CHIP} erase --force", 1, hint="Usage: dfu-programmer"),
    "old: no launch": case(OLD, f"{CHIP} launch", 1, hint="Usage: dfu-programmer"),
    "new: no such option": case(NEW, f"{CHIP} erase --erase-first", 2, hint="Usage: dfu-programmer"),
    **{
        f"{version}: names QMK gives": case(
            version,
            "at90usb64 erase",
            1 if version == OLD else 2,
            hint="Unsupported target 'at90usb64'.\n",
            output=None,
        )
        for version in (OLD, NEW, LATEST)
    },
    "old: nobody": case(OLD, f"{CHIP} erase", 1, NOT_THERE, is_there=False),
    "new: nobody": case(NEW, f"{CHIP} erase", 3, NOT_THERE, is_there=False),
    "new: nobody at that address": case(NEW, f"{CHIP}:1,9 erase", 3, NOT_THERE),
    "latest: address in hexadecimal": case(
        LATEST, f"{CHIP}:0x1,0x3 get ID1", 0, "", output=b"Device boot ID 1: 0xdc (220)\n"
    ),
    "old: another chip": case(OLD, "at90usb1286 erase", 1, NOT_THERE),
    # erase
    "old: erase": case(OLD, f"{CHIP} erase", 0, "", device={"flash": PROGRAM}),
    "old: erase that does nothing": case(OLD, f"{CHIP} erase", 1, "", device=SICK),
    "old: erase that takes its time": case(OLD, f"{CHIP} erase", 1, "", device={"flash": PROGRAM, "busy_polls": 2}),
    "new: erase": case(
        NEW, f"{CHIP} erase --force", 0, f"Erasing flash...  Success\n{CHECKING}Empty.\n", device={"flash": PROGRAM}
    ),
    "new: erase that takes its time": case(
        NEW, f"{CHIP} erase --force", 0, f"Erasing flash...  Success\n{CHECKING}Empty.\n", device={"busy_polls": 20}
    ),
    "new: blank already": case(
        NEW, f"{CHIP} erase", 0, f"{CHECKING}Empty.\nChip already blank, to force erase use --force.\n"
    ),
    "new: harmless before, ill after": case(
        NEW,
        f"{CHIP} erase",
        1,
        f"{CHECKING}Not blank at 0x1.\nErasing flash...  Success\n{CHECKING}Not blank at 0x1.\n",
        device=SICK,
    ),
    "new: harmless before": case(
        NEW,
        f"{CHIP} erase",
        0,
        f"{CHECKING}Not blank at 0x1.\nErasing flash...  Success\n{CHECKING}Empty.\n",
        device={"flash": PROGRAM},
    ),
    "latest: ill, and 0": case(
        LATEST, f"{CHIP} erase --force", 0, f"Erasing flash...  Success\n{CHECKING}Not blank at 0x100.\n", device=AT_256
    ),
    "latest: ill, and unchecked": case(
        LATEST, f"{CHIP} erase --force --suppress-validation", 0, "Erasing flash...  Success\n", device=SICK
    ),
    "new: success that is none": case(
        NEW, f"{CHIP} erase --force", 3, "Erasing flash...  Success\n", device={"erase_status": 3}
    ),
    # flash
    "old: flash": case(OLD, f"{CHIP} flash good.hex", 0, "Validating...\n3000 bytes used (10.46%)\n"),
    "old: last line without its end": case(OLD, f"{CHIP} flash no_newline.hex", 1, hint="Error parsing the line.\n"),
    "old: with the loader": case(OLD, f"{CHIP} flash loader.hex", 1, BOOTLOADER),
    "old: over something": case(
        OLD,
        f"{CHIP} flash good.hex",
        1,
        "Validating...\nFlash did not validate. Did you erase first?\n",
        device={"flash": bytes(8)},
    ),
    "old: too large": case(
        OLD, f"{CHIP} flash large.hex", 1, "Address error.\nSomething went wrong with creating the memory image.\n"
    ),
    "new: last line without its end": case(NEW, f"{CHIP} flash --force no_newline.hex", 4, "Error reading line 190.\n"),
    "new: with the loader": case(NEW, f"{CHIP} flash --force loader.hex", 4, BOOTLOADER),
    "new: over something": case(
        NEW,
        f"{CHIP} flash good.hex",
        6,
        "Checking memory from 0x0 to 0xBFF...  Not blank at 0x1.\n" + NOT_BLANK,
        device=SICK,
    ),
    "new: refused": case(
        NEW,
        f"{CHIP} flash --force good.hex",
        6,
        hint=" X  ERROR\nMemory write error, use debug for more info.\n",
        device={"is_protected": True},
    ),
    "latest: a dead cell": case(
        LATEST,
        f"{CHIP} flash --force good.hex",
        7,
        hint="1 invalid bytes in program region, 0 outside region.\nFAIL\nMemory did not validate. Did you erase?\n",
        device={"stuck": 700},
    ),
    "latest: more than the file": case(
        LATEST,
        f"{CHIP} flash --force good.hex",
        8,
        hint="0 invalid bytes in program region, 3 outside region.\n",
        device={"flash": b"\xff" * 4000 + b"old"},
    ),
    "latest: more than the file, ignored": case(
        LATEST,
        f"{CHIP} flash --force --ignore-outside good.hex",
        0,
        hint="3 outside region.\n",
        device={"flash": b"\xff" * 4000 + b"old"},
    ),
    "latest: unreadable": case(
        LATEST,
        f"{CHIP} flash --force good.hex",
        5,
        hint="The device is read protected.\n",
        device={"is_unreadable": True},
    ),
    "latest: flash": case(
        LATEST,
        f"{CHIP} flash --force good.hex",
        0,
        "Programming 0xC00 bytes...\nSuccess\nReading 0x7000 bytes...\nSuccess\nValidating...  Success\n"
        "0xC00 bytes written into 0x7000 bytes memory (10.71%).\n",
    ),
    # leaving
    "old: gone as it is told to leave": case(OLD, f"{CHIP} reset", 1, ""),
    "old: still there": case(OLD, f"{CHIP} reset", 0, "", device={"leaves": False}),
    "old: start": case(OLD, f"{CHIP} start", 1, "dfu-programmer: failed to release interface 0.\n"),
    "new: gone as it is told to leave": case(NEW, f"{CHIP} launch", 254, ""),
    "latest: still there": case(LATEST, f"{CHIP} launch --no-reset", 0, "", device={"leaves": False}),
    # what else there is
    "old: version of the loader": case(OLD, f"{CHIP} get", 0, "", output=b"Bootloader Version: 0x20 (32)\n"),
    "old: quietly": case(OLD, f"{CHIP} get --quiet ID2", 0, "", output=b"0xfb (251)\n"),
    "old: cannot be secured": case(OLD, f"{CHIP} setsecure", 1, "target doesn't support security bit set.\n"),
    "new: cannot be secured": case(NEW, f"{CHIP} setsecure", 2, "target doesn't support security bit set.\n"),
}


def run(what: Case) -> tuple[ToolOutcome, FlipDevice | None]:
    device = None if what.device is None else FlipDevice(**what.device)
    bench = DeskBench({} if device is None else {PLACE: device}, {"dfu-programmer": what.version})

    async def main() -> ToolOutcome:
        return await bench.run("dfu-programmer", *what.words, inputs=FILES)

    return run_virtual(main), device


@pytest.mark.parametrize("name", CASES)
def test_says_and_returns(name: str) -> None:
    what = CASES[name]
    outcome, _ = run(what)
    told = outcome.errors.decode()
    assert what.hint in told
    assert what.told in (None, told)
    assert what.output in (None, outcome.output)
    assert outcome.exit_code == what.code


@pytest.mark.parametrize(("version", "force"), [(OLD, ""), (NEW, "--force"), (LATEST, "--force")])
def test_what_it_wrote_is_in_the_chip(version: str, force: str) -> None:
    outcome, device = run(case(version, f"{CHIP} flash {force} good.hex", 0))
    assert device is not None
    assert outcome.exit_code == 0
    assert device.flash == PROGRAM.ljust(0x7000, b"\xff")
    assert device.erases == 0, "writing is not erasing"


@pytest.mark.parametrize(
    ("version", "words", "kept"), [(OLD, "flash-eeprom", True), (LATEST, "flash --force --eeprom", False)]
)
def test_eeprom_around_a_byte_is_lost_from_0_7_on(version: str, words: str, kept: bool) -> None:
    device = FlipDevice()
    device.eeprom[:4] = b"keep"
    bench = DeskBench({PLACE: device}, {"dfu-programmer": version})
    outcome = run_virtual(
        lambda: bench.run("dfu-programmer", CHIP, *words.split(), "--suppress-validation", "eeprom.hex", inputs=FILES)
    )
    assert outcome.exit_code == 0
    assert bytes(device.eeprom[:4]) == (b"\x00eep" if kept else b"\x00\xff\xff\xff")


@virtual
async def test_identical_boards_are_told_apart_by_their_address_alone() -> None:
    devices = {f"1-1.{port}": FlipDevice(flash=bytes((port,))) for port in range(1, 5)}
    bench = DeskBench(devices)
    place = next(device for device in bench.devices() if device.path == "1-1.2")
    await bench.run("dfu-programmer", f"{CHIP}:{place.bus},{place.address}", "erase")
    assert [device.erases for device in devices.values()] == [0, 1, 0, 0]
    await bench.run("dfu-programmer", CHIP, "erase")
    assert [device.erases for device in devices.values()] == [0, 1, 0, 1], (
        "the last place is the first of libusb's list"
    )
