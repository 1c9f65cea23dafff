"""STK500v1 as bytes: what is sent, what is accepted, what can never be said."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.catalog.parts import load_parts
from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.model.part import AvrPart
from ispd.wire import stk500v1
from ispd.wire.avr_isp import WordAddress
from ispd.wire.engine import Chain, Request
from ispd.wire.stk500v1 import (
    BlockMemory,
    EnterProgmode,
    GetParameter,
    LeaveProgmode,
    LoadAddress,
    Parameter,
    ProgramPage,
    ReadPage,
    ReadSignature,
    SetDevice,
    SetDeviceExtended,
    SignOn,
    Sync,
    Universal,
)

# request, its bytes, a good reply, the meaning of that reply
DIALOGUE: list[tuple[Request[object], str, str, object]] = [
    (Sync(), "30 20", "14 10", None),
    (SignOn(), "31 20", "14 41 56 52 20 49 53 50 10", "AVR ISP"),
    (SignOn(), "31 20", "14 10", ""),
    (GetParameter(Parameter.PROGRAMMER_TYPE), "41 93 20", "14 53 10", 0x53),
    (GetParameter(Parameter.PROGRAMMER_TYPE), "41 93 20", "14 93 11", None),
    (SetDeviceExtended(4), "45 05 04 D7 A0 01 20", "14 10", None),
    (EnterProgmode(), "50 20", "14 10", None),
    (LeaveProgmode(), "51 20", "14 10", None),
    (LoadAddress(WordAddress(0x1234)), "55 34 12 20", "14 10", None),
    (Universal(bytes.fromhex("AC800000")), "56 AC 80 00 00 20", "14 00 10", 0),
    (Universal(bytes.fromhex("30000100")), "56 30 00 01 00 20", "14 95 10", 0x95),
    (ProgramPage(b"\x20\x14"), "64 00 02 46 20 14 20", "14 10", None),
    (ReadPage(BlockMemory.FLASH, 256), "74 01 00 46 20", "14" + "10" * 256 + "10", b"\x10" * 256),
    (ReadPage(BlockMemory.EEPROM, 3), "74 00 03 45 20", "14 15 11 12 10", b"\x15\x11\x12"),
    (ReadSignature(), "75 20", "14 1E 95 87 10", b"\x1e\x95\x87"),
    (
        Chain((LoadAddress(WordAddress(0x40)),), ProgramPage(b"\x01\x02")),
        "55 40 00 20 64 00 02 46 01 02 20",
        "14 10 14 10",
        None,
    ),
    (
        Chain((LoadAddress(WordAddress(1)),), ReadPage(BlockMemory.EEPROM, 2)),
        "55 01 00 20 74 00 02 45 20",
        "14 10 14 AA BB 10",
        b"\xaa\xbb",
    ),
]
REQUESTS = [entry[0] for entry in DIALOGUE]


def collect(request: Request[object], stream: bytes) -> bytes | None:
    """Return the reply at the start of ``stream`` by asking for no more than is certainly missing."""
    reply = b""
    while (need := request.missing(reply)) > 0:
        if len(reply) + need > len(stream):
            return None
        reply = stream[: len(reply) + need]
    return reply


@pytest.mark.parametrize(("request_", "sent", "reply", "meaning"), DIALOGUE)
def test_dialogue(request_: Request[object], sent: str, reply: str, meaning: object) -> None:
    assert request_.encode() == bytes.fromhex(sent)
    heard = bytes.fromhex(reply)
    assert collect(request_, heard + b"\x14\x10") == heard, "must not eat into the next reply"
    assert request_.decode(heard) == meaning


def test_set_device_of_the_atmega32u4_is_the_block_avrdude_sends() -> None:
    block = SetDevice.of(load_parts().avr("atmega32u4")).encode()
    assert block == bytes.fromhex("42 00 00 00 01 01 01 01 03 00 00 00 00 00 80 04 00 00 00 80 00 20")


def test_every_part_fits_the_set_device_block_and_keeps_reset_active_low() -> None:
    for part in load_parts().of(AvrPart):
        block = SetDevice.of(part).encode()
        assert len(block) == 22
        assert block[1] < 0xE0, "ArduinoISP drives reset active high from device code E0 on"
        assert int.from_bytes(block[13:15], "big") in (32, 64, 128, 256), "other page sizes commit after every word"
    with pytest.raises(LocalProtocolError):
        SetDevice(device_code=0xE0, lock_bytes=1, fuse_bytes=3, page_bytes=64, eeprom_bytes=0, flash_bytes=0).encode()
    assert len(SetDevice.unknown().encode()) == 22


@pytest.mark.parametrize(
    "request_",
    [
        ProgramPage(bytes(258)),
        ProgramPage(b""),
        ProgramPage(bytes(3)),
        ReadPage(BlockMemory.FLASH, 257),
        ReadPage(BlockMemory.EEPROM, 257),
        ReadPage(BlockMemory.EEPROM, 0),
        LoadAddress(WordAddress(0x10000)),
        Universal(b"\xac\x80\x00"),
        SetDeviceExtended(256),
    ],
)
def test_what_the_sketch_cannot_take_is_never_said(request_: Request[object]) -> None:
    with pytest.raises(LocalProtocolError):
        request_.encode()


def test_no_request_begins_with_the_set_parameter_command() -> None:
    assert not [request for request in REQUESTS if request.encode()[0] == 0x40]
    assert not hasattr(stk500v1, "SetParameter")


@given(st.sampled_from(REQUESTS), st.binary(min_size=1, max_size=600))
def test_only_the_declared_error_comes_out_of_random_bytes(request_: Request[object], noise: bytes) -> None:
    reply = collect(request_, noise)
    with contextlib.suppress(RemoteProtocolError):
        if reply is not None:
            request_.decode(reply)
            assert reply[0] == 0x14
            assert reply[-1] in (0x10, 0x11)


@given(st.sampled_from(REQUESTS), st.sampled_from([0x11, 0x12, 0x13, 0x15]))
def test_a_refusal_is_one_byte_and_an_error(request_: Request[object], status: int) -> None:
    reply = collect(request_, bytes((status,)) + bytes(600))
    assert reply is not None
    with pytest.raises(RemoteProtocolError):
        request_.decode(reply)
    assert reply[0] == status
