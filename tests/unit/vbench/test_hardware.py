"""The bench as the daemon's hardware: ports, hotplug, boards, faults and bench files, on virtual time."""

import math
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, ErrorCode, LinkClosedError, TransportError
from ispd.model.part import MemoryKind
from ispd.transport.contract import Hardware, PortChange, SerialSettings
from vbench.faults import PowerLoss, StuckBits
from vbench.hardware import BenchHardware, BenchPort, open_bench
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget
from vbench.virtual_time import virtual

MakeTarget = Callable[[], AvrTarget]


@pytest.fixture
def make_target(parts: Parts) -> MakeTarget:
    return lambda: AvrTarget(parts.avr("atmega32u4"))


@pytest.fixture
def bench(make_target: MakeTarget) -> BenchHardware:
    bench = BenchHardware()
    bench.add("P1", SerialProgrammer(Flavour.UART, target=make_target()), path="1-1.1")
    bench.add("P2", SerialProgrammer(Flavour.TEENSYDUINO), path="1-1.2")
    bench.add("P3", SerialProgrammer(Flavour.LEONARDO), path="1-1.3", plugged=False)
    bench.add("P4", SerialProgrammer(), refusal=ErrorCode.PERMISSION_DENIED)
    return bench


async def opened(bench: BenchHardware, name: str, baud: int = 19200) -> BenchPort:
    return await bench.open_serial(SerialSettings(port=name, baud=baud))


async def ask(port: BenchPort, data: bytes, count: int) -> bytes:
    await port.send(data)
    got = b""
    with anyio.fail_after(5):
        while len(got) < count:
            got += await port.receive()
    return got


def test_is_hardware(bench: BenchHardware) -> None:
    contract: Hardware = bench
    assert contract is bench


@virtual
async def test_a_port_carries_bytes_at_line_speed(bench: BenchHardware) -> None:
    port = await opened(bench, "P1")
    assert port.name == "P1"
    assert port.take() == b""
    assert await ask(port, b"1 ", 9) == b"\x14AVR ISP\x10"
    assert anyio.current_time() == pytest.approx(11 * 10 / 19200)
    await port.send(b"0 ")
    await anyio.sleep(1)
    assert port.take() == b"\x14\x10"


@virtual
async def test_cancelling_a_receive_loses_nothing(bench: BenchHardware) -> None:
    port = await opened(bench, "P1")
    await port.send(b"1 ")
    got = b""
    for _ in range(100):
        with anyio.move_on_after(0.0004):
            got += await port.receive()
    assert got == b"\x14AVR ISP\x10"


@virtual
async def test_opening_is_exclusive_and_failures_have_codes(bench: BenchHardware) -> None:
    for name, code in (
        ("P3", ErrorCode.PORT_NOT_FOUND),
        ("P9", ErrorCode.PORT_NOT_FOUND),
        ("P4", ErrorCode.PERMISSION_DENIED),
    ):
        with pytest.raises(TransportError) as caught:
            await opened(bench, name)
        assert caught.value.code is code
    port = await opened(bench, "P1")
    with pytest.raises(TransportError) as caught:
        await opened(bench, "P1")
    assert caught.value.code is ErrorCode.PORT_BUSY
    await port.aclose()
    with pytest.raises(LinkClosedError):
        await port.send(b"0 ")


@virtual
async def test_what_comes_while_a_port_is_closed_is_lost(bench: BenchHardware) -> None:
    port = await opened(bench, "P1")
    await port.send(b"1 ")
    await port.aclose()
    await anyio.sleep(1)
    again = await opened(bench, "P1")
    assert await ask(again, b"0 ", 2) == b"\x14\x10"


@virtual
async def test_hotplug_tells_what_is_there_and_then_what_changes(bench: BenchHardware) -> None:
    async with bench.hotplug() as events:
        first = [await anext(events) for _ in range(3)]
        assert [(event.change, event.port) for event in first] == [
            (PortChange.ADDED, name) for name in ("P1", "P2", "P4")
        ]
        assert (str(first[1].usb), first[1].usb.serial, first[1].path) == ("16C0:0483", "12345", "1-1.2")
        bench.plug("P3")
        bench.unplug("P2")
        bench.unplug("P2")
        assert [(event.change, event.path) for event in (await anext(events), await anext(events))] == [
            (PortChange.ADDED, "1-1.3"),
            (PortChange.REMOVED, "1-1.2"),
        ]
        with anyio.move_on_after(1):
            pytest.fail(f"{await anext(events)}")


@virtual
async def test_a_replug_may_change_node_and_place_and_old_names_lead_nowhere(bench: BenchHardware) -> None:
    bench.unplug("P1")
    bench.unplug("P2")
    bench.plug("P2", node="P1")
    bench.plug("P1", node="/dev/ttyACM9", path="1-1.9")
    async with bench.hotplug() as events:
        found = [await anext(events) for _ in range(3)]
    assert {(event.port, event.path) for event in found} >= {("P1", "1-1.2"), ("/dev/ttyACM9", "1-1.9")}
    await (await bench.open_serial(SerialSettings(port="P1", baud=19200, path="1-1.2"))).aclose()
    for port, path in (("P1", "1-1.1"), ("P2", None), ("/dev/ttyACM9", "1-1.1")):
        with pytest.raises(TransportError) as refused:
            await bench.open_serial(SerialSettings(port=port, baud=19200, path=path))
        assert refused.value.code is ErrorCode.PORT_NOT_FOUND


@virtual
async def test_unplugging_wakes_whoever_waits_and_plugging_boots_again(bench: BenchHardware) -> None:
    port = await opened(bench, "P1")
    async with bench:
        bench.at(bench.now() + 2.0, lambda: bench.unplug("P1"))
        with pytest.raises(LinkClosedError):
            await port.receive()
        assert anyio.current_time() == pytest.approx(2.0)
        for call in (port.send(b"0 "), port.receive()):
            with pytest.raises(LinkClosedError):
                await call
        bench.plug("P1")
        port = await opened(bench, "P1")
        await port.send(b"0 ")
        began = anyio.current_time()
        assert await port.receive() == b"\x14"
        assert anyio.current_time() - began > 0.54, "the sketch blinks first"


@virtual
async def test_a_programmer_that_loses_power_mid_transfer_is_gone(make_target: MakeTarget) -> None:
    bench = BenchHardware()
    bench.add("P1", SerialProgrammer(target=make_target(), faults=[PowerLoss(bytes=7)]))
    async with bench.hotplug() as events:
        await anext(events)
        port = await opened(bench, "P1")
        assert await ask(port, b"0 ", 2) == b"\x14\x10"
        with pytest.raises(LinkClosedError):
            await ask(port, b"0 0 0 ", 6)
        assert (await anext(events)).change is PortChange.REMOVED
    bench.plug("P1")
    again = await opened(bench, "P1")
    assert await ask(again, b"0 ", 2) == b"\x14\x10"


@virtual
async def test_boards_come_and_go_under_an_open_port(bench: BenchHardware, make_target: MakeTarget) -> None:
    port = await opened(bench, "P1")
    await ask(port, b"B" + bytes(20) + b" ", 2)
    await ask(port, b"P ", 2)
    assert await ask(port, b"u ", 5) == b"\x14\x1e\x95\x87\x10"
    target = bench.remove("P1")
    assert isinstance(target, AvrTarget)
    assert not target.powered
    assert await ask(port, b"u ", 5) == b"\x14\xff\xff\xff\x10"
    assert bench.target("P1") is None
    bench.insert("P1", make_target())
    assert await ask(port, b"u ", 5) != b"\x14\x1e\x95\x87\x10", "'P' is a no-op while in progmode"
    await ask(port, b"Q P ", 4)
    assert await ask(port, b"u ", 5) == b"\x14\x1e\x95\x87\x10"
    with pytest.raises(ValueError, match="already"):
        bench.insert("P1", make_target())


@virtual
async def test_a_faster_bench(bench: BenchHardware, make_target: MakeTarget) -> None:
    fast = BenchHardware(time_scale=10.0)
    fast.add("P1", SerialProgrammer(target=make_target()))
    port = await opened(fast, "P1")
    await ask(port, b"P ", 2)
    assert anyio.current_time() == pytest.approx(0.0072, abs=0.0005)
    assert fast.now() == pytest.approx(anyio.current_time() * 10)


BENCH = """
time_scale = 2.0

[[programmer]]
name = "P1"
flavour = "leonardo"
path = "1-1.1"
fault = [{ kind = "power-loss", bytes = 20000 }]
[programmer.board]
part = "atmega32u4"
state = "used"
fuses = { lfuse = 0xFF }
crystal_hz = 0
fault = [{ kind = "stuck-bits", memory = "flash", address = 3, mask = 0x01, level = 1 }, { kind = "wrong-signature", signature = "1E 95 0F" }]

[[programmer]]
name = "P2"
path = "1-1.2"

[[event]]
at = 4.0
unplug = "P1"

[[event]]
at = 6.0
insert = "P2"
board = { part = "atmega8a", state = "locked" }

[[event]]
at = 8.0
remove = "P2"
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "bench.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@virtual
async def test_a_bench_file_is_the_bench_it_describes(write: Callable[[str], Path]) -> None:
    async with open_bench(write(BENCH)) as bench:
        assert bench.names == ("P1", "P2")
        target = bench.target("P1")
        assert target is not None
        assert target.fuses[MemoryKind.LFUSE] == 0xFF
        assert target.flash[:24576].count(0xFF) < 200
        assert target.clock_hz is None
        assert target.core._stuck == [StuckBits(memory=MemoryKind.FLASH, address=3, mask=1, level=1)]
        assert target.core._signature == b"\x1e\x95\x0f"
        port = await opened(bench, "P1")
        with pytest.raises(LinkClosedError):
            await port.receive()
        assert anyio.current_time() == pytest.approx(2.0), "bench second 4 at twice the speed"
        assert bench.target("P2") is None
        await anyio.sleep(1.1)
        newcomer = bench.target("P2")
        assert newcomer is not None
        assert (newcomer.part.id, newcomer.lock) == ("atmega8a", 0x2C)
        await anyio.sleep(1.0)
        assert bench.target("P2") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("speed = 1", "speed"),
        ("time_scale = 0", "time_scale"),
        ('[[programmer]]\nname = "P1"\n[[programmer]]\nname = "P1"', "P1"),
        ('[[programmer]]\nname = "P1"\nflavour = "usbasp"', "flavour"),
        ('[[programmer]]\nname = "P1"\npath = "1"\n[[programmer]]\nname = "P2"\npath = "1"', "path"),
        ('[[programmer]]\nname = "P1"\nboard = { part = "atmega9000" }', "atmega9000"),
        ('[[programmer]]\nname = "P1"\nboard = { part = "atmega8", fuses = { efuse = 1 } }', "efuse"),
        ('[[programmer]]\nname = "P1"\nfault = [{ kind = "lazy" }]', "power-loss"),
        ('[[programmer]]\nname = "P1"\nfault = [{ kind = "mute", soon = true }]', "soon"),
        ('[[programmer]]\nname = "P1"\nfault = [{ kind = "mute", after_replies = "x" }]', "after_replies"),
        ('[[programmer]]\nname = "P1"\nfault = [{ kind = "line-noise", index = 0, data = "zz" }]', "line-noise"),
        (
            """
            programmer = [{ name = "P1", board = { part = "atmega8", fault = [
              { kind = "stuck-bits", memory = "flash", address = 8192, mask = 1, level = 0 }] } }]
            """,
            "0x2000",
        ),
        ('[[event]]\nat = 1.0\nunplug = "P1"', "P1"),
        ('[[programmer]]\nname = "P1"\n[[event]]\nat = 1.0', "exactly one"),
        ('[[programmer]]\nname = "P1"\n[[event]]\nat = 1.0\ninsert = "P1"', "board"),
        ("[[programmer]", "bench.toml"),
    ],
)
def test_wrong_bench_files_are_refused_with_a_reason(write: Callable[[str], Path], text: str, says: str) -> None:
    with pytest.raises(ConfigError, match="bench file") as caught:
        open_bench(write(text))
    assert says in str(caught.value)


def test_a_missing_bench_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        open_bench(tmp_path / "none.toml")


def test_an_idle_bench_needs_no_wake_ups(bench: BenchHardware) -> None:
    for name in ("P1", "P2", "P3"):
        programmer = bench.programmer(name)
        assert isinstance(programmer, SerialProgrammer)
        programmer.take(1.0)
        assert programmer.next_time() == math.inf
