"""USBaspLoader: a board that answers a USBasp's requests out of its own head."""

import pytest
from tests.unit.vbench.loader_rig import LOADER_BYTE, ClassHost, make_chip, started
from tests.unit.vbench.rigs import UsbHost

from ispd.catalog.parts import Parts
from ispd.transport.contract import ControlTransfer
from vbench.board_chip import Chip
from vbench.board_face import Exit
from vbench.usbasp import UsbAsp
from vbench.usbasp_loader import UsbAspLoader, UsbAspLoaderFace, start_loader

CONNECT, DISCONNECT, TRANSMIT, READFLASH, ENABLEPROG, WRITEFLASH = range(1, 7)
READEEPROM, WRITEEEPROM, SETLONGADDRESS, SETISPSCK = range(7, 11)
GETCAPABILITIES = 127
PAGE = bytes(range(1, 129))


@pytest.fixture
def host(parts: Parts) -> UsbHost:
    return UsbHost(UsbAspLoader(parts.avr("atmega32a")))


def loader_of(host: UsbHost) -> UsbAspLoader:
    assert isinstance(host.programmer, UsbAspLoader)
    return host.programmer


def test_looks_like_a_programmer_and_claims_a_target(host: UsbHost) -> None:
    assert host.programmer.usb == UsbAsp().usb
    assert (host.ask(CONNECT), host.ask(SETISPSCK, "09"), host.ask(ENABLEPROG)) == (b"", b"\0", b"\0")
    assert (host.ask(GETCAPABILITIES), host.ask(DISCONNECT)) == (b"", b"")
    assert loader_of(host).disconnects == 1


def test_no_reply_holds_an_echo(host: UsbHost) -> None:
    assert host.ask(TRANSMIT, "30 00 01 00") == bytes.fromhex("00 00 00 95")
    assert host.ask(TRANSMIT, "AC 53 00 00") == bytes(4)
    assert host.ask(TRANSMIT, "50 00 00 00") == bytes.fromhex("00 00 00 E1")
    assert host.ask(TRANSMIT, "58 08 00 00") == bytes.fromhex("00 00 00 99")
    assert host.ask(TRANSMIT, "58 00 00 00") == bytes.fromhex("00 00 00 FF")
    assert host.ask(TRANSMIT, "38 00 00 00") == bytes(4)
    assert loader_of(host).writes == 0


def test_writes_change_the_board_itself_and_are_counted(host: UsbHost) -> None:
    loader = loader_of(host)
    host.give(WRITEFLASH, "00 01 80 01", PAGE)
    assert loader.flash[0x100:0x180] == PAGE
    host.give(WRITEFLASH, "80 01 80 00", PAGE[:20])
    assert loader.flash[0x180:0x194] == b"\xff" * 20
    host.give(WRITEFLASH, "94 01 80 02", PAGE[20:30])
    assert loader.flash[0x180:0x19E] == PAGE[:30]
    assert host.ask(READFLASH, "FE 00", length=4) == b"\xff\xff\x01\x02"
    host.give(WRITEEEPROM, "04 00", b"ee")
    host.ask(TRANSMIT, "C0 00 06 55")
    assert host.ask(READEEPROM, "03 00", length=5) == b"\xffee\x55\xff"
    assert host.ask(TRANSMIT, "28 00 80 00")[3] == 2
    host.ask(TRANSMIT, "AC 80 00 00")
    assert loader.flash.count(0xFF) == len(loader.flash)
    assert loader.writes == 6


def test_does_not_write_over_itself(host: UsbHost) -> None:
    host.give(WRITEFLASH, "00 78 80 01", PAGE)
    assert loader_of(host).flash.count(0xFF) == 32768


USBASP = "16C0:05DC"


class FaceHost(ClassHost):
    """A host that takes a board for a USBasp."""

    def ask_vendor(self, request: int, words: str, length: int = 4) -> bytes:
        """Send a vendor request that brings data; the words as they end up on the wire."""
        value, index = (int.from_bytes(bytes.fromhex(words)[at : at + 2], "little") for at in (0, 2))
        return self.control(
            ControlTransfer(request_type=0xC0, request=request, value=value, index=index, length=length)
        ).data

    def write(self, address: int, data: bytes) -> None:
        """Write flash, with the flags of a whole page."""
        self.control(
            ControlTransfer(
                request_type=0x40, request=WRITEFLASH, value=address, index=0x0300 | len(data) & 0xFF, data=data
            )
        )


def on_board(chip: Chip) -> tuple[FaceHost, UsbAspLoaderFace]:
    loader = start_loader(chip, started(USBASP))
    assert isinstance(loader, UsbAspLoaderFace)
    return FaceHost(loader), loader


def test_on_a_board_it_writes_the_cells_that_isp_sees(parts: Parts) -> None:
    chip = make_chip(parts, "atmega32a", lock=0xFF)
    host, loader = on_board(chip)
    assert (loader.usb, loader.version) == (UsbAsp().usb, 0x0102)
    host.write(0x80, PAGE)
    assert host.took_s == pytest.approx(9e-3 + 18 * 0.2e-3), "a page, 128 bytes by eight, SETUP and status"
    assert chip.target.flash[0x80:0x100] == PAGE
    host.write(0x7000, PAGE)
    host.ask_vendor(TRANSMIT, "AC 80 00 00")
    assert chip.target.flash[:0x7000].count(0xFF) == 0x7000
    assert set(chip.target.flash[0x7000:]) == {LOADER_BYTE}, "it looks after itself whatever the lock bits say"


def test_on_a_board_it_reads_the_fuses_that_are_there(parts: Parts) -> None:
    chip = make_chip(parts, "atmega328p", lock=0x2F)
    chip.target.fuses[chip.part.fuses[0].memory] = 0xD7
    host, _ = on_board(chip)
    told = [host.ask_vendor(TRANSMIT, words)[3] for words in ("50 00 00 00", "58 00 00 00", "30 00 01 00")]
    assert told == [0xD7, 0xEF, 0x95]


def test_on_a_board_it_leaves_by_its_hidden_command_alone(parts: Parts) -> None:
    chip = make_chip(parts, "atmega32a")
    host, loader = on_board(chip)
    host.write(0, PAGE)
    host.ask_vendor(DISCONNECT, "00 00 00 00")
    unasked = loader.departure
    host.ask_vendor(TRANSMIT, "FF 00 00 00")
    host.ask_vendor(DISCONNECT, "00 00 00 00")
    assert unasked is None
    assert loader.departure is not None
    assert loader.departure.exit is Exit.APPLICATION
    again = start_loader(chip, started(USBASP, at=7.0))
    assert again.face is None
    assert again.departure is not None
    assert again.departure.at == 7.0
