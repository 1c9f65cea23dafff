"""The emulated Bus Pirate as a terminal and as the end of a line: menus, rates, lost bytes, latency, faults, bench files."""

import re
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner
from tests.unit.vbench.bus_pirate_rig import (
    AVR_FORMAT,
    PARTS,
    SIGNATURE,
    SPEED_125_KHZ,
    V3,
    V4,
    Pirate,
    make_pirate,
)

from ispd.errors import ConfigError, LinkClosedError
from ispd.transport.contract import PortKind, SerialSettings
from vbench.__main__ import main
from vbench.bench_port import BenchPort
from vbench.benchfile import read_bench
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.faults import CorruptReply, Mute, PowerLoss
from vbench.hardware import open_bench

ENABLE = bytes.fromhex("AC530000")


# -- the text interface ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "firmware", "title"),
    [
        (V3, "5.10", "Bus Pirate v3.5\r\nFirmware v5.10 (r559)  Bootloader v4.4\r\nDEVID:0x0447"),
        (V3, "6.1", "Bus Pirate v3.5\r\nFirmware v6.1 r1676  Bootloader v4.4\r\nDEVID:0x0447"),
        (V4, "6.3-r2151", "Bus Pirate v4\r\nFirmware v6.3-beta1 r2151 \r\nDEVID:0x1019"),
        (V4, "7.1", "Bus Pirate v4\r\nCommunity Firmware v7.1 - goo.gl/gCzQnW [HiZ 1-WIRE"),
        (V3, "8.0", "Bus Pirate v3.5\r\nElderlyPirate Firmware v8.0 [HiZ 1-WIRE"),
    ],
)
def test_says_who_it_is(hardware: BusPirateHardware, firmware: str, title: str) -> None:
    screen = make_pirate(hardware, firmware).text("i\n")
    assert screen.startswith("i\r\n" + title)
    assert screen.endswith("\r\nHiZ>")


def test_answers_at_the_prompt() -> None:
    pirate = make_pirate()
    assert pirate.text("\n\n") == "\r\nHiZ>\r\nHiZ>"
    assert pirate.text("ab\x08\x7f\r") == "ab\x08 \x08\x07\r\nSyntax error at char 1\r\nHiZ>"
    assert pirate.text("W\n") == "W\r\nCommand not used in this mode\r\nHiZ>"
    assert pirate.text("m\n").endswith("11. DIO\r\nx. exit(without change)\r\n\r\n(1)>")
    assert pirate.text("12\n").endswith("Invalid choice, try again\r\n\r\n(1)>")
    assert pirate.text("x") == "no mode change\r\nHiZ>"
    assert pirate.text("m 1\n") == "m 1\r\nReady\r\nHiZ>"


def test_boots_with_its_banner() -> None:
    v3, v4 = (Pirate(BusPirate(hardware, booted=False)) for hardware in (V3, V4))
    assert v3.wait(0.2).startswith(b"\r\nBus Pirate v3.5\r\n")
    assert v4.wait(0.2) == b"HiZ>"
    v3.programmer.power_off(v3.now)
    assert v3.text("i\n") == ""
    v3.programmer.power_on(v3.now)
    assert v3.wait(0.2).startswith(b"\r\nBus Pirate v3.5\r\n")


# -- baud rates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("divisor", "baud"), [(1, 2_000_000), (3, 1_000_000), (34, 115200)])
def test_the_terminal_changes_its_rate(divisor: int, baud: int) -> None:
    pirate = make_pirate()
    assert pirate.text("b\n").endswith("10. BRG raw value\r\n\r\n(9)>")
    assert pirate.text("10\n").endswith("Enter raw value for BRG\r\n\r\n(34)>")
    assert pirate.text(f"{divisor}\n") == f"{divisor}\r\nAdjust your terminal\r\nSpace to continue\r\n"
    pirate.programmer.set_baud(baud)
    assert pirate.text("x") == "", "only a space counts"
    assert pirate.text(" ") == "HiZ>"
    pirate.spi(SPEED_125_KHZ, AVR_FORMAT)
    pirate.send(b"\0\x0f")
    assert pirate.wait(0.2).startswith(b"BBIO1\x01"), "the reply is still sent at the new rate"
    pirate.programmer.set_baud(115200)
    assert pirate.text("\n") == "\r\nHiZ>", "a reset forgets the rate"


def test_nothing_is_understood_at_the_wrong_rate() -> None:
    pirate = make_pirate()
    assert pirate.text("b 10 3\n").endswith("Space to continue\r\n")
    pirate.send(b" ")
    assert pirate.wait(0.1) == b"", "not a space at 1 Mbaud"
    pirate.programmer.set_baud(1_000_000)
    assert pirate.text(" ") == "HiZ>"
    pirate.programmer.set_baud(115200)
    assert b"HiZ" not in pirate.text("\n").encode()


# -- the line ----------------------------------------------------------------------------------------------------------


def test_a_full_fifo_makes_a_v3_deaf() -> None:
    """At 30 kHz SPI is slower than the UART: sixteen bytes in one write overrun four bytes of room."""
    pirate = make_pirate()
    pirate.enter(0x60, AVR_FORMAT)
    pirate.send(b"\x1f" + bytes.fromhex("30000000") * 4)
    got = pirate.wait(1.0)
    assert 5 <= len(got) < 17
    assert pirate.programmer.lost == 17 - len(got)
    pirate.send(b"\0" * 40)
    assert pirate.wait(1.0) == b"", "nothing but a re-plug clears the error"
    pirate.programmer.power_off(pirate.now)
    pirate.programmer.power_on(pirate.now)
    assert pirate.wait(0.2).endswith(b"HiZ>")


def test_four_bytes_always_fit() -> None:
    pirate = make_pirate()
    pirate.enter(0x60, AVR_FORMAT)
    for _ in range(3):
        assert pirate.instruct("30000000") == bytes.fromhex("0030001E")
    assert pirate.programmer.lost == 0


def test_fast_lines_overrun_sooner() -> None:
    pirate = make_pirate()
    pirate.text("b 10 1\n")
    pirate.programmer.set_baud(2_000_000)
    assert pirate.text(" ") == "HiZ>"
    pirate.enter()
    assert pirate.signature() == SIGNATURE, "13 and four bytes"
    pirate.send(b"\x1f" + bytes.fromhex("30000000") * 4)
    pirate.wait(0.2)
    assert pirate.programmer.lost > 0


def test_what_comes_while_05_is_clocked_out_overruns() -> None:
    pirate = make_pirate()
    pirate.enter()
    loads = b"\x05\x01\0\0\0" + bytes.fromhex("40000055") * 64
    pirate.send(loads + b"\x01" * 4)
    assert pirate.wait(0.2) == b"\x01" + b"SPI1" * 4, "four bytes wait in the FIFO"
    pirate.send(loads + b"\x01" * 6)
    assert pirate.wait(0.2) == b"\x01" + b"SPI1" * 5, "the fifth in the shift register; the sixth is gone"
    assert pirate.programmer.lost == 1


@pytest.mark.parametrize(
    ("firmware", "divisor", "code", "lost"),
    [("8.0", 34, 1, False), ("8.0", 34, 0, True), ("8.0", 1, 3, True), ("8.0", 1, 4, False), ("6.1", 1, 3, False)],
)
def test_bytes_passed_through_need_a_bus_as_fast_as_the_line(
    firmware: str, divisor: int, code: int, lost: bool
) -> None:
    """Firmware 8.0 has no buffer behind 05; the others take up to 4,096 bytes at any rate."""
    pirate = make_pirate(V3, firmware)
    pirate.text(f"b 10 {divisor}\n")
    pirate.programmer.set_baud(4_000_000 // (divisor + 1))
    assert pirate.text(" ") == "HiZ>"
    pirate.spi(0x60 | code, AVR_FORMAT)
    pirate.send(b"\x05\x02\x04\0\0" + bytes(516))
    assert pirate.wait(1.0) == (b"" if lost else b"\x01")
    assert (pirate.programmer.lost > 0) == lost


def test_the_prompt_recovers_from_an_overrun() -> None:
    pirate = make_pirate()
    pirate.send(b"\n" * 40)  # each echoes a prompt, six times as long
    pirate.wait(1.0)
    assert pirate.programmer.lost > 0
    assert pirate.text("i\n").startswith("i\r\nBus Pirate v3.5")


def test_a_v4_holds_the_host_back() -> None:
    pirate = make_pirate(V4)
    pirate.enter(0x60, AVR_FORMAT)
    assert pirate.ask(b"\x1f" + bytes.fromhex("30000000") * 4, 17)[4::4] == b"\x1e" * 4
    loads = b"\x05\x01\0\0\0" + bytes.fromhex("40000055") * 64
    assert pirate.ask(loads + b"\x01" * 50, 201) == b"\x01" + b"SPI1" * 50
    assert pirate.programmer.lost == 0


@pytest.mark.parametrize(
    ("hardware", "firmware", "latency_s", "longest_s"),
    [(V3, "6.1", 16e-3, 18e-3), (V3, "6.1", 1e-3, 3e-3), (V3, "8.0", 16e-3, 2e-3), (V4, "6.3-r2151", 16e-3, 7e-3)],
)
def test_single_replies_wait_for_the_bridge(
    hardware: BusPirateHardware, firmware: str, latency_s: float, longest_s: float
) -> None:
    pirate = make_pirate(hardware, firmware, latency_s=latency_s)
    pirate.spi()
    began = pirate.now
    for _ in range(10):
        pirate.do(0x02)
    assert longest_s / 2.5 <= (pirate.now - began) / 10 <= longest_s


def test_how_the_host_cuts_its_stream_makes_no_difference() -> None:
    stream = b"\0" * 20 + b"\x01\x61\x8a\x49\x48" + b"\x13" + ENABLE + bytes.fromhex("13 30000000")
    replies = []
    for size in (1, 3, len(stream)):
        pirate = make_pirate(V4)
        for start in range(0, len(stream), size):
            pirate.send(stream[start : start + size])
        replies.append(pirate.wait(0.2))
    assert replies[0] == replies[1] == replies[2]
    assert replies[0].startswith(b"BBIO1SPI1\x01\x01\x01\x01\x01")


# -- faults ------------------------------------------------------------------------------------------------------------


def test_faults_are_those_of_every_serial_programmer() -> None:
    spoiled = make_pirate(faults=[CorruptReply(index=4, mask=0x03)])
    assert spoiled.ask(b"\0" * 20, 5) == b"ABIO1"
    silent = make_pirate(faults=[Mute(after_replies=9)])
    silent.binary()
    silent.send(b"\x01")
    assert silent.wait(0.2) == b""
    by_bytes = make_pirate(faults=[PowerLoss(bytes=21)])
    by_bytes.binary()
    by_bytes.send(b"\x01")
    assert by_bytes.wait(0.2) == b""
    assert by_bytes.programmer.power_lost_at is not None


def test_power_lost_inside_a_page() -> None:
    pirate = make_pirate(faults=[PowerLoss(instructions=10)])
    pirate.enter()
    for index in range(8):
        assert pirate.instruct("30000000")[3] == 0x1E, index
    pirate.send(b"\x13\x30\0\0\0")
    pirate.wait(0.1)
    assert pirate.programmer.power_lost_at is not None
    assert not pirate.target.powered
    assert not pirate.programmer.powered


# -- on the bench ------------------------------------------------------------------------------------------------------

BENCH = """
[[programmer]]
name = "P1"
kind = "buspirate"
path = "1-1.1"
own_supply = true
board = { part = "atmega32u4" }
[[programmer]]
name = "P2"
kind = "buspirate"
hardware = "v4"
firmware = "8.0"
plugged = false
"""


@pytest.mark.anyio
async def test_bench_files_have_bus_pirates(tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(BENCH, encoding="utf-8")
    bench = open_bench(file)
    assert [str(bench.programmer(name).usb) for name in bench.names] == ["0403:6001", "04D8:FB00"]
    async with bench, bench.hotplug() as events:
        assert (await anext(events)).kind is PortKind.SERIAL
        port = await bench.open_serial(SerialSettings(port="P1", baud=115200))
        await port.send(b"b 10 1\n")
        await until(port, b"Space to continue\r\n")
        await port.set_baud(2_000_000)
        await port.send(b" ")
        await until(port, b"HiZ>")
        await port.send(b"\0" * 20 + b"\x01")
        await until(port, b"BBIO1SPI1")
        bench.unplug("P1")
        with pytest.raises(LinkClosedError):
            await port.receive()
        target = bench.target("P1")
        assert target is not None
        assert target.powered, "it has a supply of its own"
        bench.plug("P2")
        port = await bench.open_serial(SerialSettings(port="P2", baud=115200))
        await port.send(b"i\n")
        await until(port, b"ElderlyPirate Firmware v8.0")


async def until(port: BenchPort, wanted: bytes) -> None:
    got = b""
    with anyio.fail_after(5):
        while wanted not in got:
            got += await port.receive()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('kind = "buspirate"\nfirmware = "9.9"', "unknown Bus Pirate firmware 9.9; known are 5.2, 5.10, 6.1"),
        ('kind = "buspirate"\nhardware = "v5"', "v5"),
        ('kind = "buspirate"\nbaud = 19200', "a buspirate has no baud"),
        ("own_supply = true", "a stk500v1 has no own_supply"),
    ],
)
def test_bench_files_refuse_other_bus_pirates(tmp_path: Path, options: str, says: str) -> None:
    file = tmp_path / "bench.toml"
    file.write_text(f'[[programmer]]\nname = "P1"\n{options}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_bench(file, PARTS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--hardware", "v3"], "a stk500v1 has no hardware"), (["--kind", "buspirate", "--baud", "9600"], "has no baud")],
)
def test_the_command_refuses_options_of_other_kinds(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert says in result.output
