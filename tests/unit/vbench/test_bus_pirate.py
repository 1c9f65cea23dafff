"""The emulated Bus Pirate: bytes in, bytes out, and what they do to the target, for each firmware in the field."""

from collections.abc import Callable
from typing import Protocol

import pytest
from tests.unit.vbench.serial_end import SerialEnd

from ispd.catalog.parts import Parts
from ispd.model.part import MemoryKind
from vbench.bus_pirate import BusPirate, BusPirateHardware, BusPirateWiring
from vbench.bus_pirate_firmware import FIRMWARES
from vbench.faults import CorruptReply, Mute, PowerLoss
from vbench.target import AvrTarget

V3, V4 = BusPirateHardware.V3, BusPirateHardware.V4
BYTE_S = 10 / 115200
SPEED_125_KHZ, AVR_FORMAT = 0x61, 0x8A
POWER_RESET, POWER_RUN = 0x48, 0x49
ENABLE = bytes.fromhex("AC530000")
SIGNATURE = bytes.fromhex("1E9587")


class Pirate(SerialEnd[BusPirate]):
    """A host that knows the way into the binary modes."""

    @property
    def target(self) -> AvrTarget:
        target = self.programmer.socket.target
        assert target is not None
        return target

    def state(self) -> str:
        """What the target is doing."""
        if not self.target.powered:
            return "off"
        return "in reset" if self.target.in_reset else "running"

    def text(self, keys: str, *, seconds: float = 0.2) -> str:
        """Type, wait, and return the screen."""
        self.send(keys.encode())
        return self.wait(seconds).decode("ascii")

    def binary(self) -> None:
        assert self.ask(b"\0" * 20, 5) == b"BBIO1"

    def spi(self, *setup: int) -> None:
        """Enter SPI mode and send single-byte commands that must succeed."""
        self.binary()
        assert self.ask(b"\x01", 4) == b"SPI1"
        self.do(*setup)

    def do(self, *commands: int) -> None:
        for command in commands:
            assert self.ask(bytes([command]), 1) == b"\x01", f"{command:02X}"

    def enter(self, *setup: int) -> None:
        """Power the target, take it into reset and enable programming."""
        self.spi(*(setup or (SPEED_125_KHZ, AVR_FORMAT)), POWER_RUN, POWER_RESET)
        self.wait(20e-3)
        assert self.instruct("AC530000")[2] == 0x53

    def instruct(self, text: str) -> bytes:
        """Send one SPI instruction with 13."""
        reply = self.ask(b"\x13" + bytes.fromhex(text), 5)
        assert reply[0] == 0x01
        return reply[1:]

    def signature(self) -> bytes:
        return bytes(self.instruct(f"3000{index:02X}00")[3] for index in range(3))


class MakePirate(Protocol):
    def __call__(self, hardware: BusPirateHardware = V3, firmware: str | None = None, **options: object) -> Pirate: ...


@pytest.fixture
def make_target(parts: Parts) -> Callable[..., AvrTarget]:
    def make(part: str = "atmega32u4", **options: object) -> AvrTarget:
        return AvrTarget(parts.get(part), **options)  # type: ignore[arg-type]  # passed through

    return make


@pytest.fixture
def make_pirate(make_target: Callable[..., AvrTarget]) -> MakePirate:
    def make(hardware: BusPirateHardware = V3, firmware: str | None = None, **options: object) -> Pirate:
        options.setdefault("target", make_target())
        pirate = Pirate(BusPirate(hardware, firmware, **options))  # type: ignore[arg-type]  # passed through
        assert pirate.wait(0.1) == b"HiZ>"
        return pirate

    return make


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
def test_says_who_it_is(make_pirate: MakePirate, hardware: BusPirateHardware, firmware: str, title: str) -> None:
    screen = make_pirate(hardware, firmware).text("i\n")
    assert screen.startswith("i\r\n" + title)
    assert screen.endswith("\r\nHiZ>")


def test_answers_at_the_prompt(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    assert pirate.text("\n\n") == "\r\nHiZ>\r\nHiZ>"
    assert pirate.text("ab\x08\x7f\r") == "ab\x08 \x08\x07\r\nSyntax error at char 1\r\nHiZ>"
    assert pirate.text("W\n") == "W\r\nCommand not used in this mode\r\nHiZ>"
    assert pirate.text("m\n").endswith("11. DIO\r\nx. exit(without change)\r\n\r\n(1)>")
    assert pirate.text("12\n").endswith("Invalid choice, try again\r\n\r\n(1)>")
    assert pirate.text("x") == "no mode change\r\nHiZ>"
    assert pirate.text("m 1\n") == "m 1\r\nReady\r\nHiZ>"


def test_boots_with_its_banner(make_target: Callable[..., AvrTarget]) -> None:
    v3, v4 = (Pirate(BusPirate(hardware, booted=False)) for hardware in (V3, V4))
    assert v3.wait(0.2).startswith(b"\r\nBus Pirate v3.5\r\n")
    assert v4.wait(0.2) == b"HiZ>"
    v3.programmer.power_off(v3.now)
    assert v3.text("i\n") == ""
    v3.programmer.power_on(v3.now)
    assert v3.wait(0.2).startswith(b"\r\nBus Pirate v3.5\r\n")


# -- binary mode -------------------------------------------------------------------------------------------------------


def test_twenty_zeros_start_binary_mode(make_pirate: MakePirate) -> None:
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
def test_goes_back_to_the_terminal(
    make_pirate: MakePirate, hardware: BusPirateHardware, firmware: str, screen: bytes
) -> None:
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
def test_a_v4_with_community_firmware_stays_in_binary_mode(make_pirate: MakePirate, firmware: str) -> None:
    pirate = make_pirate(V4, firmware)
    pirate.binary()
    assert pirate.ask(b"\x0f", 1) == b"\x01"
    assert pirate.wait(0.3) == b""
    assert pirate.ask(b"\0", 5) == b"BBIO1"


# -- baud rates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("divisor", "baud"), [(1, 2_000_000), (3, 1_000_000), (34, 115200)])
def test_the_terminal_changes_its_rate(make_pirate: MakePirate, divisor: int, baud: int) -> None:
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


def test_nothing_is_understood_at_the_wrong_rate(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    assert pirate.text("b 10 3\n").endswith("Space to continue\r\n")
    pirate.send(b" ")
    assert pirate.wait(0.1) == b"", "not a space at 1 Mbaud"
    pirate.programmer.set_baud(1_000_000)
    assert pirate.text(" ") == "HiZ>"
    pirate.programmer.set_baud(115200)
    assert b"HiZ" not in pirate.text("\n").encode()


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
def test_stock_replies(make_pirate: MakePirate, sent: str, reply: bytes) -> None:
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
    make_pirate: MakePirate,
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


def test_speeds_of_all_firmwares(make_pirate: MakePirate) -> None:
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
            assert pirate.ask(bytes([0x60 | len(speeds)]), 1) == b"\0"


def test_the_ok_of_a_bulk_transfer_comes_before_the_payload(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.enter()
    assert pirate.ask(b"\x1b", 1) == b"\x01"
    assert pirate.wait(0.1) == b""
    got = pirate.ask(bytes.fromhex("30000000 30000100 30000200"), 12)
    assert got[3::4] == SIGNATURE


# -- SPI mode: the target ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardware", [V3, V4])
def test_one_05_loads_and_writes_a_page(make_pirate: MakePirate, hardware: BusPirateHardware) -> None:
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


def test_reads_the_whole_flash_at_once(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.enter()
    pirate.target.flash[:] = bytes(address * 7 & 0xFF for address in range(0x8000))
    began = pirate.now
    assert pirate.ask(bytes.fromhex("06 02 00000000 00008000"), 32770, within_s=10.0)[2:] == pirate.target.flash
    byte_s = 32 / 125e3 + 10e-6
    assert pirate.now - began == pytest.approx(32768 * byte_s, rel=0.05), "the UART works beside SPI"
    assert pirate.ask(bytes.fromhex("06 02 00000011 00000003"), 5)[2:] == pirate.target.flash[0x22:0x25]


@pytest.mark.parametrize("command", [SPEED_125_KHZ, AVR_FORMAT, 0x03, POWER_RUN])
def test_what_releases_reset_ends_programming(make_pirate: MakePirate, command: int) -> None:
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


def test_04_toggles_cs(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.enter()
    assert pirate.ask(bytes.fromhex("04 0003 0001 300000"), 2) == b"\x01\x1e"
    assert not pirate.target.in_reset
    assert not pirate.target.programming


def test_the_supply_is_switched_by_the_host(make_pirate: MakePirate) -> None:
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


def test_a_board_with_its_own_supply(make_pirate: MakePirate) -> None:
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
def test_clock_edges(make_pirate: MakePirate, firmware: str, good: int, bad: int) -> None:
    pirate = make_pirate(V3, firmware)
    pirate.enter(SPEED_125_KHZ, good)
    assert pirate.signature() == SIGNATURE
    pirate.do(bad, POWER_RESET)
    pirate.wait(20e-3)
    assert pirate.instruct("AC530000")[1:] == bytes.fromhex("562980"), "MOSI comes one bit late"
    assert pirate.signature() != SIGNATURE


def test_open_drain_needs_pull_ups(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.spi(SPEED_125_KHZ, 0x82, POWER_RUN, POWER_RESET)
    pirate.wait(20e-3)
    assert pirate.instruct("AC530000") == b"\xff" * 4
    pirate.do(POWER_RESET | 0x04)
    assert pirate.instruct("AC530000")[2] == 0x53


def test_a_clock_on_aux_wakes_a_target_with_external_clock(
    make_pirate: MakePirate, make_target: Callable[..., AvrTarget]
) -> None:
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


# -- the line ----------------------------------------------------------------------------------------------------------


def test_a_full_fifo_makes_a_v3_deaf(make_pirate: MakePirate) -> None:
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


def test_four_bytes_always_fit(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.enter(0x60, AVR_FORMAT)
    for _ in range(3):
        assert pirate.instruct("30000000") == bytes.fromhex("0030001E")
    assert pirate.programmer.lost == 0


def test_fast_lines_overrun_sooner(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.text("b 10 1\n")
    pirate.programmer.set_baud(2_000_000)
    assert pirate.text(" ") == "HiZ>"
    pirate.enter()
    assert pirate.signature() == SIGNATURE, "13 and four bytes"
    pirate.send(b"\x1f" + bytes.fromhex("30000000") * 4)
    pirate.wait(0.2)
    assert pirate.programmer.lost > 0


def test_what_comes_while_05_is_clocked_out_overruns(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.enter()
    loads = b"\x05\x01\0\0\0" + bytes.fromhex("40000055") * 64
    pirate.send(loads + b"\x01" * 4)
    assert pirate.wait(0.2) == b"\x01" + b"SPI1" * 4, "four bytes wait in the FIFO"
    pirate.send(loads + b"\x01" * 6)
    assert pirate.wait(0.2) == b"\x01" + b"SPI1" * 5, "the fifth in the shift register; the sixth is gone"
    assert pirate.programmer.lost == 1


def test_the_prompt_recovers_from_an_overrun(make_pirate: MakePirate) -> None:
    pirate = make_pirate()
    pirate.send(b"\n" * 40)  # each echoes a prompt, six times as long
    pirate.wait(1.0)
    assert pirate.programmer.lost > 0
    assert pirate.text("i\n").startswith("i\r\nBus Pirate v3.5")


def test_a_v4_holds_the_host_back(make_pirate: MakePirate) -> None:
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
    make_pirate: MakePirate, hardware: BusPirateHardware, firmware: str, latency_s: float, longest_s: float
) -> None:
    pirate = make_pirate(hardware, firmware, latency_s=latency_s)
    pirate.spi()
    began = pirate.now
    for _ in range(10):
        pirate.do(0x02)
    assert longest_s / 2.5 <= (pirate.now - began) / 10 <= longest_s


def test_how_the_host_cuts_its_stream_makes_no_difference(make_pirate: MakePirate) -> None:
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


def test_faults_are_those_of_every_serial_programmer(make_pirate: MakePirate) -> None:
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


def test_power_lost_inside_a_page(make_pirate: MakePirate) -> None:
    pirate = make_pirate(faults=[PowerLoss(instructions=10)])
    pirate.enter()
    for index in range(8):
        assert pirate.instruct("30000000")[3] == 0x1E, index
    pirate.send(b"\x13\x30\0\0\0")
    pirate.wait(0.1)
    assert pirate.programmer.power_lost_at is not None
    assert not pirate.target.powered
    assert not pirate.programmer.powered
