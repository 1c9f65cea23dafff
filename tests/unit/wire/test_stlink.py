"""Bytes of every command of an ST-Link, what its answers mean, and which errors its statuses become."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ispd.errors import ErrorCode, IspdError, LocalProtocolError, RemoteProtocolError, TargetError
from ispd.model.span import Span
from ispd.wire import stlink, stlink_target
from ispd.wire.stlink import Mode, ResetLine
from ispd.wire.stlink_firmware import (
    MAX_BLOCK_BYTES,
    MODELS,
    SWD_DIVISORS,
    Firmware,
    Generation,
    Width,
    pieces,
    shown_serial,
    supported_clock,
)
from ispd.wire.stlink_packet import StlinkCommand
from ispd.wire.stlink_status import SwdStatusError, SwdWaitError, check_status

OK = bytes((0x80, 0))
"""Status of a command that went well."""


def clock_reply(count: int, *khz: int) -> bytes:
    return OK + bytes(2) + struct.pack("<II10I", 1000, count, *khz, *[0] * (10 - len(khz)))


@pytest.mark.parametrize(
    ("command", "sent", "reply", "meaning"),
    [
        (stlink.GetVersion(), "F1", "29 47 83 04 48 37", Firmware(hardware=2, jtag=37, extra=7)),
        (stlink.GetExtendedVersion(), "FB", "03 02 06 05 01" + "00" * 7, Firmware(hardware=3, jtag=6, extra=5, extra_letter="M")),
        (stlink.GetExtendedVersion(), "FB", "03 02 06 00 01" + "00" * 7, Firmware(hardware=3, jtag=6, extra=2)),
        (stlink.GetMode(), "F5", "02 00", Mode.DEBUG),
        (stlink.GetVoltage(), "F7", "00 08 00 00 00 0B 00 00", 3300),
        (stlink.GetVoltage(), "F7", "00 00 00 00 00 0B 00 00", None),
        (stlink.LeaveDfu(), "F3 07", "", None),
        (stlink.LeaveSwim(), "F4 01", "", None),
        (stlink.LeaveDebug(), "F2 21", "", None),
        (stlink.EnterSwd(), "F2 30 A3", "80 00", None),
        (stlink.GetIdCode(), "F2 31", "80 00 00 00 77 14 A0 1B 00 00 00 00", 0x1BA01477),
        (stlink.DriveReset(ResetLine.LOW), "F2 3C 00", "80 00", None),
        (stlink.DriveReset(ResetLine.HIGH), "F2 3C 01", "80 00", None),
        (stlink.SetDivisor(798), "F2 43 1E 03", "80 00", None),
        (stlink.SetClock(3_300_000), "F2 61 00 00 E4 0C 00 00", "80 00 00 00 E4 0C 00 00", None),
        (stlink.GetClocks(), "F2 62 00", clock_reply(3, 24000, 8000, 200, 5).hex(), (200_000, 8_000_000, 24_000_000)),
        (stlink.OpenAccessPort(0), "F2 4B 00", "80 00", None),
        (stlink_target.ReadRegister(15), "F2 33 0F", "80 00 00 00 FE CA 00 08", 0x0800CAFE),
        (stlink_target.WriteRegister(16, 0x01000000), "F2 34 10 00 00 00 01", "80 00", None),
        (stlink_target.WriteRegister(15, 1), "F2 34 0F 01 00 00 00", "0D 00", None),
        (stlink_target.ReadWord(0xE000EDF0), "F2 36 F0 ED 00 E0", "80 00 00 00 03 00 03 00", 0x00030003),
        (stlink_target.WriteWord(0xE000EDF0, 0xA05F0003), "F2 35 F0 ED 00 E0 03 00 5F A0", "80 00", None),
        (stlink_target.ReadMemory(Width.WORD, 0x08000000, 4), "F2 07 00 00 00 08 04 00", "01 02 03 04", b"\1\2\3\4"),
        (stlink_target.ReadMemory(Width.BYTE, 0x20000001, 1), "F2 0C 01 00 00 20 01 00", "AA 55", b"\xaa"),
        (stlink_target.GetMemoryStatus(True, "reading", 0), "F2 3E", "80 00 00 00" + "00" * 8, None),
        (stlink_target.GetMemoryStatus(False, "reading", 0), "F2 3B", "80 00", None),
    ],
)  # fmt: skip
def test_commands_are_sent_and_answers_are_understood(
    command: StlinkCommand[object], sent: str, reply: str, meaning: object
) -> None:
    packet = command.encode()
    assert packet.command == bytes.fromhex(sent).ljust(16, b"\0")
    assert packet.data == b""
    answer = bytes.fromhex(reply)
    assert packet.reply_bytes == len(answer)
    assert command.decode(answer) == meaning
    for wrong in (answer + b"\0", answer[:-1]):
        if wrong != answer:
            with pytest.raises(RemoteProtocolError, match="bytes instead of"):
                command.decode(wrong)


@pytest.mark.parametrize(("width", "code"), [(Width.WORD, "08"), (Width.BYTE, "0D")])
def test_writing_memory_sends_its_bytes_behind_the_command(width: Width, code: str) -> None:
    packet = stlink_target.WriteMemory(width, 0x20000100, b"12345678").encode()
    assert packet.command == bytes.fromhex(f"F2 {code} 00 01 00 20 08 00").ljust(16, b"\0")
    assert (packet.data, packet.reply_bytes) == (b"12345678", 0)


@pytest.mark.parametrize(
    "command",
    [
        stlink_target.ReadWord(0xE000EDF2),
        stlink_target.WriteWord(0x20000000, 1 << 32),
        stlink_target.ReadWord(-4),
        stlink_target.ReadRegister(256),
        stlink_target.ReadMemory(Width.WORD, 0x08000002, 4),
        stlink_target.ReadMemory(Width.WORD, 0x08000000, 6),
        stlink_target.ReadMemory(Width.WORD, 0x08000000, MAX_BLOCK_BYTES + 4),
        stlink_target.ReadMemory(Width.BYTE, 0x08000000, 65),
        stlink_target.ReadMemory(Width.BYTE, 0x08000000, 0),
        stlink_target.WriteMemory(Width.BYTE, 0x08000000, bytes(513), 512),
        stlink.SetDivisor(0x10000),
    ],
)
def test_what_the_protocol_cannot_carry_is_our_own_mistake(command: StlinkCommand[object]) -> None:
    with pytest.raises(LocalProtocolError):
        command.encode()


def test_an_answer_without_meaning_is_the_peers() -> None:
    with pytest.raises(RemoteProtocolError, match="mode 9"):
        stlink.GetMode().decode(b"\x09\0")
    with pytest.raises(RemoteProtocolError, match="no SWD clock"):
        stlink.GetClocks().decode(clock_reply(0, 24000))


WITH_STATUS: list[tuple[StlinkCommand[object], int]] = [
    (stlink.EnterSwd(), 2),
    (stlink.GetIdCode(), 12),
    (stlink.DriveReset(ResetLine.LOW), 2),
    (stlink.SetDivisor(1), 2),
    (stlink.SetClock(1_000_000), 8),
    (stlink.GetClocks(), 52),
    (stlink.OpenAccessPort(), 2),
    (stlink_target.ReadRegister(0), 8),
    (stlink_target.WriteRegister(0, 0), 2),
    (stlink_target.ReadWord(0), 8),
    (stlink_target.WriteWord(0, 0), 2),
    (stlink_target.GetMemoryStatus(True, "reading", 0), 12),
    (stlink_target.GetMemoryStatus(False, "reading", 0), 2),
]


def outcome(command: StlinkCommand[object], reply: bytes) -> IspdError | None:
    try:
        command.decode(reply)
    except IspdError as error:
        return error
    return None


@pytest.mark.parametrize(("command", "length"), WITH_STATUS)
def test_every_status_of_every_command_is_success_or_the_right_error(
    command: StlinkCommand[object], length: int
) -> None:
    """Nothing but 80 and the harmless 0D is ever taken for success."""
    packet = command.encode()
    assert (packet.reply_bytes, packet.has_status) == (length, True), "a batch ends where it is no success"
    refused = outcome(command, bytes((0x09, 0)).ljust(length, b"\0"))
    assert refused is not None
    assert type(command).__name__ not in refused.message, "what is done has words"
    rest = clock_reply(1, 1000)[1:length]
    nobody, waits, passed = {0x04, 0x05, 0x09, 0x0B, 0x15, 0x16, 0x17}, set(), set()
    for status in range(0x100):
        match outcome(command, bytes((status,)) + rest):
            case None:
                passed.add(status)
            case SwdWaitError():
                waits.add(status)
            case SwdStatusError() as error:
                code = ErrorCode.TARGET_NOT_RESPONDING if status in nobody else ErrorCode.TARGET_LOST
                assert (error.status, error.code, bool(error.hint)) == (status, code, True)
            case other:
                assert isinstance(other, RemoteProtocolError)
                assert f"0x{status:02X}" in other.message
    assert (passed, waits) == ({0x80, 0x0D}, {0x10, 0x14})


def test_known_statuses_are_the_targets_trouble_and_not_the_programmers() -> None:
    for status in (0x09, 0x0C, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1D, 0x81):
        with pytest.raises(TargetError):
            check_status(status, "x")


def test_a_fault_is_told_where_it_happened() -> None:
    status = stlink_target.GetMemoryStatus(True, "reading memory", 0x08000000)
    with pytest.raises(SwdStatusError, match="0x08000410") as caught:
        status.decode(struct.pack("<HHII", 0x11, 0, 0x08000410, 0))
    assert caught.value.facts.address == 0x08000410
    with pytest.raises(SwdStatusError, match="0x08000000"):
        stlink_target.GetMemoryStatus(False, "reading memory", 0x08000000).decode(b"\x11\0")


def test_versions_are_written_as_everywhere_and_open_their_gates() -> None:
    assert str(stlink.GetVersion().decode(bytes.fromhex("294783044837"))) == "V2J37S7"
    assert str(stlink.GetVersion().decode(bytes.fromhex("294783044B37"))) == "V2J37M7"

    def gates(firmware: Firmware) -> str:
        names = "can_debug reads_voltage tells_fault_address sets_divisor opens_access_ports lists_clocks"
        return "".join(str(int(getattr(firmware, name))) for name in names.split())

    at = {10: "000000", 11: "100000", 13: "110000", 15: "111000", 22: "111100", 28: "111110"}
    for jtag, expected in at.items():
        assert gates(Firmware(hardware=2, jtag=jtag)) == expected, jtag
        newer = [later for later in at if later > jtag]
        assert gates(Firmware(hardware=2, jtag=(newer[0] if newer else 64) - 1)) == expected
    assert gates(Firmware(hardware=3, jtag=1)) == "111011"
    assert gates(Firmware(hardware=3, jtag=0))[0] == "0"
    limits = [Firmware(hardware=h, jtag=j).byte_limit for h, j in ((2, 37), (3, 5), (3, 6), (4, 1))]
    assert limits == [64, 64, 512, 512]


def test_the_fastest_clock_not_above_the_wish_is_taken() -> None:
    clocks = tuple(SWD_DIVISORS)
    asked = (1, 5_000, 14_999, 1_000_000, 1_800_000, 4_000_000, 99_000_000)
    assert [SWD_DIVISORS[supported_clock(clocks, hz)] for hz in asked] == [798, 798, 798, 3, 1, 0, 0]


def test_models_by_product_id() -> None:
    assert MODELS[0x3744].generation is Generation.V1
    assert (MODELS[0x3748].out_endpoint, MODELS[0x3748].in_endpoint) == (0x02, 0x81)
    for product in (0x374A, 0x374B, 0x3752, 0x374E, 0x374F, 0x3753, 0x3754):
        assert (MODELS[product].out_endpoint, MODELS[product].in_endpoint) == (0x01, 0x81)
    assert MODELS[0x374D].generation is Generation.V3_LOADER


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0669ff303235424757146023", "0669FF303235424757146023"),
        ("".join(map(chr, bytes.fromhex("52FF6C064980545247140267"))), "52FF6C064980545247140267"),
        ("", ""),
        ("FT1234", "FT1234"),
        ("\x05\x01", "00050001"),
        ("\u4e00" * 12, "4E00" * 12),
    ],
)
def test_serial_numbers_are_shown_whatever_they_are(text: str, shown: str) -> None:
    assert shown_serial(text) == shown


@given(st.text(st.characters(max_codepoint=0xFFFF), max_size=126))
def test_any_serial_number_can_be_put_into_any_text(text: str) -> None:
    """Surrogates without their other half included, which no encoding takes."""
    shown = shown_serial(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert bool(shown) is bool(text)


@settings(deadline=None)  # five thousand pieces on a busy machine
@given(
    start=st.integers(0, 1 << 16),
    length=st.integers(0, 20_000),
    window=st.sampled_from([4, 64, 1024, 4096, 65536]),
    limit=st.sampled_from([64, 512]),
)
def test_pieces_cover_a_span_exactly_and_within_all_limits(start: int, length: int, window: int, limit: int) -> None:
    base = 0x0800_0000 + start
    span = Span(base, base + length)
    at = span.start
    for piece in pieces(span, window_bytes=window, byte_limit=limit):
        assert piece.span.start == at, "in order, nothing left out, nothing twice"
        assert len(piece.span) > 0
        assert piece.span.start // window == (piece.span.stop - 1) // window, "within one window"
        # what its own command accepts
        stlink_target.ReadMemory(piece.width, piece.span.start, len(piece.span), limit).encode()
        at = piece.span.stop
    assert at == span.stop
    small = [one for one in pieces(span, window_bytes=window, byte_limit=limit) if one.width is Width.BYTE]
    assert sum(len(one.span) for one in small) <= 6, "bytes only at the ends"


def test_a_window_without_whole_words_is_our_own_mistake() -> None:
    for window in (0, -4, 6):
        with pytest.raises(IspdError):
            list(pieces(Span(0, 8), window_bytes=window))
