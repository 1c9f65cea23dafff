"""Boards behind real pseudo-terminals, and the command that serves them."""

import os
import select
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ispd.catalog.parts import Parts
from vbench.faults import PowerLoss
from vbench.pty_board import PtyBoard, PtyServer
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

FAST = 20.0


@contextmanager
def terminal(path: str, speed: int = termios.B19200) -> Iterator[int]:
    """Open a terminal raw, as a host does."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        tty.setraw(descriptor)
        settings = termios.tcgetattr(descriptor)
        settings[4] = settings[5] = speed
        termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        yield descriptor
    finally:
        os.close(descriptor)


def read(descriptor: int, count: int, *, within_s: float = 5.0) -> bytes:
    got, limit = b"", time.monotonic() + within_s
    while len(got) < count:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, limit - time.monotonic()))
        assert ready, f"only {got.hex(' ')} came"
        got += os.read(descriptor, count - len(got))
    return got


def ask(descriptor: int, data: bytes, count: int) -> bytes:
    os.write(descriptor, data)
    return read(descriptor, count)


def test_survives_being_closed_and_opened_again(parts: Parts) -> None:
    target = AvrTarget(parts.avr("atmega32u4"))
    with PtyBoard(SerialProgrammer(target=target), time_scale=FAST) as board:
        for _ in range(3):
            with terminal(board.path) as port:
                assert ask(port, b"P ", 2) == b"\x14\x10"
                assert ask(port, b"u ", 5) == b"\x14\x1e\x95\x87\x10"
        removed = board.remove()
        assert removed is target
        with terminal(board.path) as port:
            assert ask(port, b"u ", 5) == b"\x14\xff\xff\xff\x10"
        board.insert(AvrTarget(parts.avr("atmega8a")))
        with terminal(board.path) as port:
            ask(port, b"Q P ", 4)
            assert ask(port, b"u ", 5) == b"\x14\x1e\x93\x07\x10"


def test_keeps_the_pace_of_the_line(parts: Parts) -> None:
    with PtyBoard(SerialProgrammer(target=AvrTarget(parts.avr("atmega32u4")))) as board, terminal(board.path) as port:
        ask(port, b"P ", 2)
        began = time.monotonic()
        ask(port, b"U\x00\x00 t\x01\x00F ", 260)
        assert time.monotonic() - began > (9 + 256) * 10 / 19200


def test_sees_the_hosts_baud_rate() -> None:
    with PtyBoard(SerialProgrammer(), time_scale=FAST) as board:
        with terminal(board.path, termios.B115200) as port:
            assert ask(port, b"0 0 ", 2) != b"\x14\x10"
        with terminal(board.path) as port:
            os.write(port, b" " * 30)  # ends whatever command the garbage began
            got = ask(port, b"0 ", 2)
            while got[-2:] != b"\x14\x10":
                got += read(port, 1)


def test_unplugging_hangs_the_host_up_and_plugging_makes_a_new_terminal() -> None:
    with PtyBoard(SerialProgrammer(faults=[PowerLoss(bytes=4)]), time_scale=FAST) as board:
        with terminal(board.path) as port:
            os.write(port, b"0 0 ")
            hung_up = select.poll()
            hung_up.register(port, select.POLLHUP)
            assert hung_up.poll(5000)
        assert not board.is_plugged
        board.plug()
        with terminal(board.path) as port:
            assert ask(port, b"0 ", 2) == b"\x14\x10"


def test_many_boards_share_a_thread_and_keep_real_time(parts: Parts) -> None:
    def read_page(ports: list[int]) -> float:
        began = time.monotonic()
        for port in ports:
            os.write(port, b"U\x00\x00 t\x01\x00F ")
        for port in ports:
            assert len(read(port, 260)) == 260
        return time.monotonic() - began

    with PtyServer() as server, ExitStack() as stack:
        boards = [
            stack.enter_context(PtyBoard(SerialProgrammer(target=AvrTarget(parts.avr("atmega32u4"))), server=server))
            for _ in range(16)
        ]
        ports = [stack.enter_context(terminal(board.path)) for board in boards]
        for port in ports:
            ask(port, b"P ", 2)
        one = min(read_page(ports[:1]) for _ in range(3))
        assert min(read_page(ports) for _ in range(3)) < 1.15 * one


# -- python -m vbench --------------------------------------------------------------------------------------------------

EVENTS = """
time_scale = 20.0
[[programmer]]
name = "A"
board = { part = "atmega32u4", state = "used" }
[[programmer]]
name = "B"
plugged = false
[[event]]
at = 1.0
plug = "B"
"""


def test_the_command_serves_until_it_is_told_to_stop_and_dumps_the_cells(tmp_path: Path) -> None:
    bench = tmp_path / "bench.toml"
    bench.write_text(EVENTS, encoding="utf-8")
    links, dump = tmp_path / "links", tmp_path / "dump"
    command = [sys.executable, "-m", "vbench", "--file", str(bench), "--links", str(links), "--dump", str(dump)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("A /dev/pts/")
            assert process.stdout.readline() == "B -\n"
            with terminal(str(links / "A")) as port:
                assert ask(port, b"P ", 2) == b"\x14\x10"
                assert ask(port, b"V\xac\x80\x00\x00 ", 3) == b"\x14\x00\x10"
                ask(port, b"Q ", 2)
            limit = time.monotonic() + 5
            while not (links / "B").exists():
                assert time.monotonic() < limit, "B was not plugged in"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert list(links.iterdir()) == []
    assert (dump / "A.flash.bin").read_bytes() == b"\xff" * 32768
    assert (dump / "A.eeprom.bin").stat().st_size == 1024
    state = (dump / "A.state.txt").read_text(encoding="utf-8").splitlines()
    assert {"part atmega32u4", "erased 1", "lfuse 0x5E", "lock 0x3F"} <= set(state)


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--part", "atmega9000"], "atmega9000"), (["--file", "/none.toml"], "none.toml")]
)
def test_the_command_refuses_what_it_cannot_build(arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "vbench", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2
    assert says in result.stderr
