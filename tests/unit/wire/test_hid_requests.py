"""Reports of HID bootloaders as control transfers: the bytes, and what cannot be said at all."""

import pytest

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.bootloadhid import GetInfo, Leave, LoaderInfo, WriteBlock
from ispd.wire.control import ControlFields
from ispd.wire.hid_loader import StartApplication, WritePage

BLOCK = bytes(range(128))


def test_bootloadhids_reports():
    assert GetInfo().encode() == ControlFields(request_type=0xA1, request=1, value=0x0301, length=7)
    assert GetInfo().decode(bytes.fromhex("01 8000 00800000")) == LoaderInfo(128, 0x8000)
    assert GetInfo().decode(bytes.fromhex("01 0001 00000200")) == LoaderInfo(256, 0x20000)
    out = WriteBlock(ByteAddress(0x012380), BLOCK).encode()
    assert out == ControlFields(request_type=0x21, request=9, value=0x0302, data=bytes.fromhex("02 802301") + BLOCK)
    assert Leave().encode() == ControlFields(request_type=0x21, request=9, value=0x0301, data=b"\x01" + bytes(6))


def test_hid_loaders_reports():
    near = WritePage(ByteAddress(0x6F80), BLOCK, 0x8000).encode()
    assert near == ControlFields(request_type=0x21, request=9, value=0x0200, data=b"\x80\x6f" + BLOCK)
    # 64 KiB exactly still has addresses of bytes
    assert WritePage(ByteAddress(0xEF00), BLOCK * 2, 0x10000).encode().data[:2] == b"\x00\xef"
    assert WritePage(ByteAddress(0x1EF00), BLOCK * 2, 0x20000).encode().data[:2] == b"\xef\x01"
    start = StartApplication(128).encode()
    assert start == ControlFields(request_type=0x21, request=9, value=0x0200, data=b"\xff\xff" + bytes(128))


@pytest.mark.parametrize(
    "request_",
    [
        WriteBlock(ByteAddress(0x40), BLOCK),
        WriteBlock(ByteAddress(0), BLOCK[:-1]),
        WriteBlock(ByteAddress(0x1000000), BLOCK),
        WriteBlock(ByteAddress(-128), BLOCK),
        WritePage(ByteAddress(0x40), BLOCK, 0x8000),
        WritePage(ByteAddress(0x8000), BLOCK, 0x8000),
        WritePage(ByteAddress(0), b"", 0x8000),
    ],
)
def test_what_cannot_be_said(request_: WriteBlock | WritePage):
    with pytest.raises(LocalProtocolError):
        request_.encode()


@pytest.mark.parametrize("request_", [WriteBlock(ByteAddress(0), BLOCK), Leave(), StartApplication(128)])
def test_nothing_comes_back_from_what_is_sent(request_: WriteBlock | Leave | StartApplication):
    request_.decode(b"")
    with pytest.raises(RemoteProtocolError):
        request_.decode(b"\x00")


@pytest.mark.parametrize("reply", [b"", bytes(6), bytes(7), bytes.fromhex("02 8000 00800000"), bytes(8)])
def test_sizes_without_meaning(reply: bytes):
    with pytest.raises(RemoteProtocolError):
        GetInfo().decode(reply)
