"""Outside programs, run for real: Python in the part of the tools."""

import os
import signal
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import anyio
import pytest

from ispd.errors import ErrorCode, TransportError
from ispd.transport import process
from ispd.transport.contract import ToolRun
from ispd.transport.process import run_tool

pytestmark = pytest.mark.anyio

SOON_S = 20.0
"""No test waits as long unless it fails."""


def python(code: str, **more: object) -> ToolRun:
    """A run of a Python program."""
    words = (sys.executable, "-S", "-E", "-c", textwrap.dedent(code))
    return ToolRun(words=words, **{"deadline_s": SOON_S, **more})  # type: ignore[arg-type]  # what the dataclass takes


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where scratch folders are made, empty at first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def exists(process_number: int) -> bool:
    """Tell whether there is such a process, be it a zombie."""
    return Path(f"/proc/{process_number}").exists()


async def until_dead(process_number: int) -> None:
    """Wait until a process that was killed is dead; its zombie may be left to a new parent."""
    try:
        handle = os.pidfd_open(process_number)
    except ProcessLookupError:
        return
    with anyio.fail_after(SOON_S):
        await anyio.wait_readable(handle)
    os.close(handle)


def left_behind() -> tuple[int, list[str]]:
    """Return how many descriptors this process has open, and its child processes, zombies too."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(list(Path("/proc/self/fd").iterdir())), children


async def test_streams_files_and_exit_code(scratch: Path) -> None:
    """Both streams, wanted files, the code; its folder holds the inputs, is its home, and is gone afterwards."""
    pieces: list[bytes] = []
    outcome = await run_tool(
        python(
            """
            import os, sys
            from pathlib import Path
            Path("out.bin").write_bytes(Path("in.hex").read_bytes()[::-1])
            Path("unwanted").write_bytes(b"x")
            print(os.getcwd(), os.environ["HOME"], sep="|", end="")
            sys.stderr.buffer.write(b"\\xff words")
            sys.exit(3)
            """,
            inputs={"in.hex": b":00\n"},
            outputs=("out.bin", "never"),
        ),
        pieces.append,
    )
    folder, home = outcome.output.decode().split("|")
    assert (outcome.exit_code, outcome.errors, outcome.files) == (3, b"\xff words", {"out.bin": b"\n00:"})
    assert folder == home
    assert folder.startswith(str(scratch))
    assert is_empty(scratch)
    assert sorted(pieces) == sorted([outcome.output, outcome.errors])


async def test_data_is_no_talk() -> None:
    """What a program read and writes out is kept, and nobody who listens to its words hears it."""
    heard: list[bytes] = []
    run = python(
        "import sys; sys.stdout.buffer.write(bytes(range(256))); print('words', file=sys.stderr)", output_is_data=True
    )
    outcome = await run_tool(run, heard.append)
    assert (outcome.output, outcome.errors) == (bytes(range(256)), b"words\n")
    assert b"".join(heard) == b"words\n"


async def test_nothing_is_inherited_but_the_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever started the daemon reach no tool; what tests add does."""
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "XDG_CONFIG_HOME", "LANG", "DFU_DEBUG"):
        monkeypatch.setenv(name, "")
    show = python("import os; print(sorted(os.environ))")
    assert (await run_tool(show)).output.decode() == "['HOME', 'LC_ALL', 'PATH']\n"
    told = await run_tool(show, environment={"BED": "1"})
    assert told.output.decode() == "['BED', 'HOME', 'LC_ALL', 'PATH']\n"


async def test_signals_are_told() -> None:
    """A program that crashes ends by itself, with the signal as its code."""
    outcome = await run_tool(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert outcome.exit_code == -signal.SIGSEGV


STUBBORN = """
    import os, signal, subprocess, sys, time
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-E", "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"])
    print(os.getpid(), child.pid, flush=True)
    time.sleep(600)
"""


class Numbers:
    """Collects the two process numbers and the child's word from what the stubborn program prints."""

    def __init__(self) -> None:
        self.text = ""
        self.complete = anyio.Event()

    def take(self, piece: bytes) -> None:
        """Add a piece of output."""
        self.text += piece.decode()
        if "ready" in self.text and len(self.text.split()) == 3:
            self.complete.set()

    def all(self) -> list[int]:
        """Return both."""
        return [int(word) for word in self.text.split() if word.isdigit()]


async def test_deadline_kills_the_whole_group() -> None:
    """A program and its child that ignore every polite signal are dead when the run is over, and no zombie is left."""
    numbers = Numbers()
    outcome = await run_tool(python(STUBBORN, deadline_s=1.5), numbers.take)
    assert outcome.exit_code is None
    assert outcome.output.decode() == numbers.text
    assert numbers.complete.is_set()
    program, child = numbers.all()
    assert not exists(program)
    await until_dead(child)


async def test_cancelling_waits_until_it_is_dead(scratch: Path) -> None:
    """When the caller's task goes on, the program is gone, and its folder too."""
    numbers = Numbers()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_tool, python(STUBBORN), numbers.take)
        with anyio.fail_after(SOON_S):
            await numbers.complete.wait()
        tasks.cancel_scope.cancel()
    program, child = numbers.all()
    assert not exists(program)
    await until_dead(child)
    assert is_empty(scratch)


async def test_children_left_behind_are_killed() -> None:
    """A child that holds the pipes open does not outlive its parent, whose code counts."""
    begun = time.monotonic()
    outcome = await run_tool(
        python(
            """
            import subprocess, sys
            child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
            print(child.pid)
            sys.exit(7)
            """
        )
    )
    assert outcome.exit_code == 7
    await until_dead(int(outcome.output))
    assert time.monotonic() - begun < SOON_S / 2


async def test_child_that_left_the_group_holds_nobody_up() -> None:
    """Its words after the program's end are not waited for, beyond half a second."""
    begun = time.monotonic()
    outcome = await run_tool(
        python(
            """
            import subprocess, sys
            child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
            print(child.pid)
            """
        )
    )
    assert time.monotonic() - begun < SOON_S / 2
    number = int(outcome.output)
    os.kill(number, signal.SIGKILL)
    assert outcome.exit_code == 0
    await until_dead(number)


async def test_output_after_death_is_read() -> None:
    """What lies in the pipes when a program ends is not lost."""
    outcome = await run_tool(python("import sys; sys.stdout.write('x' * 60000); sys.stderr.write('y' * 60000)"))
    assert (outcome.output, outcome.errors) == (b"x" * 60000, b"y" * 60000)


async def test_endless_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that never stops talking is heard until its deadline, and what is kept has a limit; files as well."""
    monkeypatch.setattr(process, "_KEPT_BYTES", 100_000)
    heard = 0

    def hear(piece: bytes) -> None:
        nonlocal heard
        heard += len(piece)

    outcome = await run_tool(
        python(
            """
            open("big", "wb").write(bytes(200_000))
            while True:
                print("Download" * 1000)
            """,
            deadline_s=1.0,
            outputs=("big",),
        ),
        hear,
    )
    assert outcome.exit_code is None
    assert heard > len(outcome.output) == 100_000
    assert len(outcome.files["big"]) == 100_000


async def test_programs_that_cannot_run(scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Missing, without its interpreter, not executable, no program at all: told apart, and nothing is left behind."""
    tmp_path = tmp_path_factory.mktemp("programs")
    orphan, forbidden, garbage = tmp_path / "orphan", tmp_path / "forbidden", tmp_path / "garbage"
    orphan.write_text("#!/nonexistent/interpreter\n")
    forbidden.write_text("#!/bin/sh\n")
    garbage.write_bytes(b"\x00\x01\x02")
    orphan.chmod(0o755)
    garbage.chmod(0o755)
    for word, code in (
        ("no_such_tool_of_ours", ErrorCode.TOOL_MISSING),
        (str(orphan), ErrorCode.TOOL_MISSING),
        (str(forbidden), ErrorCode.PERMISSION_DENIED),
        (str(garbage), ErrorCode.TOOL_MISSING),
    ):
        with pytest.raises(TransportError) as failure:
            await run_tool(ToolRun(words=(word,), deadline_s=SOON_S))
        assert failure.value.code is code, word
        assert failure.value.hint
    assert is_empty(scratch)


async def test_no_descriptor_and_no_zombie_is_left() -> None:
    """Runs that end in each way leave this process as it was."""
    await run_tool(python("pass"))
    before = left_behind()
    for code, deadline_s in (("pass", SOON_S), ("import time; time.sleep(600)", 0.2), ("raise SystemExit(1)", SOON_S)):
        await run_tool(python(code, deadline_s=deadline_s))
    assert left_behind() == before
