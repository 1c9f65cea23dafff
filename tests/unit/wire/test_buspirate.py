"""The Bus Pirate as bytes: what is sent, what is accepted, what can never be said."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.buspirate import (
    AskExtended,
    Bitbang,
    Bulk,
    Marked,
    Peripherals,
    Pins,
    ReadFlash,
    Remainder,
    Speed,
    SpiMode,
    WriteThenRead,
)
from ispd.wire.buspirate_text import divisor_of, is_main_prompt, parse_banner
from ispd.wire.engine import Chain, Request
from ispd.wire.window import Window, WindowPump

SPI1 = b"SPI1".hex()
PAGE = bytes(range(128)) * 4

# request, its bytes, a good reply, the meaning of that reply
DIALOGUE: list[tuple[Request[object], str, str, object]] = [
    (Bitbang(), "00", b"BBIO1".hex(), None),
    (SpiMode(), "01", SPI1, None),
    (Peripherals(power=True, cs_high=False), "48", "01", None),
    (Peripherals(power=True, cs_high=True), "49", "01", None),
    (Peripherals(power=False, cs_high=False), "40", "01", None),
    (Speed(0), "60", "01", None),
    (Speed(4), "64", "01", None),
    (Pins(), "8A", "01", None),
    (Pins(edge=False), "88", "01", None),
    (Bulk(bytes.fromhex("AC530000")), "13 AC530000", "01 00AC5300", bytes.fromhex("00AC5300")),
    (Bulk(bytes(16)), "1F" + "00" * 16, "01" + "AB" * 16, b"\xab" * 16),
    (WriteThenRead(bytes.fromhex("300001")), "05 0003 0001 300001", "01 95", b"\x95"),
    (WriteThenRead(PAGE[:511] + b"\x01"), "05 0200 0001" + (PAGE[:511] + b"\x01").hex(), "01 00", b"\x00"),
    (AskExtended(), "06 01", "01 01 0001", True),
    (AskExtended(), "06 01", "00" + SPI1, False),
    (ReadFlash(0x3FFF, 2), "06 02 00003FFF 00000002", "01 01 1E95", b"\x1e\x95"),
    (Marked(Speed(3)), "63 01", "01" + SPI1, None),
    (Marked(ReadFlash(0, 3)), "06 02 00000000 00000003 01", "01 01 000102" + SPI1, b"\x00\x01\x02"),
    (Marked(Bulk(b"\x00"), 8), "10 00 0A0A 01", "01 7E 0000" + SPI1, b"\x7e"),
    (Marked(Bulk(b"\x00"), 16), "10 00 0A0A 010101", "01 7E 0000" + SPI1 * 3, b"\x7e"),
    (Remainder(Marked(WriteThenRead(b"\x01\x02\x03")), 6), "02 03 01", "01 5A" + SPI1, b"\x5a"),
    (Chain((SpiMode(), Speed(1)), Pins()), "01 61 8A", SPI1 + "01 01", None),
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


@pytest.mark.parametrize(("request_", "sent", "reply", "meaning"), DIALOGUE, ids=lambda value: type(value).__name__)
def test_each_request_is_these_bytes_and_ends_with_its_reply(
    request_: Request[object], sent: str, reply: str, meaning: object
) -> None:
    assert request_.encode() == bytes.fromhex(sent)
    whole = bytes.fromhex(reply)
    assert collect(request_, whole + b"next") == whole
    assert request_.decode(whole) == meaning


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_a_refusal_is_no_good_reply(request_: Request[object]) -> None:
    if request_ != AskExtended():
        refused = bytes(64)
        with pytest.raises(RemoteProtocolError):
            request_.decode(collect(request_, refused) or refused)


@pytest.mark.parametrize(
    ("reply", "why"),
    [("01 00" + SPI1, "0x00"), ("00" + SPI1, "0x00"), ("01 01 AA BB 53 50 49", "lost or added")],
)
def test_a_reading_refused_or_cut_short_is_told_apart(reply: str, why: str) -> None:
    request = Marked(ReadFlash(0, 2))
    stream = bytes.fromhex(reply) + b"\x00"
    with pytest.raises(RemoteProtocolError, match=why):
        request.decode(collect(request, stream) or stream)


@pytest.mark.parametrize(
    "request_",
    [
        Bulk(b""),
        Bulk(bytes(17)),
        WriteThenRead(b""),
        WriteThenRead(bytes(4097)),
        WriteThenRead(b"\x00", 0),
        WriteThenRead(b"\x00", 4097),
        ReadFlash(0xFFFF, 1),
        ReadFlash(0x8000, 0x8000),
        ReadFlash(0, 0),
        Speed(8),
    ],
    ids=repr,
)
def test_what_the_firmware_would_misread_is_never_encoded(request_: Request[object]) -> None:
    with pytest.raises(LocalProtocolError):
        request_.encode()


def test_the_longest_reading_ends_where_address_and_count_meet_the_limit() -> None:
    assert ReadFlash(0x8000, 0x7FFF).encode() == bytes.fromhex("0602 00008000 00007FFF")


@given(data=st.binary(min_size=1, max_size=16), cut=st.data())
def test_a_byte_lost_or_added_never_passes_for_an_answer(data: bytes, cut: st.DataObject) -> None:
    request = Marked(Bulk(data))
    whole = b"\x01" + data + b"SPI1"
    at = cut.draw(st.integers(0, len(whole) - 1))
    added = cut.draw(st.none() | st.binary(min_size=1, max_size=3))
    stream = whole[:at] + (whole[at + 1 :] if added is None else added + whole[at:])
    pump = WindowPump([request], Window(ahead_bytes=0))
    pump.outgoing()
    replies: list[bytes] = []
    with contextlib.suppress(RemoteProtocolError):
        replies.extend(pump.incoming(stream))
    assert replies in ([], [data])  # ``data`` where the change left an equal stream


@given(st.sampled_from(REQUESTS), st.binary(max_size=40))
def test_nothing_that_comes_back_breaks_a_request(request_: Request[object], noise: bytes) -> None:
    reply = collect(request_, noise)
    if reply is not None:
        with contextlib.suppress(RemoteProtocolError):
            request_.decode(reply)


# -- the terminal ------------------------------------------------------------------------------------------------------

_V3 = b"Bus Pirate v3.5\r\nFirmware v5.10 (r559)  Bootloader v4.4\r\nDEVID:0x0447 REVID:0x3046 (24FJ64GA002 B8)\r\nHiZ>"
_V3_TEN = b"Bus Pirate v3.b\r\nCommunity Firmware v7.1 - goo.gl/gCzQnW [HiZ 1-WIRE] Bootloader v4.4\r\nHiZ>"
_V4 = b"Bus Pirate v4\r\nFirmware v6.3-beta1 r2151 \r\nDEVID:0x1019 REVID:0x0004 (24FJ256GB106 A5)\r\nHiZ>"
_V8 = b"\x01\r\nBus Pirate v3.5\r\nElderlyPirate Firmware v8.0 [HiZ] Bootloader v4.4\r\nHiZ>"


@pytest.mark.parametrize(
    ("banner", "text", "hardware", "version"),
    [
        (_V3, "v5.10 (r559) on hardware v3.5", 3, (5, 10)),
        (_V3_TEN, "v7.1 on hardware v3.b", 3, (7, 1)),
        (_V4, "v6.3-beta1 r2151 on hardware v4", 4, (6, 3)),
        (_V8, "v8.0 on hardware v3.5", 3, (8, 0)),
        (b"\x07\x07\r\n", "unknown firmware on hardware unknown", None, None),
    ],
)
def test_the_banner_names_hardware_and_firmware(
    banner: bytes, text: str, hardware: int | None, version: tuple[int, int] | None
) -> None:
    firmware = parse_banner(banner)
    assert (firmware.text, firmware.hardware, firmware.version) == (text, hardware, version)


def test_each_family_of_firmware_is_trusted_with_what_it_can_do() -> None:
    stock, community, new, unknown = map(parse_banner, (_V3, _V3_TEN, _V8, b""))
    assert [f.has_sound_speeds for f in (stock, community, new, unknown)] == [True, False, True, False]
    assert [f.may_invert_edge for f in (stock, community, new, unknown)] == [False, True, False, True]
    assert [f.is_streaming for f in (stock, community, new, unknown)] == [False, False, True, True]
    assert [f.may_change_rate for f in (stock, community, new, unknown)] == [True, True, True, False]
    assert not parse_banner(_V4).may_change_rate
    assert not parse_banner(_V3.replace(b"v5.10", b"v5.4")).may_change_rate
    assert parse_banner(b"", is_v4=True).is_usb


def test_rates_and_prompts() -> None:
    assert [divisor_of(baud) for baud in (2_000_000, 1_000_000, 250_000)] == [1, 3, 15]
    assert is_main_prompt(b"HiZ>")
    assert is_main_prompt(b"SPI> ")
    assert not is_main_prompt(b"(9)>")
    assert not is_main_prompt(b"")
