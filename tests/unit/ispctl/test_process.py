"""The command as users and scripts meet it: exit codes, what goes to stdout, what goes to stderr."""

import json
import os
import pty
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.surfaces.fake_station import FakeStation, ServedStation, onlookers, served
from tests.unit.ispctl.conftest import DEADLINE_S, Run

from ispctl.client import Client
from ispd.model.job import JobState
from ispd.model.part import MemoryKind

PASSED = None


def ending(*codes: str | None, state: JobState = JobState.DONE) -> Callable[[FakeStation, int], None]:
    return lambda station, job: station.finish(job, *codes, state=state)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        threading.Event().wait(0.005)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (ending(PASSED, PASSED), 0),
        (ending(PASSED, "verify-mismatch"), 1),
        (ending("verify-mismatch", "image-does-not-fit"), 1),
        (ending(PASSED, "image-does-not-fit"), 2),
        (ending("fuse-refused", "fuse-confirm"), 2),
        (ending("recipe-invalid"), 2),
        (ending(state=JobState.EMPTY), 1),
        (ending(PASSED, state=JobState.CANCELLED), 1),
    ],
)
@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["text", "json"])
def test_enqueue_wait_ends_as_the_job_ended(
    server: ServedStation,
    run: Run,
    image: Path,
    end: Callable[[FakeStation, int], None],
    code: int,
    as_json: tuple[str, ...],
):
    server.station.when_enqueued = end
    done = run(*as_json, "enqueue", image, "--wait")
    assert done.returncode == code, done.stderr
    assert done.stderr == ""
    if as_json:
        first, *_, last = [json.loads(line) for line in done.stdout.splitlines()]
        assert (first["id"], first["state"], last["id"]) == (1, "running", 1)
        assert JobState(last["state"]).is_final
        events = [json.loads(line) for line in done.stdout.splitlines()][1:-1]
        assert [event["kind"] for event in events] == ["job", *["unit"] * len(server.station.units_by_id), "job"]


def test_without_wait_the_job_is_only_created(server: ServedStation, run: Run, image: Path):
    done = run("--json", "enqueue", image, image, "--slots", "A2,A1", "--count", 3, "--part", "m32u4")
    assert done.returncode == 0
    job = json.loads(done.stdout)
    assert (job["slots"], job["count"], job["part"]) == (["A2", "A1"], 3, "atmega32u4")
    assert len(server.station.recipes[1].flash) == 32


def test_every_option_arrives(server: ServedStation, run: Run, image: Path, tmp_path: Path):
    (tmp_path / "data.bin").write_bytes(b"\x01\x02")
    (tmp_path / "keyboard.json").write_text('{"processor": "atmega32u4", "bootloader": "qmk-dfu"}')
    done = run(
        "enqueue", image, "--keyboard", "keyboard.json", "--bootloader", "atmel-dfu", "--lfuse", "0x5E", "--hfuse", "0xD9",
        "--efuse", "0b11110011", "--lock", "0x3F", "--eeprom", "data.bin", "--no-erase", "--force-fuses", "--yes",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recipe = server.station.recipes[1]
    assert (recipe.part, recipe.bootloader) == ("atmega32u4", "atmel-dfu-32u4")
    assert [recipe.fuses[kind] for kind in (MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE)] == [0x5E, 0xD9, 0xF3]
    assert (recipe.lock, recipe.erase, recipe.force_fuses, recipe.accept_fuses) == (0x3F, False, True, True)
    assert recipe.eeprom is not None
    assert len(recipe.eeprom) == 2


def test_how_to_write_arrives_too(server: ServedStation, run: Run, tmp_path: Path):
    (tmp_path / "app.bin").write_bytes(b"\x0c\x94\x01\x00" * 4)
    (tmp_path / "old.bin").write_bytes((b"\x0c\x94\x02\x00" * 4).ljust(0x7000, b"\xff") + b"\x0c\x94\x03\x00")
    (tmp_path / "rules.mk").write_text("MCU = atmega32u4\nBOOTLOADER = atmel-dfu\n")
    how = ("--sck", "187.5k", "--verify", "full", "--strip-sketch", "--keyboard", "rules.mk")
    done = run("enqueue", "app.bin", "old.bin", *how)
    assert done.returncode == 0, done.stderr
    recipe = server.station.recipes[1]
    assert (recipe.sck_hz, recipe.verify, recipe.bootloader) == (187_500, "full", "atmel-dfu-32u4")
    assert [segment.start for segment in recipe.flash.segments] == [0, 0x7000]
    for sck in ("fast", "0", "1e400", "-5k"):
        assert run("enqueue", "app.bin", "--sck", sck).returncode == 2


@pytest.mark.parametrize(
    ("said", "plan"),
    [
        (("--chain",), "chained"),
        (("--plan", "chained"), "chained"),
        (("--plan", "auto"), "auto"),
        (("--chain-only",), "chain-only"),
        ((), "isp-only"),
    ],
)
def test_the_way_the_firmware_takes(server: ServedStation, run: Run, tmp_path: Path, said: tuple[str, ...], plan: str):
    (tmp_path / "app.bin").write_bytes(b"\x0c\x94\x01\x00" * 4)
    (tmp_path / "boot.bin").write_bytes(b"\x0c\x94\x03\x00")
    done = run("enqueue", "app.bin", "boot.bin@0x7000", "--part", "m32u4", "--bootloader", "atmel-dfu", *said)
    assert done.returncode == 0, done.stderr
    recipe = server.station.recipes[1]
    assert recipe.plan == plan
    over_usb = [] if recipe.firmware is None else [segment.start for segment in recipe.firmware.segments]
    by_isp = [segment.start for segment in recipe.flash.segments]
    assert (by_isp, over_usb) == (([0, 0x7000], []) if plan == "isp-only" else ([0x7000], [0]))
    assert (f"plan: {plan}" in done.stdout) is (plan != "isp-only")
    assert run("enqueue", "app.bin", "--plan", "by-post").returncode == 2


@pytest.mark.parametrize("names", [("--chain", "--chain-only"), ("--chain-only", "--plan", "merged")])
def test_two_plans_are_refused_in_whatever_order(server: ServedStation, run: Run, image: Path, names: tuple[str, ...]):
    for words in (names, names[1:] + names[:1]):
        done = run("enqueue", image, *words)
        assert (done.returncode, "two plans" in done.stderr) == (2, True)
    assert "two plans" not in run("enqueue", image, "--chain", "--plan", "chained").stderr, "it is one"
    assert not server.station.recipes


def test_a_rescue_is_a_job_like_any_other(server: ServedStation, run: Run):
    done = run("--json", "rescue", "A1", "--unit", 1)
    assert (done.returncode, done.stderr) == (0, "")
    job = json.loads(done.stdout)
    assert (job["slots"], job["plan"]) == (["A1"], "chained")
    assert run("rescue", "A1", "--unit", 7).returncode == 2
    assert run("rescue", "A9").returncode == 2


def test_a_raw_file_may_carry_its_address(server: ServedStation, run: Run, tmp_path: Path):
    (tmp_path / "boot.bin").write_bytes(b"\x0c\x94\x01\x00")
    (tmp_path / "odd@0x10.bin").write_bytes(b"\x0c\x94\x01\x00")
    assert run("enqueue", "boot.bin@0x7000").returncode == 0
    assert server.station.recipes[1].flash.span.start == 0x7000
    assert json.loads(run("--json", "inspect", "boot.bin@28672").stdout)["start"] == 0x7000
    # a file that is called so is that file
    assert json.loads(run("--json", "inspect", "odd@0x10.bin").stdout)["start"] == 0
    for wrong in ("boot.bin@", "boot.bin@top", "@0x7000", "boot.bin@-1", "missing.bin@0x7000"):
        done = run("enqueue", wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr


@pytest.mark.parametrize("options", [("--lfuse", "0x5E"), ("--lock", "0x2F"), ("--eeprom", "left.bin")])
def test_fuses_lock_or_eeprom_need_no_image(server: ServedStation, run: Run, tmp_path: Path, options: tuple[str, str]):
    (tmp_path / "left.bin").write_bytes(b"\x01")
    done = run("enqueue", *options, "--part", "m32u4")
    assert done.returncode == 0, done.stderr
    recipe = server.station.recipes[1]
    assert (len(recipe.flash), recipe.erase) == (0, False)


def test_a_recipe_brings_the_files_beside_it(server: ServedStation, run: Run, tmp_path: Path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "fw.bin").write_bytes(b"\x0c\x94\x01\x00")
    (folder / "board.toml").write_text('part = "atmega32u4"\n[[image]]\nfile = "../fw.bin"\n')
    done = run("enqueue", "--recipe", "recipes/board.toml")
    assert done.returncode == 0, done.stderr
    assert len(server.station.recipes[1].flash) == 4
    (tmp_path / "fw.bin").unlink()
    done = run("enqueue", "--recipe", "recipes/board.toml")
    assert (done.returncode, "fw.bin can not be read" in done.stderr) == (2, True)
    (folder / "board.toml").write_text("part = ")
    assert run("enqueue", "--recipe", "recipes/board.toml").returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("enqueue",),
        ("enqueue", "board.bin", "--lfuse", "300"),
        ("enqueue", "board.bin", "--lfuse", "FF"),
        ("enqueue", "board.bin", "--count", "0"),
        ("enqueue", "board.bin", "--slots", "A1,,A2"),
        ("enqueue", "board.bin", "--slots", "A9"),
        ("enqueue", "board.bin", "--part", "z80"),
        ("enqueue", "board.bin", "--bootloader", "nope"),
        ("enqueue", "board.bin", "--part", "m328p", "--hfuse", "0x5F"),
        ("job", "99"),
        ("job", "x"),
        ("unit", "99"),
        ("slot", "A9"),
        ("slot", "A1", "burn"),
        ("read", "A1", "fuses"),
        ("read", "A1", "flash", "-o", "dump.txt"),
        ("merge", "board.bin", "-o", "out.hex"),
        ("merge", "board.bin", "board.bin", "-o", "out.txt"),
        ("fuses", "z80"),
        ("wait",),
        ("wait", "99"),
        ("burn",),
        ("--nonsense", "slots"),
    ],
)
def test_wrong_usage_and_refused_input(server: ServedStation, run: Run, image: Path, arguments: tuple[str, ...]):
    done = run(*arguments)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr
    assert not server.station.jobs_by_id


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "device", "empty", "large", "unreadable"])
def test_an_image_that_is_no_file_is_refused_at_once(server: ServedStation, run: Run, tmp_path: Path, kind: str):
    path = tmp_path / "image.hex"
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "empty":
            path.touch()
        case "large":
            path.write_bytes(b":" * ((1 << 20) + 1))
        case "unreadable":
            path = Path("/proc/self/mem/x")
    done = run("enqueue", path)
    assert done.returncode == 2
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.station.jobs_by_id


def test_without_a_daemon(run: Run, image: Path, tmp_path: Path):
    for arguments in (["slots"], ["--json", "enqueue", image], ["wait", "1"], ["watch"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert "no ispd answers at" in done.stderr
        assert "hint: start it" in done.stderr
    assert run("--socket", tmp_path / ("x" * 200), "slots").returncode == 3


def test_not_allowed(tmp_path: Path, run: Run, image: Path):
    with served(tmp_path / "ispd.sock", allows=onlookers):
        assert run("slots").returncode == 0
        done = run("enqueue", image)
        assert (done.returncode, done.stdout) == (4, "")
        assert "privilege" in done.stderr


@pytest.mark.parametrize("as_json", [(), ("--json",)], ids=["text", "json"])
def test_waiting_ends_in_time(server: ServedStation, run: Run, image: Path, as_json: tuple[str, ...]):
    assert run("enqueue", image).returncode == 0
    done = run(*as_json, "wait", 1, "--timeout", 0.2)
    assert (done.returncode, done.stdout) == (5, "")
    assert "ispctl wait 1" in done.stderr


def test_waiting_survives_a_restart_of_the_daemon(
    server: ServedStation, environment: dict[str, str], command: list[str], run: Run, image: Path
):
    assert run("enqueue", image).returncode == 0
    waiting = subprocess.Popen(
        [*command, "--json", "wait", "1"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with waiting:
        wait_until(lambda: bool(server.station.events._subscriptions))
        server.stop()
        server.start()
        server.call(server.station.finish, 1, PASSED)
        out, err = waiting.communicate(timeout=DEADLINE_S)
    assert (waiting.returncode, err) == (0, "")
    assert json.loads(out)["state"] == "done"


def test_waiting_ends_in_time_where_the_daemon_hangs(tmp_path: Path, run: Run):
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "ispd.sock"))
        hanging.listen()
        done = run("wait", 1, "--timeout", 0.2)
    assert (done.returncode, done.stdout) == (5, "")


def test_waiting_tells_each_unit_as_it_ends(
    server: ServedStation, environment: dict[str, str], command: list[str], image: Path
):
    process = subprocess.Popen(
        [*command, "enqueue", str(image), "--wait"], env=environment, stdout=subprocess.PIPE, text=True
    )
    with process:
        wait_until(lambda: bool(server.station.jobs_by_id))
        server.call(server.station.finish, 1, PASSED, "verify-mismatch")
        out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "A1: passed" in out.splitlines()
    assert "A1: failed: verify-mismatch" in out.splitlines()
    assert "A1: hint: do better" in out.splitlines()


def test_with_json_each_verb_prints_the_apis_own_result(server: ServedStation, run: Run, image: Path, tmp_path: Path):
    server.call(server.station.enqueue_blank)
    attached = {"name": "board.bin", "content": "DJQBAAyUAQAMlAEADJQBAAyUAQAMlAEADJQBAAyUAQA="}
    cases: list[tuple[tuple[object, ...], str, dict[str, Any]]] = [
        (("jobs",), "job.list", {}),
        (("job", 1), "job.get", {"id": 1}),
        (("units", "--job", 1), "unit.list", {"job": 1}),
        (("unit", 1), "unit.get", {"id": 1}),
        (("slots",), "slot.list", {}),
        (("slot", "A1"), "slot.get", {"name": "A1"}),
        (("slot", "A1", "disable"), "slot.set", {"name": "A1", "action": "disable"}),
        (("slot", "A1", "learn"), "slot.learn", {"name": "A1"}),
        (("programmers",), "programmer.list", {}),
        (("probe", "A1"), "slot.probe", {"name": "A1"}),
        (("read", "A1", "flash"), "slot.read", {"name": "A1", "memory": "flash"}),
        (("parts",), "part.list", {}),
        (("bootloaders",), "bootloader.list", {}),
        (("fuses", "atmega32u4", "--lfuse", "0x62"), "part.get", {"id": "atmega32u4", "lfuse": 0x62}),
        (("fuses", "m32u4", "--bootloader", "atmel-dfu"), "part.get", {"id": "m32u4", "bootloader": "atmel-dfu"}),
        (("inspect", image), "image.inspect", {"image": attached}),
        (("inspect", image, "--memory", "eeprom"), "image.inspect", {"image": attached, "memory": "eeprom"}),
        (("merge", image, image, "-o", tmp_path / "o.hex"), "image.merge", {"images": [attached, attached]}),
    ]
    with Client(server.path) as client:
        for arguments, method, params in cases:
            done = run("--json", *arguments)
            assert (done.returncode, done.stderr) == (0, "")
            assert json.loads(done.stdout) == client.call(method, **params), method
            plain = run(*arguments)
            assert (plain.returncode, plain.stderr) == (0, "")
            assert plain.stdout.strip()


def test_steering_a_job(server: ServedStation, run: Run, image: Path):
    run("enqueue", image)
    for verb, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert json.loads(run("--json", verb, 1).stdout)["state"] == state
    done = run("resume", 1)
    assert (done.returncode, done.stdout) == (2, "")


def test_read_and_merge_write_files(server: ServedStation, run: Run, image: Path, tmp_path: Path):
    assert run("read", "A1", "flash", "-o", "dump.bin").returncode == 0
    assert (tmp_path / "dump.bin").read_bytes() == bytes(range(256))
    assert run("read", "A1", "flash", "-o", "dump.hex").returncode == 0
    assert (tmp_path / "dump.hex").read_text() == run("read", "A1", "flash").stdout
    assert run("read", "A1", "signature").stdout == "0x1E 0x95 0x87\n"
    assert [line[:9] for line in run("merge", image, image, "-o", "both.hex").stdout.splitlines()[:2]] == [
        "both.hex ",
        "both.hex:",
    ]
    assert json.loads(run("--json", "inspect", "both.hex").stdout)["size_bytes"] == 32
    assert run("read", "A1", "flash", "-o", "missing/dump.hex").returncode == 2
    assert sorted(path.name for path in tmp_path.glob("*dump*")) == ["dump.bin", "dump.hex"]


def test_watching_into_a_pipe_gives_a_line_per_event(
    server: ServedStation, environment: dict[str, str], command: list[str]
):
    with subprocess.Popen([*command, "watch"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        wait_until(lambda: bool(server.station.events._subscriptions))
        for name in ("A1", "A2"):
            server.call(server.station.events.publish, server.station.slot(name))
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [(event["seq"], event["kind"], event["slot"]["name"]) for event in events] == [
            (1, "slot", "A1"),
            (2, "slot", "A2"),
        ]
        server.stop()
        assert process.wait(DEADLINE_S) == 3


def test_a_reader_that_has_seen_enough_is_no_error(
    server: ServedStation, environment: dict[str, str], command: list[str]
):
    line = " ".join([*command, "--json", "parts"]) + " | true; exit ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


class Terminal:
    """A pseudo terminal for a process's stdin, stdout and stderr, and what was shown on it."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            arguments,
            env={**environment, "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            self._read()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read to the end and return the exit code."""
        try:
            while True:
                self._read()
        except OSError:  # EIO: the last one closed the other side
            os.close(self._master)
        return self.process.wait(DEADLINE_S)

    def _read(self) -> None:
        chunk = os.read(self._master, 4096)
        assert chunk, self.shown
        self.shown += chunk.decode("utf-8", "replace")


@pytest.mark.parametrize(("answer", "code", "jobs"), [("y\n", 0, 1), ("n\n", 2, 0), ("\n", 2, 0)])
def test_at_a_terminal_the_fuse_guards_questions_are_asked(
    server: ServedStation,
    environment: dict[str, str],
    command: list[str],
    image: Path,
    answer: str,
    code: int,
    jobs: int,
):
    terminal = Terminal([*command, "enqueue", str(image), "--part", "m32u4", "--hfuse", "0x19"], environment)
    terminal.read_until("Write it all the same? [y/N]")
    assert "OCDEN" in terminal.shown
    terminal.type(answer)
    assert terminal.end() == code
    assert len(server.station.jobs_by_id) == jobs
    assert all(recipe.accept_fuses for recipe in server.station.recipes.values())


def test_elsewhere_they_are_refused(server: ServedStation, run: Run, image: Path):
    done = run("enqueue", image, "--part", "m32u4", "--hfuse", "0x19")
    assert done.returncode == 2
    assert "OCDEN" in done.stderr
    assert "--yes" in done.stderr
    assert run("enqueue", image, "--part", "m32u4", "--hfuse", "0x19", "--yes").returncode == 0


def test_the_live_board_shows_changes_and_a_restart(
    server: ServedStation, environment: dict[str, str], command: list[str]
):
    terminal = Terminal([*command, "watch"], environment)
    terminal.read_until("replace it")
    assert "A1" in terminal.shown
    server.stop()
    terminal.read_until("waiting for it")
    server.start()
    terminal.shown = ""
    terminal.read_until("A1")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


def test_names_of_others_cannot_steer_the_terminal(server: ServedStation, run: Run):
    server.call(server.station.enqueue_blank, "evil\x1b[2J.hex")
    assert "\x1b" not in run("jobs").stdout
    assert "evil?[2J.hex" in run("job", 1).stdout


def test_the_quick_path_loads_nothing_heavy(server: ServedStation, environment: dict[str, str], command: list[str]):
    """An editor runs the command on every save: ``--json slots`` shall take no more than 150 ms."""
    python, *rest = command
    measured_alone = {name: value for name, value in environment.items() if not name.startswith("COV")}
    done = subprocess.run(
        [python, "-X", "importtime", *rest, "--json", "slots"],
        env=measured_alone,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"anyio", "asyncio", "msgspec", "rich", "structlog", "jsonrpcserver", "ispd", "tomllib"}


def test_a_queue_that_is_full_for_a_moment_is_waited_for(tmp_path: Path):
    """A station's editors may all call at once; more than the backlog waits, and nobody is told that there is no daemon."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(0)
        with Client(path):
            later = threading.Thread(target=lambda: Client(path).close())
            later.start()
            assert later.is_alive()  # it waits where it would fail if it did not
            for _ in range(2):
                listening.accept()[0].close()
            later.join(DEADLINE_S)
            assert not later.is_alive()
