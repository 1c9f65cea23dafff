"""USBaspLoader: a board that answers a USBasp's requests out of its own head."""

import pytest
from tests.unit.vbench.rigs import UsbHost

from ispd.catalog.parts import Parts
from vbench.usbasp import UsbAsp
from vbench.usbasp_loader import UsbAspLoader

CONNECT, DISCONNECT, TRANSMIT, READFLASH, ENABLEPROG, WRITEFLASH = range(1, 7)
READEEPROM, WRITEEEPROM, SETLONGADDRESS, SETISPSCK = range(7, 11)
GETCAPABILITIES = 127
PAGE = bytes(range(1, 129))


@pytest.fixture
def host(parts: Parts) -> UsbHost:
    return UsbHost(UsbAspLoader(parts.get("atmega32a")))


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
