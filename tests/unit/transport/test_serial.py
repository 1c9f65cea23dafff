"""The real serial port on real pseudo-terminals."""

import contextlib
import errno
import fcntl
import os
import struct
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import serial

from ispd.errors import ErrorCode, LinkClosedError, TransportError
from ispd.transport import serial as serial_module
from ispd.transport.contract import SerialSettings
from ispd.transport.holders import port_holders
from ispd.transport.machine import Machine
from ispd.transport.serial import open_serial_port

pytestmark = pytest.mark.anyio

TIOCGEXCL = 0x80045440
"""From the kernel's asm-generic/ioctls.h; Python does not name it."""

CBAUD = 0o010017
"""Where the rate stands in the control flags (the kernel's asm-generic/termbits.h)."""


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """Give the master side of a raw pseudo-terminal and the path of its slave, which stays open as a driver would."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, os.ttyname(slave)
    os.close(slave)
    with contextlib.suppress(OSError):  # a test that hangs up closes it itself
        os.close(master)


async def read_all(master: int, size: int) -> bytes:
    """Read exactly ``size`` bytes from the master side."""
    data = b""
    with anyio.fail_after(5):
        while len(data) < size:
            await anyio.wait_readable(master)
            data += os.read(master, size - len(data))
    return data


async def test_bytes_pass_both_ways_unchanged(terminal: tuple[int, str]) -> None:
    master, path = terminal
    everything = bytes(range(256))
    port = await Machine().open_serial(SerialSettings(port=path, baud=19200))
    assert port.name == path
    assert port.take() == b""
    await port.send(everything)
    assert await read_all(master, 256) == everything
    os.write(master, everything)
    heard = b""
    with anyio.fail_after(5):
        while len(heard) < 256:
            heard += await port.receive()
    assert heard == everything
    await port.aclose()


async def test_a_cancelled_receive_loses_nothing(terminal: tuple[int, str]) -> None:
    master, path = terminal
    port = await open_serial_port(SerialSettings(port=path, baud=19200))
    with anyio.move_on_after(0):
        await port.receive()
    os.write(master, b"\x14\x10")
    with anyio.fail_after(5):
        heard = await port.receive()
        while len(heard) < 2:
            heard += await port.receive()
    assert heard == b"\x14\x10"
    await port.aclose()


async def test_the_port_is_ours_alone_and_keeps_its_lines_when_closed(terminal: tuple[int, str]) -> None:
    _master, path = terminal
    watcher = os.open(path, os.O_RDWR | os.O_NOCTTY)
    attributes = termios.tcgetattr(watcher)
    attributes[2] |= termios.HUPCL
    termios.tcsetattr(watcher, termios.TCSANOW, attributes)
    port = await open_serial_port(SerialSettings(port=path, baud=115200))
    attributes = termios.tcgetattr(watcher)
    assert attributes[2] & termios.HUPCL == 0, "closing would drop DTR and reset an Uno"
    assert attributes[5] == termios.B115200
    assert struct.unpack("i", fcntl.ioctl(watcher, TIOCGEXCL, bytes(4))) == (1,)
    with pytest.raises(TransportError) as refused:
        await open_serial_port(SerialSettings(port=path, baud=115200))
    assert refused.value.code is ErrorCode.PORT_BUSY
    await port.aclose()
    assert struct.unpack("i", fcntl.ioctl(watcher, TIOCGEXCL, bytes(4))) == (0,)
    assert termios.tcgetattr(watcher)[2] & termios.HUPCL == 0
    os.close(watcher)
    again = await open_serial_port(SerialSettings(port=path, baud=115200))
    await again.aclose()
    await again.aclose()
    with pytest.raises(LinkClosedError):
        await again.send(b"0 ")


async def test_a_port_that_is_to_hang_up_drops_its_lines_when_closed(terminal: tuple[int, str]) -> None:
    """A sketch that is touched at 1200 baud looks at DTR: the kernel drops it at the last close, with HUPCL set."""
    _master, path = terminal
    watcher = os.open(path, os.O_RDWR | os.O_NOCTTY)
    attributes = termios.tcgetattr(watcher)
    attributes[2] &= ~termios.HUPCL
    termios.tcsetattr(watcher, termios.TCSANOW, attributes)
    port = await open_serial_port(SerialSettings(port=path, baud=1200, hangs_up=True))
    await port.aclose()
    attributes = termios.tcgetattr(watcher)
    assert attributes[2] & termios.HUPCL
    assert attributes[5] == termios.B1200
    os.close(watcher)


async def test_the_rate_changes_under_way_and_nothing_else_does(terminal: tuple[int, str]) -> None:
    master, path = terminal
    port = await open_serial_port(SerialSettings(port=path, baud=115200))
    before = termios.tcgetattr(master)
    await port.set_baud(2_000_000)
    after = termios.tcgetattr(master)
    assert after[4:6] == [termios.B2000000, termios.B2000000]
    assert after[2] & ~CBAUD == before[2] & ~CBAUD, "HUPCL stays cleared"
    assert after[:2] + after[3:4] + after[6:] == before[:2] + before[3:4] + before[6:]
    os.write(master, b"\x01")
    with anyio.fail_after(5):
        assert await port.receive() == b"\x01"
    await port.set_baud(250_000)  # not a rate that termios names
    await port.send(b"BBIO1")
    assert await read_all(master, 5) == b"BBIO1"
    for impossible in (0, -1, 1 << 40):
        with pytest.raises(TransportError) as refused:
            await port.set_baud(impossible)
        assert refused.value.code is ErrorCode.INVALID_PARAMETER
    await port.set_baud(115200)
    assert termios.tcgetattr(master) == before
    await port.aclose()
    with pytest.raises(LinkClosedError):
        await port.set_baud(115200)


async def test_a_hang_up_is_one_error_for_readers_and_writers(terminal: tuple[int, str]) -> None:
    master, path = terminal
    port = await open_serial_port(SerialSettings(port=path, baud=19200))
    async with anyio.create_task_group() as tasks:

        async def expect_hang_up() -> None:
            with pytest.raises(LinkClosedError):
                await port.receive()

        tasks.start_soon(expect_hang_up)
        await anyio.lowlevel.checkpoint()
        os.close(master)
    with pytest.raises(LinkClosedError):
        await port.send(b"0 ")
    with pytest.raises(LinkClosedError):
        await port.receive()
    await port.aclose()


async def test_a_port_may_be_closed_while_a_hang_up_closes_it(
    terminal: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a plug is pulled: the read fails, and the station closes what the hotplug says is gone."""
    begun, may_end = threading.Event(), threading.Event()

    class SlowToClose(serial_module._Tty):
        def close(self) -> None:
            descriptor, self.fd = self.fd, None  # what another thread sees between two lines of pyserial's
            begun.set()
            may_end.wait(30)
            self.fd = descriptor
            super().close()

    monkeypatch.setattr(serial_module, "_Tty", SlowToClose)
    port = await open_serial_port(SerialSettings(port=terminal[1], baud=19200))
    os.close(terminal[0])
    with anyio.fail_after(10):
        await anyio.to_thread.run_sync(begun.wait, 10)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(port.aclose)
            tasks.start_soon(port.aclose)
            await anyio.lowlevel.checkpoint()
            may_end.set()
        await port.aclose()


async def test_a_wedged_device_stops_its_sender_and_not_the_event_loop(terminal: tuple[int, str]) -> None:
    master, path = terminal
    port = await open_serial_port(SerialSettings(port=path, baud=19200))
    block, sent = bytes(4096), 0
    with anyio.move_on_after(0.3) as patience:
        while True:
            await port.send(block)
            sent += len(block)
    assert patience.cancelled_caught, "nobody reads, so that sending must wait at some point"
    assert len(await read_all(master, sent)) == sent
    await port.aclose()


async def test_ports_that_hang_while_opening_hold_up_no_other(
    terminal: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    real, hanging = serial_module._Tty, list[str]()

    def hang(port: str, *arguments: Any, **options: Any) -> serial.Serial:
        if port != terminal[1]:
            hanging.append(port)
            free.wait(30)
            raise serial.SerialException(errno.ENODEV, "no")
        return real(port, *arguments, **options)

    async def expect_nothing(number: int) -> None:
        with pytest.raises(TransportError):
            await open_serial_port(SerialSettings(port=f"/dev/ttyACM{number}", baud=19200))

    monkeypatch.setattr(serial_module, "_Tty", hang)
    async with anyio.create_task_group() as tasks:
        for number in range(64):
            tasks.start_soon(expect_nothing, number)
        try:
            with anyio.fail_after(10):
                while len(hanging) < 40:  # noqa: ASYNC110 - they hang in threads; anyio lends 40 of them
                    await anyio.sleep(0.001)
                port = await open_serial_port(SerialSettings(port=terminal[1], baud=19200))
                await port.set_baud(115200)
                await port.aclose()
        finally:
            free.set()


async def test_the_holder_of_a_busy_port_is_named(terminal: tuple[int, str]) -> None:
    _master, path = terminal
    code = f"import fcntl,os;d=os.open({path!r},os.O_RDWR);fcntl.flock(d,fcntl.LOCK_EX);print(1,flush=True);input()"
    async with await anyio.open_process([sys.executable, "-c", code]) as other:
        assert other.stdout is not None
        await other.stdout.receive()
        assert any(str(other.pid) in holder for holder in port_holders(path))
        with pytest.raises(TransportError, match=f"in use by .*{other.pid}") as refused:
            await open_serial_port(SerialSettings(port=path, baud=19200))
        assert "ModemManager" in refused.value.hint
        other.kill()


@pytest.mark.parametrize(
    ("number", "code", "hint"),
    [
        (errno.EACCES, ErrorCode.PERMISSION_DENIED, "dialout"),
        (errno.EBUSY, ErrorCode.PORT_BUSY, "ModemManager"),
        (errno.ENODEV, ErrorCode.PORT_NOT_FOUND, "cable"),
        (None, ErrorCode.PORT_NOT_FOUND, "name a tty"),
    ],
)
async def test_refusals_of_the_system_become_errors_with_a_cure(
    monkeypatch: pytest.MonkeyPatch, number: int | None, code: ErrorCode, hint: str
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise serial.SerialException(*([] if number is None else [number]), "no")

    monkeypatch.setattr(serial_module, "_Tty", refuse)
    with pytest.raises(TransportError) as refused:
        await open_serial_port(SerialSettings(port="/dev/ttyACM77", baud=19200))
    assert refused.value.code is code
    assert hint in refused.value.hint


async def test_what_is_not_there_or_not_a_tty_is_not_found(tmp_path: Path) -> None:
    plain = tmp_path / "file"
    plain.write_bytes(b"")
    with pytest.raises(TransportError, match="0 baud"):
        await open_serial_port(SerialSettings(port="/dev/ptmx", baud=0))
    for path in ("/dev/ttyACM77", str(plain)):
        with pytest.raises(TransportError) as refused:
            await open_serial_port(SerialSettings(port=path, baud=19200))
        assert refused.value.code is ErrorCode.PORT_NOT_FOUND


async def test_a_node_that_moved_to_another_place_is_not_opened(
    terminal: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await anyio.to_thread.run_sync(lambda: Path(terminal[1]).stat().st_rdev)
    entry = tmp_path / "devices/usb1/1-1/1-1.4/1-1.4:1.0/tty/ttyACM0"
    entry.mkdir(parents=True)
    (tmp_path / "dev/char").mkdir(parents=True)
    (tmp_path / f"dev/char/{os.major(device)}:{os.minor(device)}").symlink_to(entry)
    monkeypatch.setattr(serial_module, "_SYSFS", tmp_path)
    for path in ("1-1.4", "1-1.4:2", None):
        port = await open_serial_port(SerialSettings(port=terminal[1], baud=19200, path=path))
        await port.aclose()
    opened: list[object] = []
    monkeypatch.setattr(serial_module, "_Tty", lambda *arguments, **_: opened.append(arguments))
    with pytest.raises(TransportError, match=r"is at 1-1\.4 now") as moved:
        await open_serial_port(SerialSettings(port=terminal[1], baud=19200, path="1-1.3"))
    assert moved.value.code is ErrorCode.PORT_NOT_FOUND
    assert not opened, "opening would have reset an Uno"


async def test_an_impossible_baud_rate_is_refused(terminal: tuple[int, str]) -> None:
    with pytest.raises(TransportError) as refused:
        await open_serial_port(SerialSettings(port=terminal[1], baud=-5))
    assert refused.value.code is ErrorCode.INVALID_PARAMETER
