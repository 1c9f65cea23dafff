"""Results for people: what decides is there, nothing is said twice, nothing breaks where a field is empty."""

import io
from typing import Any

import msgspec
from rich.console import Console

from ispctl.board import draw
from ispctl.show import show_job, show_probe, show_slot, show_slots, show_unit
from ispctl.show_catalog import show_bootloaders, show_part
from ispctl.text import failure_lines, table
from ispd.model.job import Attempt, Failure, Job, JobState, StepRecord, Unit, Verdict
from ispd.model.recipe import PlanKind, SourceFile
from ispd.model.report import BootloaderReport
from ispd.model.station import Probe, Slot, SlotState

AT = "2026-11-21T08:00:00.000+00:00"
LATER = "2026-11-21T08:00:12.340+00:00"
MISMATCH = Failure(
    code="verify-mismatch", message="flash at 0x0A31 is wrong", hint="replace it", memory="flash", address=0x0A31, expected=0xB6, actual=0xBE
)  # fmt: skip


def plain(value: object) -> dict[str, Any]:
    """Return a result as it comes over the wire."""
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return decoded


def test_a_units_record():
    raised = StepRecord(name="raise sck", started=AT, seconds=0.05, note="SCK 62500 Hz, then\n125000 Hz")
    step = StepRecord(name="write flash", started=AT, seconds=7.29, bytes=20608)
    unit = Unit(
        id=7, job=3, slot="A1", started=AT, finished=LATER, part="atmega32u4", signature="1E 95 87", verdict=Verdict.FAILED,
        failure=MISMATCH, sck_hz=125_000, image_sha256="ab" * 32, sources=(SourceFile("board.hex", "cd" * 32),),
        fuses_before={"lfuse": 0x5E}, lock_before=0xEC, fuses_after={"lfuse": 0xFF}, lock=0, warnings=("look",),
        attempts=(Attempt(number=1, started=AT, verdict=Verdict.FAILED, steps=(raised, step)),),
    )  # fmt: skip
    assert show_unit(plain(unit)).splitlines() == [
        "unit 7 of job 3 on slot A1: failed: verify-mismatch",
        "flash at 0x0A31 is wrong",
        "flash expected 0xB6 actual 0xBE",
        "hint: replace it",
        "part: atmega32u4",
        "signature: 1E 95 87",
        "SCK: 125000 Hz",
        "files: board.hex",
        f"image: sha256 {'ab' * 32}",
        "before: lfuse 0x5E  lock 0xEC",
        "after: lfuse 0xFF  lock 0x00",
        "time: 12.3 s",
        "warning: look",
        "attempt 1: failed",
        "  raise sck: 0.05 s, 0 bytes (SCK 62500 Hz, then?125000 Hz)",
        "  write flash: 7.29 s, 20608 bytes",
    ]


def test_a_chained_unit_shows_where_its_firmware_went_and_what_the_tool_said():
    said = "Erasing flash...  10%\rErasing flash...  Success\n\nNot blank at 0x1.\x1b[2J\n"
    erase = StepRecord(name="erase over USB", started=AT, seconds=1.5, note="exit code 1", output=said)
    unit = Unit(
        id=2, job=1, slot="A1", started=AT, plan=PlanKind.CHAINED, target_usb="1-2.1", application_usb="FEED:6060",
        attempts=(Attempt(number=1, started=AT, steps=(erase,)),),
    )  # fmt: skip
    assert show_unit(plain(unit)).splitlines()[1:] == [
        "plan: chained",
        "board: USB port 1-2.1, runs as FEED:6060",
        "attempt 1: running",
        "  erase over USB: 1.50 s, 0 bytes (exit code 1)",
        "    | Erasing flash...  Success",
        "    | Not blank at 0x1.?[2J",
    ]
    slot = Slot(name="A1", state=SlotState.IDLE, target_usb="1-2.1")
    assert "board's USB port: 1-2.1, now nothing there" in show_slot(plain(slot)).splitlines()
    assert "1-2.1" in show_slots([plain(slot)])


def test_a_unit_that_has_just_begun():
    unit = Unit(id=1, job=1, slot="A1", started=AT, attempts=(Attempt(number=1, started=AT),))
    assert show_unit(plain(unit)).splitlines() == ["unit 1 of job 1 on slot A1: running", "attempt 1: running"]


def test_a_job_that_met_no_board_says_what_it_saw():
    job = Job(
        id=4,
        state=JobState.EMPTY,
        created=AT,
        slots=("A1", "A2"),
        count=None,
        seen={"A2": "no board", "A1": "no\nport"},
    )
    assert show_job(plain(job)).splitlines()[-2:] == ["A1: no?port", "A2: no board"]
    wanted = Job(
        id=4, state=JobState.RUNNING, created=AT, slots=("A1",), count=20, passed=3, part="atmega32u4", warnings=("hm",)
    )
    assert show_job(plain(wanted)).splitlines() == [
        "job 4: running, passed 3/20, failed 0, running 0",
        "slots: A1",
        "part: atmega32u4  bootloader: -",
        "warning: hm",
    ]


def test_a_slot_at_work_and_a_probe_without_answer():
    busy = Slot(
        name="A1",
        state=SlotState.BUSY,
        part="atmega32u4",
        job=1,
        unit=2,
        step="write flash",
        progress=0.415,
        note="paused",
    )
    assert show_slot(plain(busy)).splitlines() == [
        "slot A1: busy",
        "programmer: - on -",
        "target: atmega32u4 (-)",
        "unit 2 of job 1: write flash 42 %, paused",
        "passed 0, failed 0",
    ]
    assert "write flash 42 %, paused" in show_slots([plain(busy)])
    off = Slot(name="A1", state=SlotState.DISABLED, unit=2, note="disabled by hand")
    assert show_slot(plain(off)).splitlines()[2:] == ["last unit: 2", "disabled by hand", "passed 0, failed 0"]
    silent = Probe(
        slot="A1", signature=None, failure=Failure(code="target-not-responding", message="silence", hint="check RESET")
    )
    assert show_probe(plain(silent)).splitlines() == ["slot A1", "silence", "hint: check RESET"]


def test_a_failure_at_address_0_is_told():
    failure = Failure(code="verify-mismatch", message="wrong", memory="eeprom", address=0, expected=0, actual=0xFF)
    assert failure_lines(plain(failure)) == ["wrong", "eeprom address 0x0000 expected 0x00 actual 0xFF"]
    assert failure_lines(None) == []


def test_a_byte_that_is_part_of_the_address_is_told():
    failure = Failure(
        code="not-blank", message="not blank at 0x0000", memory="flash", address=0, expected=0xFF, actual=0
    )
    assert failure_lines(plain(failure)) == ["not blank at 0x0000", "flash expected 0xFF actual 0x00"]


def test_fuses_are_shown_as_asked_and_as_they_count_with_the_guards_word_below():
    explained: dict[str, Any] = {
        "part": {"name": "ATmega328P", "interface": "isp"},
        "fuses": {
            "fuses": {"lfuse": 0xF0, "efuse": 0x04}, "preset": "factory", "clock": "crystal", "brown_out": "off",
            "boot_section": "none", "verdict": "confirm",
            "bytes": [
                {"memory": "lfuse", "value": 0xF0, "asked": True, "mask": 0xFF, "effective": 0xF0},
                {"memory": "efuse", "value": 0xFC, "asked": False, "mask": 0x07, "effective": 0x04},
            ],
            "bits": [{"memory": "lfuse", "name": "cksel", "value": 14, "meaning": "crystal"}],
            "findings": [{"level": "confirm", "memory": "lfuse", "message": "no crystal, no answer"}],
        },
    }  # fmt: skip
    shown = show_part(explained).splitlines()
    assert shown[0] == "ATmega328P: lfuse 0xF0  efuse 0x04 (preset factory)"
    assert [line.split() for line in shown[6:8]] == [
        ["lfuse", "0xF0", "0xFF", "0xF0", "asked"],
        ["efuse", "0xFC", "0x07", "0x04", "factory"],
    ]
    assert shown[-2:] == [
        "fuse guard: asks before this is written (--yes accepts it)",
        "confirm: lfuse: no crystal, no answer",
    ]
    assert "clock: crystal" in shown
    of_stm32 = show_part({**explained, "part": {"name": "STM32F103xB", "interface": "swd"}})
    assert not any(word in of_stm32 for word in ("clock:", "brown-out:", "boot section:"))
    quiet = {**explained, "fuses": {**explained["fuses"], "verdict": None, "findings": []}}
    assert show_part(quiet).splitlines()[-1] == "fuse guard: nothing to say"


def test_a_table_without_rows():
    assert table(("A", "B"), []) == "none"
    assert table(("A", "B"), [(1, None)]) == "A  B\n1  -"


def test_the_board_names_what_to_do():
    slots = {
        "A1": plain(Slot(name="A1", state=SlotState.FAILED, failure=MISMATCH)),
        "A2": plain(Slot(name="A2", state=SlotState.BUSY, step="[bold]erase", part="atmega32u4")),
    }
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(draw(slots))
    shown = console.export_text()
    assert "flash at 0x0A31 is wrong: replace it" in shown
    assert "[bold]erase" in shown  # text of others is no markup


def test_bootloaders_say_what_they_are_for_and_what_serves_them():
    def row(**changes: Any) -> str:
        fields: dict[str, Any] = {
            "id": "one",
            "qmk": "q",
            "family": "f",
            "title": "t",
            "parts": (),
            "fuses": {},
            "lock": None,
        }
        fields |= {"section_start": None, "section_bytes": None, "application_max_bytes": None, "usb": ("03EB:2FF4",)}
        return show_bootloaders([msgspec.to_builtins(BootloaderReport(**fields | changes))]).splitlines()[1]

    assert row(parts=("atmega32u4",), tool="avrdude").split() == ["one", "q", "atmega32u4", "-", "03EB:2FF4", "avrdude"]
    assert row(chips=("RP2040",), by_hand="copy it").split() == ["one", "q", "RP2040", "-", "03EB:2FF4", "by", "hand"]
    assert "A1,A2,and 3 more" in row(chips=("A1", "A2", "A3", "A4", "A5"))
