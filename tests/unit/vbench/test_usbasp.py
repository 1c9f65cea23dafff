"""The USBasp firmware by release and fork: answers, SCK, page logic, its own waits, and where it hangs."""

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.vbench.rigs import UsbHost

from ispd.catalog.parts import Parts
from ispd.model.part import MemoryKind
from vbench.target import AvrTarget
from vbench.usb_device import TAU_S
from vbench.usbasp import UsbAsp, UsbAspFirmware

CONNECT, DISCONNECT, TRANSMIT, READFLASH, ENABLEPROG, WRITEFLASH = range(1, 7)
READEEPROM, WRITEEEPROM, SETLONGADDRESS, SETISPSCK = range(7, 11)
GETCAPABILITIES = 127
FORKS = (UsbAspFirmware.NERDRALPH, UsbAspFirmware.DIOANNIDIS)
PLAIN = tuple(firmware for firmware in UsbAspFirmware if firmware not in FORKS)
RC_128_KHZ = {MemoryKind.LFUSE: 0xE3}
CRYSTAL = {MemoryKind.LFUSE: 0xFF}
DATA = bytes((index * 7 + (index >> 8)) & 0xFF for index in range(1024))


class Rig(UsbHost):
    """A host that knows the usual order of things."""

    programmer: UsbAsp

    @property
    def target(self) -> AvrTarget:
        target = self.programmer.socket.target
        assert target is not None
        return target

    def connect(self, option: int = 0) -> None:
        """Ask for an SCK, connect and wait."""
        self.ask(SETISPSCK, f"{option:02X}")
        self.ask(CONNECT)
        self.wait(0.1)

    def enter(self, option: int = 0) -> bool:
        """Enter programming mode; tell whether a target answered."""
        self.connect(option)
        return self.ask(ENABLEPROG) == b"\0"

    def erase(self) -> None:
        """Erase, with the wait that is the host's business."""
        self.ask(TRANSMIT, "AC 80 00 00")
        self.wait(20e-3)

    def write(self, address: int, page_bytes: int, flags: int, data: bytes) -> None:
        """Send a block of flash."""
        index = page_bytes & 0xFF | flags << 8 | (page_bytes >> 8) << 12
        self.give(WRITEFLASH, (address.to_bytes(2, "little") + index.to_bytes(2, "little")).hex(), data)


MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(parts: Parts) -> MakeRig:
    def make(
        firmware: UsbAspFirmware = UsbAspFirmware.STOCK_2011,
        *,
        part: str = "atmega32u4",
        fuses: dict[MemoryKind, int] | None = None,
        **options: object,
    ) -> Rig:
        return Rig(UsbAsp(firmware, target=AvrTarget(parts.avr(part), fuses=fuses), **options))  # type: ignore[arg-type]  # passed through

    return make


# -- what a host can tell firmware apart by ----------------------------------------------------------------------------


def test_answers_that_tell_releases_apart(make_rig: MakeRig) -> None:
    def answers(firmware: UsbAspFirmware) -> tuple[str, bytes, bytes]:
        rig = make_rig(firmware)
        return str(rig.programmer.usb), rig.ask(SETISPSCK, "0A"), rig.ask(GETCAPABILITIES)

    assert {firmware: answers(firmware) for firmware in UsbAspFirmware} == {
        UsbAspFirmware.STOCK_2005: ("03EB:C7B4", b"", b""),
        UsbAspFirmware.STOCK_2007: ("16C0:05DC", b"", b""),
        UsbAspFirmware.STOCK_2009: ("16C0:05DC", b"\0", b""),
        UsbAspFirmware.STOCK_2011: ("16C0:05DC", b"\0", b"\1\0\0\0"),
        UsbAspFirmware.NERDRALPH: ("16C0:05DC", b"\0", b""),
        UsbAspFirmware.DIOANNIDIS: ("16C0:05DC", b"\0", b"\xa1\0\0\0"),
        UsbAspFirmware.USBASP_FLASH: ("16C0:05DC", b"\0", b"\1\0\0\1"),
    }


def test_texts_of_clones_and_forks(make_rig: MakeRig) -> None:
    assert make_rig().programmer.usb.manufacturer == "www.fischl.de"
    assert make_rig(UsbAspFirmware.DIOANNIDIS, serial="4711").programmer.usb.serial == "4711"
    clone = make_rig(manufacturer="", product="ISP").programmer.usb
    assert (clone.manufacturer, clone.product, clone.serial) == ("", "ISP", "")


def test_unknown_requests_answer_nothing_and_tpi_is_refused_aloud(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.ask(77) == b""
    rig.give(77, "", bytes(20))
    assert rig.took == pytest.approx((2 + 3) * TAU_S)
    assert make_rig(UsbAspFirmware.STOCK_2009).ask(11) == b""
    with pytest.raises(NotImplementedError, match="TPI"):
        rig.ask(11)


# -- SCK and entry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware", UsbAspFirmware)
def test_enters_and_shows_every_reply_byte(make_rig: MakeRig, firmware: UsbAspFirmware) -> None:
    rig = make_rig(firmware)
    assert rig.enter(10)
    assert rig.ask(TRANSMIT, "30 00 01 00") == bytes.fromhex("00 30 00 95")
    assert rig.target.violations == []
    rig.ask(DISCONNECT)
    assert not rig.target.in_reset


@pytest.mark.parametrize(
    ("firmware", "option", "khz"),
    [(UsbAspFirmware.STOCK_2011, option, khz) for option, khz in enumerate((375, 0.5, 1, 2, 4, 8, 16, 32))]
    + [(UsbAspFirmware.STOCK_2011, 8 + index, khz) for index, khz in enumerate((93.75, 187.5, 375, 750, 1500, 375))]
    + [
        (UsbAspFirmware.STOCK_2007, 12, 375),
        (UsbAspFirmware.USBASP_FLASH, 13, 3000),
        (UsbAspFirmware.NERDRALPH, 13, 3000),
        (UsbAspFirmware.NERDRALPH, 0, 1500),
    ],
)
def test_sck_by_option(make_rig: MakeRig, firmware: UsbAspFirmware, option: int, khz: float) -> None:
    rig = make_rig(firmware, fuses=CRYSTAL)
    before = rig.programmer.sck_hz
    rig.ask(SETISPSCK, f"{option:02X}")
    assert rig.programmer.sck_hz == before  # it acts at CONNECT
    rig.connect(option)
    assert rig.programmer.sck_hz == khz * 1e3
    if khz < 3000:  # too fast for 16 MHz / 6
        assert rig.ask(ENABLEPROG) == b"\0"
        rig.ask(TRANSMIT, "30 00 00 00")
        assert rig.took == pytest.approx(32 / (khz * 1e3) + 3 * TAU_S, abs=20e-6)


def test_the_slow_jumper_shows_in_time(make_rig: MakeRig) -> None:
    rig = make_rig(slow_jumper=True)
    assert rig.enter(12)
    rig.ask(TRANSMIT, "30 00 00 00")
    assert rig.took == pytest.approx(4e-3 + 3 * TAU_S, rel=0.01)


@pytest.mark.parametrize("firmware", PLAIN)
def test_a_target_that_is_too_slow_is_given_up_quickly_by_stock_firmware(
    make_rig: MakeRig, firmware: UsbAspFirmware
) -> None:
    rig = make_rig(firmware, part="atmega328p", fuses=RC_128_KHZ)
    assert not rig.enter(10)
    ticks = {UsbAspFirmware.STOCK_2009: 2, UsbAspFirmware.STOCK_2007: 24, UsbAspFirmware.STOCK_2005: 24}.get(
        firmware, 3
    )
    assert rig.took == pytest.approx(32 * (32 / 375e3 + 10e-6 + ticks * 64 / 12e6) + 3 * TAU_S, rel=0.01)
    assert rig.ask(TRANSMIT, "30 00 00 00")[2] == 0x00
    assert rig.target.violations == []  # tries without the 20 ms wait are the firmware's own


@pytest.mark.parametrize(("option", "reached_khz", "seconds"), [(0, 16, 0.80), (10, 16, 0.67)])
def test_forks_step_down_until_the_target_answers(
    make_rig: MakeRig, option: int, reached_khz: float, seconds: float
) -> None:
    rig = make_rig(UsbAspFirmware.DIOANNIDIS, part="atmega328p", fuses=RC_128_KHZ)
    assert rig.enter(option)
    assert rig.programmer.sck_hz == reached_khz * 1e3
    assert rig.took < seconds
    rig.ask(DISCONNECT)
    rig.connect()
    assert rig.programmer.sck_hz == 1.5e6


@pytest.mark.parametrize(("firmware", "seconds"), [(FORKS[0], 1.11), (FORKS[1], 1.56)])
def test_forks_take_long_over_a_silent_target_and_then_hang(
    make_rig: MakeRig, firmware: UsbAspFirmware, seconds: float
) -> None:
    rig = make_rig(firmware)
    rig.programmer.socket.remove(rig.now)
    assert not rig.enter()
    assert rig.took == pytest.approx(seconds, abs=0.01)
    rig.ask(TRANSMIT, "30 00 00 00")
    assert rig.took == math.inf
    rig.now = 10.0
    rig.ask(CONNECT)
    assert rig.took == math.inf
    rig.programmer.power_off(11.0)
    rig.programmer.power_on(12.0)
    rig.now = 12.0
    assert rig.ask(SETISPSCK, "0A") == b"\0"


def test_spi_without_connect_hangs_until_the_plug_is_pulled(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.ask(TRANSMIT, "30 00 00 00")
    assert rig.took == math.inf


# -- flash -------------------------------------------------------------------------------------------------------------


def test_blocks_cross_pages_and_the_page_counter_survives_them(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.enter()
    rig.erase()
    rig.ask(SETLONGADDRESS)
    for start in range(0, 900, 200):
        rig.write(start, 128, 1 if start == 0 else 0, DATA[start : start + 200][: 900 - start])
    assert rig.target.flash[:896] == DATA[:896]
    assert rig.target.flash[896:900] == b"\xff" * 4
    rig.write(900, 128, 2, DATA[900:910])
    assert rig.target.flash[:910] == DATA[:910]
    assert rig.target.violations == []


@settings(max_examples=40, deadline=None)
@given(
    part=st.sampled_from(["attiny85", "atmega32u4", "at90usb1286", "atmega2560"]),
    pages=st.integers(0, 3),
    rest=st.integers(0, 255),
    cuts=st.lists(st.integers(1, 254), min_size=1, max_size=8),
)
def test_any_cut_into_blocks_gives_the_same_flash(
    parts: Parts, part: str, pages: int, rest: int, cuts: list[int]
) -> None:
    """One SETLONGADDRESS, FIRST on the first block and LAST on the last, and the firmware finds the pages by itself."""
    target = AvrTarget(parts.avr(part))
    rig = Rig(UsbAsp(target=target))
    page_bytes = target.part.flash.page_bytes
    data = DATA[: pages * page_bytes + rest % page_bytes or 1]
    assert rig.enter(9)
    rig.erase()
    rig.ask(SETLONGADDRESS, (0x400).to_bytes(4, "little").hex())
    start = 0
    for cut in itertools.cycle(cuts):
        block = data[start : start + cut]
        flags = (1 if start == 0 else 0) | (2 if start + cut >= len(data) else 0)
        rig.write(0, page_bytes, flags, block)
        start += cut
        if start >= len(data):
            break
    assert target.flash[0x400 : 0x400 + len(data)] == data
    assert target.flash.count(0xFF) == len(target.flash) - len(data) + data.count(0xFF)
    assert target.violations == []


def test_without_first_the_counter_starts_anywhere(make_rig: MakeRig) -> None:
    """It is zero after power-up, so it wraps, and a commit is 256 bytes away."""
    rig = make_rig()
    assert rig.enter()
    rig.erase()
    rig.write(0, 128, 0, DATA[:128])
    assert rig.target.flash.count(0xFF) == len(rig.target.flash)


def test_pages_of_256_bytes_and_last(make_rig: MakeRig) -> None:
    """The counter is a byte: with LAST a full page of 256 is written once more, empty, which changes nothing."""
    rig = make_rig(part="at90usb1286")
    assert rig.enter()
    rig.erase()
    rig.write(0x100, 256, 3, DATA[:256])
    assert rig.target.flash[0x100:0x200] == DATA[:256]
    assert rig.took > 2 * 3.6e-3
    assert rig.target.violations == []


@pytest.mark.parametrize(("last", "shortest", "longest"), [(0x42, 3.6e-3, 4.6e-3), (0xFF, 4.8e-3, 4.9e-3)])
def test_a_page_is_polled_by_its_last_byte(make_rig: MakeRig, last: int, shortest: float, longest: float) -> None:
    rig = make_rig(fuses=CRYSTAL)
    assert rig.enter(12)
    rig.erase()
    rig.write(0, 128, 1, DATA[1:128] + bytes((last,)))
    loads = 128 * (29e-6 + 32 / 1.5e6) + (2 + 16) * TAU_S
    assert shortest < rig.took - loads < longest
    assert rig.target.flash[127] == last
    assert rig.target.violations == []


def test_a_page_that_never_shows_its_last_byte_is_given_up(make_rig: MakeRig) -> None:
    """Thirty rounds of a third of a millisecond; a locked part ignores writes."""
    rig = make_rig(fuses=CRYSTAL)
    assert rig.enter(12)
    rig.ask(TRANSMIT, "AC E0 00 FE")  # lock: writes are ignored
    rig.wait(20e-3)
    rig.write(0, 128, 1, DATA[1:129])
    assert rig.took == pytest.approx(30 * 0.33e-3 + 10e-3, rel=0.1)


def test_unpaged_parts_are_polled_by_every_byte(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.enter()
    rig.write(0, 0, 1, b"\x7f")
    assert rig.took == pytest.approx(4.8e-3 + 29e-6 + 32 / 375e3 + 3 * TAU_S, rel=0.01)


@pytest.mark.parametrize(("option", "byte_us"), [(10, 114), (11, 72), (12, 50)])
def test_time_of_a_flash_byte(make_rig: MakeRig, option: int, byte_us: int) -> None:
    rig = make_rig(fuses=CRYSTAL)
    assert rig.enter(option)
    assert len(rig.ask(READFLASH, length=200)) == 200
    assert rig.took == pytest.approx(200 * byte_us * 1e-6 + (2 + 25) * TAU_S, rel=0.02)


@pytest.mark.parametrize("firmware", [UsbAspFirmware.STOCK_2011, UsbAspFirmware.NERDRALPH])
def test_extended_addresses_are_sent_by_the_firmware(make_rig: MakeRig, firmware: UsbAspFirmware) -> None:
    rig = make_rig(firmware, part="atmega2560")
    assert rig.enter(9)
    rig.erase()
    rig.ask(SETLONGADDRESS, "80 FF 01 00")
    rig.write(0, 256, 3, DATA[:128])
    rig.write(0, 256, 3, DATA[128:384])  # crosses 128 KiB; the address goes on by itself
    assert rig.target.flash[0x1FF80:0x20100] == DATA[:384]
    rig.ask(SETLONGADDRESS, "F0 FF 01 00")
    assert rig.ask(READFLASH, length=32) == DATA[0x70:0x90]
    rig.ask(CONNECT)  # addresses count from their request again
    rig.wait(0.1)
    rig.ask(ENABLEPROG)
    assert rig.ask(READFLASH, "00 FF", length=2) == b"\xff\xff"
    assert rig.target.violations == []


def test_forks_say_the_extended_address_to_parts_without_one(make_rig: MakeRig) -> None:
    rig = make_rig(UsbAspFirmware.NERDRALPH)
    assert rig.enter(9)
    before = rig.target.instructions
    rig.ask(READFLASH, length=8)
    assert rig.target.instructions - before == 9
    assert rig.target.violations == []


def test_early_firmware_loses_address_bits(make_rig: MakeRig) -> None:
    first = make_rig(UsbAspFirmware.STOCK_2005, part="at90usb1286")
    old = make_rig(UsbAspFirmware.STOCK_2009, part="atmega2560")
    for rig in (first, old):
        assert rig.enter(9)
        rig.target.flash[0:4] = b"LOW!"
        rig.ask(SETLONGADDRESS, "00 00 02 00")
        assert rig.ask(READFLASH, length=4) == b"LOW!"


@pytest.mark.parametrize(
    ("firmware", "length", "got"),
    [
        (UsbAspFirmware.STOCK_2011, 254, 254),
        (UsbAspFirmware.STOCK_2011, 256, 0),
        (UsbAspFirmware.STOCK_2011, 300, 44),
        (UsbAspFirmware.DIOANNIDIS, 300, 300),
    ],
)
def test_lengths_of_answers(make_rig: MakeRig, firmware: UsbAspFirmware, length: int, got: int) -> None:
    rig = make_rig(firmware)
    assert rig.enter(9)
    assert len(rig.ask(READFLASH, length=length)) == got


def test_a_length_of_255_is_never_answered_but_the_next_request_is(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.enter()
    at = rig.now
    rig.ask(READFLASH, length=255)
    assert rig.took == math.inf
    rig.now = at + 5
    assert rig.ask(TRANSMIT, "30 00 00 00")[3] == 0x1E


def test_a_clone_with_a_buffer_refuses_longer_blocks(make_rig: MakeRig) -> None:
    rig = make_rig(buffer_bytes=256)
    assert rig.enter()

    def refuses(size: int) -> bool:
        rig.write(0, 128, 1, bytes(size))
        return rig.stalled

    assert [refuses(256), refuses(257)] == [False, True]
    assert len(rig.ask(READFLASH, length=254)) == 254


# -- EEPROM ------------------------------------------------------------------------------------------------------------


def test_eeprom_bytes_always_take_their_time(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.enter()
    rig.give(WRITEEEPROM, "10 00", b"\x11\xff\x22")
    assert rig.took == pytest.approx(3 * (9.6e-3 + 114e-6) + 3 * TAU_S, rel=0.01)
    assert rig.ask(READEEPROM, "0F 00", length=5) == b"\xff\x11\xff\x22\xff"
    assert rig.target.violations == []
