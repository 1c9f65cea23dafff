"""USBasp's requests, against what its firmware decodes."""

import pytest

from ispd.errors import LocalProtocolError, RemoteProtocolError
from ispd.wire.avr_isp import ByteAddress
from ispd.wire.control import ControlFields, ControlRequest
from ispd.wire.usbasp import (
    SCK_OPTIONS,
    Connect,
    Disconnect,
    EnableProg,
    GetCapabilities,
    ReadEeprom,
    ReadFlash,
    SetIspSck,
    SetLongAddress,
    Transmit,
    WriteFlash,
    can_3_mhz,
)

IN, OUT = 0xC0, 0x40
A = ByteAddress(0x1_2380)
"""An address beyond 64 KiB."""


def write(page_bytes: int, *, is_page_start: bool = False) -> WriteFlash:
    return WriteFlash(A, b"\x01\x02", page_bytes, is_page_start=is_page_start)


TABLE: list[tuple[ControlRequest[object], ControlFields]] = [
    (Connect(), ControlFields(request_type=IN, request=1, length=4)),
    (Disconnect(), ControlFields(request_type=IN, request=2, length=4)),
    (
        Transmit(bytes.fromhex("AC530102")),
        ControlFields(request_type=IN, request=3, value=0x53AC, index=0x0201, length=4),
    ),
    (ReadFlash(A, 200), ControlFields(request_type=IN, request=4, value=0x2380, length=200)),
    (EnableProg(), ControlFields(request_type=IN, request=5, length=4)),
    (
        write(128, is_page_start=True),
        ControlFields(request_type=OUT, request=6, value=0x2380, index=0x0180, data=b"\x01\x02"),
    ),
    (write(64), ControlFields(request_type=OUT, request=6, value=0x2380, index=0x0040, data=b"\x01\x02")),
    (
        write(256, is_page_start=True),
        ControlFields(request_type=OUT, request=6, value=0x2380, index=0x1100, data=b"\x01\x02"),
    ),
    (ReadEeprom(ByteAddress(0x0FFF), 1), ControlFields(request_type=IN, request=7, value=0x0FFF, length=1)),
    (SetLongAddress(A), ControlFields(request_type=IN, request=9, value=0x2380, index=0x0001, length=4)),
    (SetIspSck(12), ControlFields(request_type=IN, request=10, value=12, length=4)),
    (GetCapabilities(), ControlFields(request_type=IN, request=127, length=4)),
]


@pytest.mark.parametrize(("request_value", "fields"), TABLE, ids=lambda value: type(value).__name__)
def test_requests_become_setup_packets(request_value: ControlRequest[object], fields: ControlFields) -> None:
    assert request_value.encode() == fields


@pytest.mark.parametrize(
    "impossible",
    [
        Transmit(b"\xac\x53\x00"),
        ReadFlash(A, 201),
        write(0),
        write(4096),
        WriteFlash(A, b"", 128, is_page_start=True),
        WriteFlash(A, bytes(201), 128, is_page_start=True),
        SetLongAddress(ByteAddress(1 << 32)),
        SetIspSck(0),
        SetIspSck(14),
    ],
)
def test_what_the_firmware_cannot_take_is_never_sent(impossible: ControlRequest[object]) -> None:
    with pytest.raises(LocalProtocolError):
        impossible.encode()


def test_answers_have_their_length_or_are_errors() -> None:
    assert Transmit(bytes(4)).decode(b"\x00\xac\x53\x1e") == b"\x00\xac\x53\x1e"
    assert ReadFlash(A, 2).decode(b"\x12\x34") == b"\x12\x34"
    assert ReadEeprom(A, 2).decode(b"\x12\x34") == b"\x12\x34"
    assert EnableProg().decode(b"\x00") is True
    assert EnableProg().decode(b"\x01") is False
    assert SetIspSck(9).decode(b"\x00") is True
    assert SetIspSck(9).decode(b"") is False
    assert GetCapabilities().decode(b"") is None
    assert GetCapabilities().decode(b"\x01\x00\x00\x01") == 0x0100_0001
    requests: list[ControlRequest[object]] = [row[0] for row in TABLE]
    for request in requests:
        with pytest.raises(RemoteProtocolError):
            request.decode(bytes(3))


def test_the_option_table_is_slowest_first_and_3_mhz_only_by_capability() -> None:
    assert list(SCK_OPTIONS) == sorted(SCK_OPTIONS)
    assert list(SCK_OPTIONS.values()) == list(range(1, 14))
    assert (SCK_OPTIONS[8_000], SCK_OPTIONS[93_750], SCK_OPTIONS[1_500_000]) == (5, 8, 12)
    assert [can_3_mhz(bits) for bits in (None, 0, 1, 0x0100_0000)] == [False, False, False, True]
