"""The emulated Bus Pirate in binary mode: bytes in, bytes out, what they do to the target, for each firmware in the field."""

import pytest
from tests.unit.vbench.bus_pirate_rig import (
    AVR_FORMAT,
    POWER_RESET,
    POWER_RUN,
    SIGNATURE,
    SPEED_125_KHZ,
    V3,
    V4,
    make_pirate,
    make_target,
)

from ispd.model.part import MemoryKind
from vbench.bus_pirate import BusPirateHardware, BusPirateWiring
from vbench.bus_pirate_firmware import FIRMWARES

BYTE_S = 10 / 115200


# -- binary mode -------------------------------------------------------------------------------------------------------


def test_twenty_zeros_start_binary_mode() -> None:
    pirate = make_pirate()
    pirate.send(b"\0" * 19)
    assert pirate.wait(0.1) == b""
    assert pirate.text("\n") == "\r\nHiZ>", "other keys do not start the count again"
    assert pirate.ask(b"\0", 5) == b"BBIO1"
    assert pirate.ask(b"\0\0", 10) == b"BBIO1BBIO1"
    assert pirate.ask(b"\x02", 5) == b"BBIO1", "a mode that is not there returns at once"
    assert pirate.ask(b"\x1f", 1) == b"\0"


@pytest.mark.parametrize(
    ("hardware", "firmware", "screen"),
    [
        (V3, "6.1", b"\x01\r\nBus Pirate v3.5\r\n"),
        (V4, "6.3-r2151", b"\x01Bus Pirate v4\r\n"),
        (V4, "8.0", b"\x01Bus Pirate v4\r\n"),
        (V3, "7.1", b"\x01\r\nBus Pirate v3.5\r\n"),
    ],
)
def test_goes_back_to_the_terminal(hardware: BusPirateHardware, firmware: str, screen: bytes) -> None:
    pirate = make_pirate(hardware, firmware)
    pirate.spi(POWER_RUN)
    assert pirate.ask(b"\0", 5) == b"BBIO1"
    pirate.send(b"\x0f")
    got = pirate.wait(0.3)
    assert got.startswith(screen)
    assert got.endswith(b"\r\nHiZ>")
    assert not pirate.target.powered
    pirate.binary()


@pytest.mark.parametrize("firmware", ["7.1-2018", "7.1", "7.1-2024"])
def test_a_v4_with_community_firmware_stays_in_binary_mode(firmware: str) -> None:
    pirate = make_pirate(V4, firmware)
    pirate.binary()
    assert pirate.ask(b"\x0f", 1) == b"\x01"
    assert pirate.wait(0.3) == b""
    assert pirate.ask(b"\0", 5) == b"BBIO1"


# -- SPI mode: commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        ("01", b"SPI1"),
        ("02", b"\x01"),
        ("03", b"\x01"),
        ("07", b"\x00"),
        ("40", b"\x01"),
        ("6F", b"\x01"),  # stock firmwares look at three bits
        ("90", b"\x00"),
        ("F0", b"\x00"),
        ("05 0000 0000", b"\x01"),
        ("05 0001 0002 A5", b"\x01\x00\x00"),
        ("04 0001 0001 A5", b"\x01\x00"),
        ("05 1001 0000", b"\x00"),
        ("04 0000 1001", b"\x00"),
        ("06 00", b"\x01\x01"),
        ("06 01", b"\x01\x01\x00\x01"),
        ("06 03", b"\x01\x00"),
        ("06 02 0000FFFF 00000000", b"\x01\x01"),
        ("06 02 0000FFFF 00000001", b"\x01\x00"),
        ("06 02 00010000 00000000", b"\x01\x00"),
        ("06 02 00000000 00010000", b"\x01\x00"),
        ("06 02 00008000 00008000", b"\x01\x00"),
    ],
)
def test_stock_replies(sent: str, reply: bytes) -> None:
    """The target has no supply: it answers 00."""
    for hardware, firmware in ((V3, "6.1"), (V4, "6.3-r2151")):
        pirate = make_pirate(hardware, firmware)
        pirate.spi(AVR_FORMAT)
        pirate.send(bytes.fromhex(sent))
        assert pirate.wait(1.0) == reply, hardware
        assert pirate.ask(b"\x01", 4) == b"SPI1", "still in step"


@pytest.mark.parametrize(
    ("firmware", "empty", "write_only", "extended", "longest"),
    [
        ("5.2", b"\x00BBIO1BBIO1BBIO1BBIO1", None, b"\x00", None),
        ("5.10", b"\x01", b"\x01", b"\x00", 4096),
        ("6.1", b"\x01", b"\x01", b"\x01\x01", 4096),
        ("7.0", b"\x01", b"\x01", b"\x01\x01", 4096),
        ("7.1-2018", b"\x01", b"\x01", b"\x01\x01", 4096),
        ("7.1", b"\x00", b"", b"\x01\x01", 4096),
        ("7.1-2024", b"\x00", b"\x01", b"\x01\x01", 4096),
        ("8.0", b"\x00", b"\x01", b"\x01\x01", 65535),
    ],
)
def test_where_firmwares_differ(
    firmware: str,
    empty: bytes,
    write_only: bytes | None,
    extended: bytes,
    longest: int | None,
) -> None:
    pirate = make_pirate(V3, firmware)
    pirate.spi(SPEED_125_KHZ, 0x88 if firmware == "7.1-2018" else AVR_FORMAT)
    pirate.send(b"\x05\0\0\0\0")
    assert pirate.wait(0.2) == empty
    if write_only is None:
        assert pirate.ask(b"\x01", 4) == b"SPI1"
    else:
        pirate.send(b"\x05\0\x02\0\0\xaa\xbb")
        assert pirate.wait(0.2) == write_only
        assert pirate.ask(b"\x05\0\x01\0\x01\xaa", 2) == b"\x01\0", "with something to read all of them answer"
    assert pirate.ask(b"\x06\0"[: len(extended)], len(extended)) == extended
    assert pirate.ask(b"\x01", 4) == b"SPI1"
    if longest is not None:
        reply = pirate.ask(b"\x05\0\0" + longest.to_bytes(2, "big"), longest + 1, within_s=30.0)
        assert len(reply) == longest + 1


def test_06_hangs_an_old_v4() -> None:
    pirate = make_pirate(V4, "6.1")
    pirate.spi()
    assert pirate.ask(b"\x06", 1) == b"\x01"
    pirate.send(b"\x01" + b"\0" * 20)
    assert pirate.wait(1.0) == b""


def test_speeds_of_all_firmwares() -> None:
    slow = [31250, 125000, 250000, 1000000]
    old, stock = [2000000, 41667, 62500, 125000], [2000000, 2666667, 4000000, 8000000]
    community = [50000, 1333333, 2000000, 2666667, 3200000, 4000000, 5333333, 8000000]
    codes = {
        **dict.fromkeys(("5.2", "5.10", "6.1"), slow + old),
        **dict.fromkeys(("6.3-r2151", "7.0"), slow + stock),
        **dict.fromkeys(("7.1-2018", "7.1", "7.1-2024"), slow + community),
        "8.0": [*slow, *stock, 50000, 1333333, 3200000, 5333333],
    }
    assert codes.keys() == FIRMWARES.keys()
    for firmware, speeds in codes.items():
        pirate = make_pirate(V3, firmware)
        pirate.spi()
        for code, sck_hz in enumerate(speeds):
            pirate.do(0x60 | code)
            assert round(pirate.programmer.pins.sck_hz) == sck_hz, (firmware, code)
        if len(speeds) > 8:
            assert pirate.ask(bytes([0x60 | len(speeds) + 1]), 1) == b"\0"


def test_the_ok_of_a_bulk_transfer_comes_before_the_payload() -> None:
    pirate = make_pirate()
    pirate.enter()
    assert pirate.ask(b"\x1b", 1) == b"\x01"
    assert pirate.wait(0.1) == b""
    got = pirate.ask(bytes.fromhex("30000000 30000100 30000200"), 12)
    assert got[3::4] == SIGNATURE


# -- SPI mode: the target ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardware", [V3, V4])
def test_one_05_loads_and_writes_a_page(hardware: BusPirateHardware) -> None:
    pirate = make_pirate(hardware)
    pirate.enter()
    pirate.instruct("AC800000")
    pirate.wait(20e-3)
    page = bytes(range(100, 228))
    loads = b"".join(bytes([0x48 if i % 2 else 0x40, 0, i // 2, value]) for i, value in enumerate(page))
    began = pirate.now
    assert pirate.ask(b"\x05\x02\x04\0\0" + loads + bytes.fromhex("4C 00 40 00"), 1) == b"\x01"
    spi_s, uart_s = 516 * 8 / 125e3, 521 * BYTE_S if hardware is V3 else 0.0
    assert pirate.now - began == pytest.approx(spi_s + uart_s, abs=20e-3), "first all bytes in, then all bytes out"
    pirate.wait(5e-3)
    assert pirate.target.flash[0x80:0x100] == page
    read = pirate.ask(bytes.fromhex("06 02 00000040 00000080"), 130)
    assert read == b"\x01\x01" + page
    assert pirate.target.violations == []
    assert pirate.programmer.lost == 0


def test_reads_the_whole_flash_at_once() -> None:
    pirate = make_pirate()
    pirate.enter()
    pirate.target.flash[:] = bytes(address * 7 & 0xFF for address in range(0x8000))
    began = pirate.now
    assert pirate.ask(bytes.fromhex("06 02 00000000 00008000"), 32770, within_s=10.0)[2:] == pirate.target.flash
    byte_s = 32 / 125e3 + 10e-6
    assert pirate.now - began == pytest.approx(32768 * byte_s, rel=0.05), "the UART works beside SPI"
    assert pirate.ask(bytes.fromhex("06 02 00000011 00000003"), 5)[2:] == pirate.target.flash[0x22:0x25]


@pytest.mark.parametrize("command", [SPEED_125_KHZ, AVR_FORMAT, 0x03, POWER_RUN])
def test_what_releases_reset_ends_programming(command: int) -> None:
    pirate = make_pirate()
    pirate.enter()
    assert pirate.signature() == SIGNATURE
    pirate.do(command)
    assert not pirate.target.in_reset
    pirate.do(0x02)
    pirate.wait(20e-3)
    assert pirate.signature() != SIGNATURE
    pirate.instruct("AC530000")
    assert pirate.signature() == SIGNATURE


def test_04_toggles_cs() -> None:
    pirate = make_pirate()
    pirate.enter()
    assert pirate.ask(bytes.fromhex("04 0003 0001 300000"), 2) == b"\x01\x1e"
    assert not pirate.target.in_reset
    assert not pirate.target.programming


def test_the_supply_is_switched_by_the_host() -> None:
    pirate = make_pirate()
    states = [pirate.state()]
    pirate.spi(SPEED_125_KHZ, AVR_FORMAT, 0x40)
    pirate.wait(20e-3)
    assert pirate.instruct("AC530000")[2] != 0x53
    for command in (POWER_RUN, POWER_RESET):
        pirate.do(command)
        states.append(pirate.state())
    pirate.wait(20e-3)
    pirate.instruct("AC530000")
    assert pirate.signature() == SIGNATURE
    assert pirate.ask(b"\0", 5) == b"BBIO1"
    states.append(pirate.state())
    assert states == ["off", "running", "in reset", "off"]


def test_a_board_with_its_own_supply() -> None:
    pirate = make_pirate(wiring=BusPirateWiring(own_supply=True))
    assert pirate.target.powered
    pirate.spi(SPEED_125_KHZ, AVR_FORMAT, 0x40)
    pirate.wait(20e-3)
    pirate.instruct("AC530000")
    assert pirate.signature() == SIGNATURE
    pirate.programmer.power_off(pirate.now)
    assert pirate.state() == "running"
    assert pirate.target.violations == []


@pytest.mark.parametrize(
    ("firmware", "good", "bad"),
    [("6.1", 0x8A, 0x88), ("7.0", 0x8A, 0x88), ("7.1-2018", 0x88, 0x8A), ("7.1", 0x8A, 0x88), ("8.0", 0x8A, 0x88)],
)
def test_clock_edges(firmware: str, good: int, bad: int) -> None:
    pirate = make_pirate(V3, firmware)
    pirate.enter(SPEED_125_KHZ, good)
    assert pirate.signature() == SIGNATURE
    pirate.do(bad, POWER_RESET)
    pirate.wait(20e-3)
    assert pirate.instruct("AC530000")[1:] == bytes.fromhex("562980"), "MOSI comes one bit late"
    assert pirate.signature() != SIGNATURE


def test_open_drain_needs_pull_ups() -> None:
    pirate = make_pirate()
    pirate.spi(SPEED_125_KHZ, 0x82, POWER_RUN, POWER_RESET)
    pirate.wait(20e-3)
    assert pirate.instruct("AC530000") == b"\xff" * 4
    pirate.do(POWER_RESET | 0x04)
    assert pirate.instruct("AC530000")[2] == 0x53


def test_a_clock_on_aux_wakes_a_target_with_external_clock() -> None:
    rescued = {MemoryKind.LFUSE: 0xE0}
    pirate = make_pirate(target=make_target(fuses=rescued))
    pirate.binary()
    assert pirate.ask(b"\x01", 4) == b"SPI1"
    pirate.do(SPEED_125_KHZ, AVR_FORMAT, POWER_RUN, POWER_RESET)
    pirate.wait(20e-3)
    assert pirate.instruct("AC530000")[2] != 0x53
    assert pirate.ask(b"\0", 5) == b"BBIO1"
    assert pirate.ask(bytes.fromhex("12 00 0003 0007"), 1) == b"\x01"
    assert pirate.ask(b"\x01", 4) == b"SPI1"
    pirate.do(SPEED_125_KHZ, AVR_FORMAT, POWER_RUN, POWER_RESET)
    assert pirate.target.clock_hz == 2e6
    pirate.wait(20e-3)
    assert pirate.instruct("AC530000")[2] == 0x53
    assert pirate.ask(b"\0", 5) == b"BBIO1"
    assert pirate.ask(b"\x13", 1) == b"\x01"
    assert pirate.programmer.socket.clock_hz is None
    unwired = make_pirate(target=make_target(fuses=rescued), wiring=BusPirateWiring(aux_on_xtal1=False))
    unwired.binary()
    unwired.ask(bytes.fromhex("12 00 0003 0007"), 1)
    assert unwired.programmer.socket.clock_hz is None


def test_cs_left_as_an_input_is_not_switched() -> None:
    """In open drain mode 49 makes CS an input; 02 changes only the level behind it."""
    pirate = make_pirate()
    pirate.spi(POWER_RUN, 0x02)
    assert pirate.state() == "running"
    pirate.do(POWER_RESET)
    assert pirate.state() == "in reset"
    pirate.do(AVR_FORMAT, POWER_RUN, 0x02)
    assert pirate.state() == "in reset", "push-pull keeps CS an output"
