"""The USBtinyISP firmware: requests, what it clocks, how long it takes, and where it gets it wrong."""

from collections.abc import Callable

import pytest
from tests.unit.vbench.rigs import UsbHost

from ispd.catalog.parts import Parts
from ispd.model.part import MemoryKind
from vbench.target import AvrTarget
from vbench.usb_device import TAU_S
from vbench.usbtiny import UsbTiny, UsbTinyModel

ECHO, READ, WRITE, CLR, SET, POWERUP, POWERDOWN, SPI, POLL_BYTES = range(9)
FLASH_READ, FLASH_WRITE, EEPROM_READ, EEPROM_WRITE, DDRWRITE, SPI1 = range(9, 15)
RC_128_KHZ = {MemoryKind.LFUSE: 0xE3}
ENTER = "AC 53 00 00"
ERASE = "AC 80 00 00"


class Rig(UsbHost):
    """A host that knows the usual order of things."""

    programmer: UsbTiny

    @property
    def target(self) -> AvrTarget:
        target = self.programmer.socket.target
        assert target is not None
        return target

    def enter(self, period: int) -> bool:
        """Power up with reset low, wait, and tell whether the echo came."""
        self.ask(POWERUP, f"{period:02X} 00 00 00")
        self.wait(50e-3)
        return self.ask(SPI, ENTER)[2] == 0x53

    def instruction(self, words: str, wait_s: float = 0.0) -> int:
        """Clock an instruction and return its fourth reply byte."""
        value = self.ask(SPI, words)[3]
        self.wait(wait_s)
        return value


MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(parts: Parts) -> MakeRig:
    def make(
        part: str = "atmega32u4",
        *,
        model: UsbTinyModel = UsbTinyModel.USBTINYISP,
        stretch: float = 1.0,
        **board: object,
    ) -> Rig:
        target = AvrTarget(parts.avr(part), **board)  # type: ignore[arg-type]  # passed through
        return Rig(UsbTiny(model, target=target, stretch=stretch))

    return make


def test_echo_returns_the_setup_packet(make_rig: MakeRig) -> None:
    assert make_rig().ask(ECHO, "12 34 56 78", length=8) == bytes.fromhex("C0 00 12 34 56 78 08 00")


def test_nothing_is_answered_or_clocked_without_power(make_rig: MakeRig) -> None:
    rig = make_rig()

    def silent() -> bool:
        answers = [rig.ask(request, "30 00 00 00", length=8) for request in (SPI, FLASH_READ, EEPROM_READ, SPI1)]
        rig.give(FLASH_WRITE, "", bytes(8))
        return answers == [b""] * 4

    assert silent()
    assert rig.target.instructions == 0
    assert rig.enter(10)
    before = rig.target.instructions
    assert rig.ask(POWERDOWN) == b""
    assert not rig.target.in_reset
    assert silent()
    assert rig.target.instructions == before


def test_every_reply_byte_is_returned(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.enter(4)
    assert rig.ask(SPI, "30 00 00 00") == bytes.fromhex("00 30 00 1E")
    assert b"".join(rig.ask(SPI1, f"{byte:02X}", length=1) for byte in (0x30, 0, 1, 0)) == bytes.fromhex("00 30 00 95")


@pytest.mark.parametrize(
    ("part", "fuses", "period"),
    [
        ("atmega328p", {}, 3),  # 1 MHz: faster than f/4 at period 2
        ("atmega328p", RC_128_KHZ, 30),
        ("atmega32u4", {}, 1),  # 2 MHz: the fastest there is
    ],
)
def test_the_shortest_period_a_clock_allows(
    make_rig: MakeRig, part: str, fuses: dict[MemoryKind, int], period: int
) -> None:
    assert make_rig(part, fuses=fuses).enter(period)
    assert period == 1 or not make_rig(part, fuses=fuses).enter(period - 1)


@pytest.mark.parametrize(("period", "byte_us"), [(10, 389), (3, 165), (1, 101)])
def test_undisturbed_time_of_a_byte(make_rig: MakeRig, period: int, byte_us: int) -> None:
    rig = make_rig()
    assert rig.enter(period)
    rig.ask(FLASH_READ, length=128)
    assert rig.took == pytest.approx(128 * byte_us * 1e-6 + (2 + 16) * TAU_S, rel=0.01)
    rig.give(FLASH_WRITE, "", bytes(128))
    assert rig.took == pytest.approx(128 * byte_us * 1e-6 + (2 + 16) * TAU_S, rel=0.01)
    rig.ask(POWERDOWN, length=0)
    assert rig.took == pytest.approx(2 * TAU_S)


def test_takes_as_long_as_a_user_measured(make_rig: MakeRig) -> None:
    """23,032 bytes in 20 s at avrdude's default period, and about 1.5 ms for an instruction."""
    rig = Rig(UsbTiny(target=make_rig().target))
    assert rig.enter(10)
    assert rig.took == pytest.approx(1.5e-3, rel=0.05)
    begun = rig.now
    for start in range(0, 23032, 128):
        rig.ask(FLASH_READ, f"00 00 {start & 0xFF:02X} {start >> 8:02X}", length=min(128, 23032 - start))
    assert rig.now - begun == pytest.approx(20, rel=0.05)


def test_writing_flash_only_loads_and_takes_a_whole_page(make_rig: MakeRig) -> None:
    rig = make_rig("at90usb1286")
    page = bytes((index * 3 + 1) & 0xFF for index in range(256))
    assert rig.enter(4)
    rig.instruction(ERASE, 20e-3)
    rig.give(FLASH_WRITE, "00 00 00 03", page)
    assert rig.target.flash[0x300:0x400] == b"\xff" * 256
    rig.instruction("4C 01 80 00", 5e-3)
    assert rig.target.flash[0x300:0x400] == page
    assert rig.ask(FLASH_READ, "00 00 10 03", length=200) == page[0x10 : 0x10 + 200]
    assert rig.target.violations == []


def test_above_64_kib_loads_work_and_bulk_reads_wrap(make_rig: MakeRig) -> None:
    rig = make_rig("at90usb1286")
    page = bytes(reversed(range(256)))
    assert rig.enter(4)
    rig.instruction(ERASE, 20e-3)
    rig.target.flash[0:64] = bytes(range(64))
    rig.give(FLASH_WRITE, "00 00 00 00", page)
    rig.instruction("4C 80 00 00", 5e-3)
    assert rig.target.flash[0x10000:0x10100] == page
    assert rig.ask(FLASH_READ, "00 00 00 00", length=64) == bytes(range(64))
    assert rig.ask(FLASH_READ, "00 00 C0 FF", length=128) == b"\xff" * 64 + bytes(range(64))
    assert [rig.instruction("20 80 00 00"), rig.instruction("28 80 00 00")] == [0xFF, 0xFE]


def test_reads_end_at_255_bytes(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.enter(4)
    assert len(rig.ask(FLASH_READ, length=255)) == 255
    assert len(rig.ask(FLASH_READ, length=300)) == 255


def test_eeprom_bytes_are_polled_until_they_are_there(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.enter(10)
    rig.give(EEPROM_WRITE, "20 4E 10 00", b"\x11\x22")  # 20,000 us at most, each
    assert rig.target.eeprom[0x10:0x12] == b"\x11\x22"
    assert 2 * 9e-3 < rig.took < 2 * (9e-3 + 3 * 389e-6) + 3 * TAU_S
    assert rig.ask(EEPROM_READ, "00 00 0F 00", length=4) == b"\xff\x11\x22\xff"
    assert rig.target.violations == []


def test_eeprom_bytes_that_cannot_be_polled_cost_the_whole_timeout(make_rig: MakeRig) -> None:
    """A poll counts as 32 periods, which is less than it takes: 63 polls of 389 us for 20 ms."""
    rig = make_rig()
    assert rig.enter(10)
    rig.ask(POLL_BYTES, "FF FF")
    rig.give(EEPROM_WRITE, "20 4E 00 00", b"\xff")
    assert rig.took == pytest.approx(64 * 389e-6 + 3 * TAU_S, rel=0.01)
    rig.give(EEPROM_WRITE, "00 00 00 00", b"\x42")  # no timeout, no poll: the next byte comes too early
    assert rig.took == pytest.approx(389e-6 + 3 * TAU_S, rel=0.01)
    assert rig.target.violations == []


def test_a_reset_pulse_latches_new_fuses(make_rig: MakeRig) -> None:
    rig = make_rig("atmega328p")
    assert rig.enter(4)
    rig.instruction("AC A0 00 E2", 10e-3)  # 8 MHz: CKDIV8 off
    assert rig.target.clock_hz == 1e6
    rig.ask(POWERUP, "01 00 01 00")
    assert not rig.target.in_reset
    assert rig.enter(1)
    assert rig.target.clock_hz == 8e6
    assert rig.target.violations == []


def test_pins_moved_by_hand(make_rig: MakeRig) -> None:
    rig = make_rig()

    def resets(request: int, words: str) -> bool:
        rig.ask(request, words)
        return rig.target.in_reset

    assert not resets(WRITE, "01 00")
    assert not resets(POWERUP, "0A 00 01 00")
    assert rig.ask(READ, length=1) == b"\x51"  # LED and reset, and nobody pulls MISO down
    assert [resets(CLR, "04 00"), resets(SET, "04 00"), resets(CLR, "04 00")] == [True, False, True]
    assert not resets(DDRWRITE, "00 00")


def test_models_show_what_they_are_sold_as(make_rig: MakeRig) -> None:
    shown = {model: make_rig(model=model).programmer.usb for model in UsbTinyModel}
    assert {str(usb) for usb in shown.values()} == {"1781:0C9F", "2341:0049", "2A03:0049"}
    assert [model for model, usb in shown.items() if usb.serial] == [UsbTinyModel.LITTLE_WIRE]
    old = make_rig(model=UsbTinyModel.USBTINY_SPI)
    assert old.enter(10)
    assert old.ask(SPI1, "30", length=1) == b""
