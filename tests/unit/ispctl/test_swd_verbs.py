"""Verbs about boards on debug probes: what they ask of the daemon, and what of its answers people see."""

import io
from base64 import b64encode
from pathlib import Path
from typing import Any, Self

import click
import msgspec
import pytest
from intelhex import IntelHex

from ispctl import verb
from ispctl.__main__ import cli
from ispctl.show import show_probe, show_programmers, show_unit
from ispctl.show_catalog import show_parts
from ispctl.text import failure_lines
from ispd.model.job import Failure, Unit
from ispd.model.part import Interface, MemoryKind
from ispd.model.report import PartReport
from ispd.model.station import Probe, Programmer

AT = "2026-11-21T08:00:00.000+00:00"
FLASH = bytes(range(256)) * 4
OPTION_BYTES = {"user": 0xFB, "data0": 0xFF, "data1": 0xFF, "wrp0": 0xFF, "wrp1": 0xFF, "wrp2": 0xFF, "wrp3": 0xFF}


class Daemon:
    """Answers as a daemon with an ST-Link on slot A1 does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, Any]] = {}

    def __call__(self, _path: Path) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def call(self, method: str, **params: Any) -> Any:
        self.asked[method] = {name: value for name, value in params.items() if value is not None}
        match method:
            case "slot.read":
                content = b64encode(FLASH).decode()
                return {"memory": params["memory"], "content": content, "start": 0x0800_0000}
            case "job.enqueue" | "slot.rescue":
                return {"id": 1, "state": "running", "slots": ["A1"], "count": None, "passed": 0, "failed": 0, "running": 0,
                        "sources": [], "part": None, "bootloader": None, "plan": "isp-only", "warnings": [], "seen": {}}  # fmt: skip
            case "slot.probe":
                return plain(bluepill())
            case "part.get":
                return {"part": {"note": "F103 with 64 or 128 KiB (medium density); more to know"}}
            case _:
                return {}


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    daemon = Daemon()
    monkeypatch.setattr(verb, "Client", daemon)
    return daemon


def run(*arguments: str) -> int:
    return int(cli.main(args=arguments, prog_name="ispctl", standalone_mode=False) or 0)


def plain(value: object) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return decoded


def test_every_word_of_swd_is_asked_for(daemon: Daemon):
    run(
        "enqueue", "--part", "bluepill", "--option-byte", "user=0xFB", "--option-byte", "WRP3 = 0b01111111", "--keep-rest",
        "--unlock", "--clones", "reject", "--lock", "0xA5", "--sck", "480k",
    )  # fmt: skip
    asked = daemon.asked["job.enqueue"]
    assert asked["option_bytes"] == {"user": 0xFB, "wrp3": 0x7F}
    assert (asked["keep_rest"], asked["unlock"], asked["clones"]) == (True, True, "reject")
    assert (asked["part"], asked["lock"], asked["sck_hz"]) == ("bluepill", 0xA5, 480_000)
    run("--json", "fuses", "bluepill", "--option-byte", "user=251")
    assert daemon.asked["part.get"] == {"id": "bluepill", "option_bytes": {"user": 251}}
    run("rescue", "A1", "--unlock")
    assert daemon.asked["slot.rescue"]["unlock"] is True


def test_what_is_not_said_is_not_asked_for(daemon: Daemon):
    run("enqueue")
    assert not daemon.asked["job.enqueue"].keys() & {"option_bytes", "clones", "keep_rest", "unlock"}


@pytest.mark.parametrize(
    "wrong",
    [
        ("--option-byte", "user"),
        ("--option-byte", "=0xFF"),
        ("--option-byte", "rdp=0xA5"),
        ("--option-byte", "lfuse=0xFF"),
        ("--option-byte", "user=0x100"),
        ("--option-byte", "user=-1"),
        ("--option-byte", "user=on"),
        ("--option-byte", "user=0xFB", "--option-byte", "USER=0xFF"),
        ("--clones", "burn"),
        ("--plan", "by-post"),
        ("--verify", "some"),
    ],
)
def test_wrong_words_bother_no_daemon(daemon: Daemon, wrong: tuple[str, ...]):
    with pytest.raises(click.UsageError) as refused:
        run("enqueue", *wrong)
    assert refused.value.exit_code == 2
    assert not daemon.asked


def test_flash_is_written_down_at_its_own_addresses(daemon: Daemon, tmp_path: Path, capfdbinary: Any):
    run("read", "A1", "flash", "-o", str(tmp_path / "dump.hex"))
    image = IntelHex(str(tmp_path / "dump.hex"))
    assert (image.minaddr(), image.tobinstr()) == (0x0800_0000, FLASH)
    run("read", "A1", "flash", "-o", str(tmp_path / "dump.bin"))
    assert (tmp_path / "dump.bin").read_bytes() == FLASH
    capfdbinary.readouterr()
    run("read", "A1", "flash")
    assert IntelHex(io.StringIO(capfdbinary.readouterr().out.decode())).minaddr() == 0x0800_0000


def test_every_memory_there_is_can_be_named(daemon: Daemon):
    for memory in MemoryKind:
        run("--json", "read", "A1", memory.value)
        assert daemon.asked["slot.read"] == {"name": "A1", "memory": memory.value}
    with pytest.raises(click.BadParameter, match="option"):
        run("read", "A1", "option")


def bluepill(**changes: Any) -> Probe:
    facts: dict[str, Any] = {
        "slot": "A1", "programmer": "stlink", "firmware": "V2J37S7", "serial": "38FF6A063151373320402543", "signature": "0x0410",
        "parts": ("stm32f103xb",), "chip": "revision Y, Cortex-M3 r1p1", "unique_id": "0667FF323532543457184318", "flash_bytes": 65536,
        "flash_page_bytes": 1024, "ram_bytes": 20480, "voltage_mv": 3254, "fuses": OPTION_BYTES, "lock": 0xA5, "sck_hz": 1_800_000,
    }  # fmt: skip
    return Probe(**facts | changes)


def test_a_probe_of_a_bluepill_has_all_that_st_info_shows_and_more():
    assert show_probe(plain(bluepill(warnings=("a clone",)))).splitlines() == [
        "slot A1",
        "programmer: stlink",
        "firmware: V2J37S7",
        "serial: 38FF6A063151373320402543",
        "signature: 0x0410",
        "part: stm32f103xb",
        "chip: revision Y, Cortex-M3 r1p1",
        "flash: 65536 bytes, pages of 1024",
        "RAM: 20480 bytes",
        "unique id: 0667FF323532543457184318",
        "supply: 3.25 V",
        "option bytes: user 0xFB  data0 0xFF  data1 0xFF  wrp0 0xFF  wrp1 0xFF  wrp2 0xFF  wrp3 0xFF  lock 0xA5",
        "protection: none",
        "SWD: 1800000 Hz",
        "warning: a clone",
    ]


def test_a_probe_says_of_which_line_a_chip_is(daemon: Daemon, capsys: pytest.CaptureFixture[str]):
    """A device id stands for a whole line: its part's name alone says little."""
    run("probe", "A1")
    assert "part: stm32f103xb, F103 with 64 or 128 KiB (medium density)" in capsys.readouterr().out.splitlines()
    run("--json", "probe", "A1")
    assert "medium density" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrp1", "lock", "words"),
    [
        (0xFF, 0x00, "against reading"),
        (0xFE, 0xA5, "against writing"),
        (0x00, 0xFF, "against reading and writing"),
    ],
)
def test_protection_is_told_in_words(wrp1: int, lock: int, words: str):
    shown = show_probe(plain(bluepill(fuses={**OPTION_BYTES, "wrp1": wrp1}, lock=lock)))
    assert f"protection: {words}" in shown.splitlines()


def test_what_a_protected_chip_does_not_tell_is_left_out():
    silent = Failure(
        code="target-not-responding", message="the chip's id reads 0x000", hint="are SWDIO and SWCLK swapped?"
    )
    shown = show_probe(
        plain(Probe(slot="A1", signature=None, programmer="stlink", firmware="V2J37S7", sck_hz=0, failure=silent))
    )
    assert shown.splitlines() == [
        "slot A1",
        "programmer: stlink",
        "firmware: V2J37S7",
        silent.message,
        f"hint: {silent.hint}",
    ]
    shown = show_probe(plain(bluepill(fuses=None, lock=None, unique_id=None, voltage_mv=None)))
    assert not any(word in shown for word in ("option bytes", "protection", "unique id", "supply"))


def test_an_avr_is_shown_as_ever_and_who_asked_it():
    probe = Probe(
        slot="A1", signature="1E 95 87", programmer="usbasp", firmware="1.6", parts=("atmega32u4",), fuses={"lfuse": 0x5E},
        lock=0x3F, flash_bytes=32768, flash_page_bytes=128, calibration=0x5A, clock="crystal", sck_hz=187_500,
    )  # fmt: skip
    assert show_probe(plain(probe)).splitlines() == [
        "slot A1",
        "programmer: usbasp",
        "firmware: 1.6",
        "signature: 1E 95 87",
        "part: atmega32u4",
        "fuses: lfuse 0x5E  lock 0x3F",
        "calibration: 0x5A",
        "clock: crystal",
        "SCK: 187500 Hz",
    ]


def test_a_units_record_of_an_stm32():
    unit = Unit(
        id=1, job=1, slot="A1", started=AT, part="stm32f103xb", signature="0x0410", chip="revision Y", unique_id="06" * 12,
        sck_hz=1_800_000, fuses_before={"user": 0xFF}, lock_before=0,
    )  # fmt: skip
    assert show_unit(plain(unit)).splitlines()[1:] == [
        "part: stm32f103xb",
        "signature: 0x0410",
        "chip: revision Y",
        f"unique id: {'06' * 12}",
        "SWD: 1800000 Hz",
        "before: user 0xFF  lock 0x00",
    ]


def test_programmers_tell_what_they_speak_where_not_all_speak_isp():
    isp = Programmer(kind="usbasp", port="usb:1-1.3", slot="A2", serial="1", interface=Interface.ISP)
    swd = Programmer(kind="stlink", port="usb:1-1.4", slot="A1", serial="38FF", interface=Interface.SWD)
    assert show_programmers([plain(isp)]).splitlines()[0].split() == [
        "SLOT",
        "KIND",
        "PORT",
        "USB",
        "PATH",
        "USB",
        "ID",
        "FIRMWARE",
    ]
    heading, *rows = show_programmers([plain(isp), plain(swd)]).splitlines()
    assert heading.endswith("FIRMWARE  SPEAKS  SERIAL")
    assert [row.split()[-2:] for row in rows] == [["isp", "1"], ["swd", "38FF"]]


def test_a_part_of_many_sizes():
    part = PartReport(
        id="stm32f103xb", name="STM32F103xB", avrdude_id="", signature="0x0410", flash_bytes=131072, flash_page_bytes=1024,
        eeprom_bytes=0, fuses={**OPTION_BYTES, "user": 0xFF}, fuse_masks={}, lock_mask=0xFF, boot_sizes=(), isp_pins={},
        interface=Interface.SWD, smallest_flash_bytes=65536,
    )  # fmt: skip
    row = show_parts([plain(part)]).splitlines()[1]
    assert row.split() == ["stm32f103xb", "0x0410", "65536-131072", "0", "all", "0xFF", "-"]


def test_an_address_in_flash_is_told_once():
    failure = Failure(
        code="verify-mismatch", message="flash at 0x08000A31 reads 0xBE instead of 0xB6", memory="flash", address=0x0800_0A31,
        expected=0xB6, actual=0xBE,
    )  # fmt: skip
    assert failure_lines(plain(failure)) == [failure.message]
    short = Failure(code="not-blank", message="not blank", memory="flash", address=0x0800_0000)
    assert failure_lines(plain(short)) == ["not blank", "flash address 0x08000000"]
