"""USBtiny's requests, against what its firmware decodes."""

import pytest

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.control import ControlFields, ControlRequest
from ispd.wire.usbtiny import (
    PERIODS,
    Echo,
    LoadFlash,
    PowerDown,
    PoweredDownError,
    PowerUp,
    ReadEeprom,
    ReadFlash,
    Spi,
    sck_hz,
)

IN, OUT = 0xC0, 0x40

TABLE: list[tuple[ControlRequest[object], ControlFields]] = [
    (Echo(0x1234, 0x5678), ControlFields(request_type=IN, request=0, value=0x1234, index=0x5678, length=8)),
    (PowerUp(10, is_reset=True), ControlFields(request_type=IN, request=5, value=10, index=0)),
    (PowerUp(250, is_reset=False), ControlFields(request_type=IN, request=5, value=250, index=1)),
    (PowerDown(), ControlFields(request_type=IN, request=6)),
    (
        Spi(bytes.fromhex("AC530102")),
        ControlFields(request_type=IN, request=7, value=0x53AC, index=0x0201, length=4),
    ),
    (ReadFlash(ByteAddress(0xFF80), 128), ControlFields(request_type=IN, request=9, index=0xFF80, length=128)),
    (ReadEeprom(ByteAddress(0x0FFF), 1), ControlFields(request_type=IN, request=11, index=0x0FFF, length=1)),
    (
        LoadFlash(ByteAddress(0x1_2380), b"\x01\x02"),
        ControlFields(request_type=OUT, request=10, index=0x2380, data=b"\x01\x02"),
    ),
]


@pytest.mark.parametrize(("request_value", "fields"), TABLE, ids=lambda value: type(value).__name__)
def test_requests_become_setup_packets(request_value: ControlRequest[object], fields: ControlFields) -> None:
    assert request_value.encode() == fields


@pytest.mark.parametrize(
    "impossible",
    [
        PowerUp(0, is_reset=True),
        PowerUp(251, is_reset=True),
        Spi(b"\xac\x53\x00"),
        ReadFlash(ByteAddress(0xFFC0), 65),
        ReadFlash(ByteAddress(0x1_0000), 1),
        ReadFlash(ByteAddress(0), 255),
        LoadFlash(ByteAddress(0), b""),
        LoadFlash(ByteAddress(0), bytes(257)),
    ],
)
def test_what_the_firmware_cannot_take_is_never_sent(impossible: ControlRequest[object]) -> None:
    with pytest.raises(LocalProtocolError):
        impossible.encode()


@pytest.mark.parametrize("looking", [Spi(bytes(4)), ReadFlash(ByteAddress(0), 4), ReadEeprom(ByteAddress(0), 4)])
def test_an_empty_answer_means_powered_down_and_a_short_one_is_an_error(looking: ControlRequest[bytes]) -> None:
    assert looking.decode(b"\x00\xac\x53\x00") == b"\x00\xac\x53\x00"
    with pytest.raises(PoweredDownError):
        looking.decode(b"")
    with pytest.raises(RemoteProtocolError) as short:
        looking.decode(b"\x00\xac\x53")
    assert not isinstance(short.value, PoweredDownError)


def test_only_the_very_setup_packet_is_an_echo() -> None:
    echo = Echo(0x1234, 0x5678)
    assert echo.decode(bytes.fromhex("C000341278560800"))
    assert echo.decode(bytes.fromhex("C021341278560800")), "Little Wire"
    assert not echo.decode(bytes(8))
    assert not echo.decode(b"")
    for request in (PowerUp(1, is_reset=True), PowerDown(), LoadFlash(ByteAddress(0), b"\x00")):
        with pytest.raises(RemoteProtocolError):
            request.decode(b"\x00")


def test_sck_follows_the_firmwares_delay_loop() -> None:
    assert [sck_hz(period) for period in (1, 3, 4, 10, 250)] == [344_827, 204_081, 169_491, 84_033, 3_969]
    assert len({sck_hz(period) for period in PERIODS}) == 250
