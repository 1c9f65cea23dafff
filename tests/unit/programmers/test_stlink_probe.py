"""The ST-Link driver: what it sends, what it refuses, and what it makes of a target's answers. The device is the bench's."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.programmers.stlink_rig import Meddle, Quiet, Rig

from ispd.errors import (
    ErrorCode,
    IspdError,
    LinkClosedError,
    LinkTimeoutError,
    LocalProtocolError,
    ProgrammerError,
    RemoteProtocolError,
    TargetError,
)
from ispd.model.recipe import ClonePolicy
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdProgrammer, SwdSettings
from ispd.transport.contract import BulkTransfer
from ispd.wire.cortex_m import DHCSR, CoreRegister
from vbench.stlink_firmware import Mode, StLinkFirmware, odd_serial
from vbench.stm32f1 import GENUINE, ApWait, Stm32F1
from vbench.swd import SwdWiring
from vbench.virtual_time import run_virtual, virtual

V2_1, V3 = 0x374B, 0x374E
PROGRAM = bytes.fromhex("00500020 41000008") + bytes(56) + bytes.fromhex("FEE7")
WAIT = b"\x10\0"


def running_chip(**faults: object) -> Stm32F1:
    chip = Stm32F1(**faults)  # type: ignore[arg-type]  # what a chip can be given
    chip.chip.flash[: len(PROGRAM)] = PROGRAM
    return chip


# -- opening -----------------------------------------------------------------------------------------------------------


@virtual
async def test_it_says_who_it_is_and_what_it_can() -> None:
    rig = Rig(running_chip(), serial=odd_serial(bytes.fromhex("52FF6C064980545247140267")))
    probe: SwdProgrammer = await rig.open()
    assert (probe.identity.kind, probe.identity.port, probe.identity.firmware) == ("stlink", "usb:1-1.4", "V2J37S7")
    assert probe.identity.serial == "52FF6C064980545247140267"
    assert (probe.capabilities.clock_hz[0], probe.capabilities.clock_hz[-1]) == (5_000, 4_000_000)
    assert rig.commands == ["F1"], "the target is left alone"
    await probe.disconnect()
    assert rig.commands == ["F1"]


@pytest.mark.parametrize(
    ("product_id", "code", "words"),
    [
        (0x3744, ErrorCode.PROGRAMMER_CANNOT, "ST-Link/V1"),
        (0x374D, ErrorCode.PROGRAMMER_IS_BOOTLOADER, "loader"),
        (0xDF11, ErrorCode.PROGRAMMER_CANNOT, "no ST-Link"),
    ],
)
@virtual
async def test_what_cannot_be_used_is_refused_before_anything_is_sent(
    product_id: int, code: ErrorCode, words: str
) -> None:
    rig = Rig(None, product_id=product_id)
    with pytest.raises(ProgrammerError, match=words) as refused:
        await rig.open()
    assert refused.value.code is code
    assert (rig.log, rig.is_closed) == ([], True)


@virtual
async def test_a_v3_that_waits_in_its_loader_is_named_by_its_mode() -> None:
    rig = Rig(running_chip(), StLinkFirmware(product_id=V3, jtag=6), product_id=0x3755)
    rig.falsify("F5", [b"\x04\0"])
    with pytest.raises(ProgrammerError, match="loader") as refused:
        await rig.open()
    assert (refused.value.code, rig.is_closed) == (ErrorCode.PROGRAMMER_IS_BOOTLOADER, True)


@virtual
async def test_firmware_that_is_too_old_is_refused() -> None:
    rig = Rig(running_chip(), StLinkFirmware(jtag=10, third=0))
    with pytest.raises(ProgrammerError, match="V2J10S0, which is too old") as refused:
        await rig.open()
    assert (refused.value.code, rig.is_closed) == (ErrorCode.PROGRAMMER_CANNOT, True)


@virtual
async def test_an_old_answer_that_was_left_behind_is_dropped() -> None:
    rig = Rig(running_chip())
    rig.falsify("F1", [bytes(2)])
    assert (await rig.open()).identity.firmware == "V2J37S7"


@virtual
async def test_one_that_is_stuck_is_told_to_be_plugged_in_again() -> None:
    rig = Rig(running_chip())
    rig.meddler = lambda _index, transfer: Meddle.TIMEOUT if transfer.is_in else None
    with pytest.raises(ProgrammerError, match="does not answer") as refused:
        await rig.open()
    assert (refused.value.code, rig.is_closed) == (ErrorCode.PROGRAMMER_SILENT, True)
    assert "plug it in again" in refused.value.hint
    assert rig.clock.monotonic() < 5


# -- connecting --------------------------------------------------------------------------------------------------------


@virtual
async def test_a_v2_connects_as_every_tool_does() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    found = await probe.connect(SwdSettings(clock_hz=1_000_000))
    assert rig.commands[1:] == [
        "F5",
        "F3 07",
        "F5",
        "F7",
        "F2 43 03",
        "F2 30 A3",
        "F2 4B",
        "F2 31",
        "F2 36 00 ED 00 E0",
    ]
    assert {one.endpoint for one in rig.log} == {0x02, 0x81}
    assert (found.clock_hz, found.id_code, found.cpuid) == (950_000, 0x1BA01477, 0x411FC231)
    assert found.voltage_mv is not None
    assert abs(found.voltage_mv - 3240) < 5
    assert found.warnings == ()
    assert rig.runs, "connecting stops nothing"
    rig.log.clear()
    await probe.disconnect()
    run = ["F2 35 FC ED 00 E0", "F2 35 F0 ED 00 E0 01 00 5F A0", "F2 35 F0 ED 00 E0 00 00 5F A0"]
    assert rig.commands == ["F2 3C 01", *run, "F2 21"]


@virtual
async def test_a_v2_1_and_a_v3_have_other_endpoints_and_a_v3_other_clocks() -> None:
    rig = Rig(running_chip(), StLinkFirmware(product_id=V2_1))
    probe = await rig.open()
    await probe.connect(SwdSettings())
    assert {one.endpoint for one in rig.log} == {0x01, 0x81}
    rig = Rig(running_chip(), StLinkFirmware(product_id=V3, jtag=6, third=3))
    probe = await rig.open()
    assert probe.identity.firmware.startswith("V3J6")
    assert probe.capabilities.clock_hz == (5_000, 50_000, 200_000, 1_000_000, 3_300_000, 8_000_000, 24_000_000)
    assert (await probe.connect(SwdSettings())).clock_hz == 1_000_000
    assert rig.commands[:4] == ["F1", "FB", "F5", "F2 62"]
    assert "F2 61 00 00 E8 03" in rig.commands
    assert {one.endpoint for one in rig.log} == {0x01, 0x81}


@pytest.mark.parametrize("jtag", [11, 13, 15, 22, 26, 28])
@virtual
async def test_old_firmware_is_asked_for_nothing_that_it_does_not_know(jtag: int) -> None:
    """And reads and writes all the same."""
    rig = Rig(running_chip(), StLinkFirmware(jtag=jtag))
    probe = await rig.open()
    found = await probe.connect(SwdSettings(clock_hz=480_000))
    await probe.write(0x2000_0001, b"123456")
    assert await probe.read(Span(0x2000_0000, 0x2000_0008), Quiet()) == b"\x00123456\x00"
    sent = {command[:5] for command in rig.commands}
    assert ("F7" in sent) == (jtag >= 13)
    assert ("F2 3E" in sent, "F2 3B" in sent) == (jtag >= 15, jtag < 15)
    assert ("F2 43" in sent, found.clock_hz) == ((True, 480_000) if jtag >= 22 else (False, 1_800_000))
    assert ("F2 4B" in sent) == (jtag >= 28)
    assert not sent & {"F2 47", "F2 48"}
    assert probe.capabilities.clock_hz[0] == (5_000 if jtag >= 22 else 1_800_000)


@pytest.mark.parametrize(
    ("mode", "sent"),
    [(Mode.DFU, ["F3 07", "F5"]), (Mode.SWIM, ["F4 01", "F5"]), (Mode.DEBUG, ["F2 21", "F5"]), (Mode.MASS_STORAGE, [])],
)
@virtual
async def test_the_mode_it_was_left_in_is_left(mode: Mode, sent: list[str]) -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    rig.device.debugger.mode = mode
    await probe.connect(SwdSettings())
    assert rig.commands[1 : 2 + len(sent)] == ["F5", *sent]


@pytest.mark.parametrize("modes", [[b"\x04\0"], [b"\0\0", b"\0\0"]])
@virtual
async def test_a_loader_that_does_not_go_away_is_named(modes: list[bytes]) -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    rig.falsify("F5", modes)
    with pytest.raises(ProgrammerError) as refused:
        await probe.connect(SwdSettings())
    assert refused.value.code is ErrorCode.PROGRAMMER_IS_BOOTLOADER


@virtual
async def test_a_connection_under_reset_halts_before_the_first_instruction() -> None:
    chip = running_chip()
    rig = Rig(chip, wiring=SwdWiring(has_nrst=True))
    probe = await rig.open()
    found = await probe.connect(SwdSettings(under_reset=True))
    assert found.warnings == ()
    assert rig.commands[6:] == [
        *("F2 3C", "F2 30 A3", "F2 3C", "F2 4B", "F2 31"),
        *("F2 35 F0 ED 00 E0 03 00 5F A0", "F2 35 FC ED 00 E0 01 00 00 01"),
        *("F2 36 F0 ED 00 E0", "F2 3C 01"),
        *("F2 36 F0 ED 00 E0", "F2 35 FC ED 00 E0 00 00 00 01", "F2 36 00 ED 00 E0"),
    ]
    assert chip.core.is_halted
    assert await probe.read_register(CoreRegister.PC) == 0x0800_0040
    await probe.disconnect()
    assert rig.runs


@virtual
async def test_a_reset_wire_that_is_not_there_is_noticed() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    found = await probe.connect(SwdSettings(under_reset=True))
    assert any("NRST" in warning for warning in found.warnings)
    assert rig.chip is not None
    assert rig.chip.core.is_halted
    await probe.disconnect()
    assert rig.runs


def voltage(millivolts: int, reference: int = 2400) -> bytes:
    return reference.to_bytes(4, "little") + millivolts.to_bytes(4, "little")


@virtual
async def test_the_supply_is_looked_at_first() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()

    async def connect(answer: bytes, *, ignores: bool = False) -> tuple[int | None, str]:
        rig.falsify("F7", [answer])
        found = await probe.connect(SwdSettings(ignores_voltage=ignores))
        return found.voltage_mv, " ".join(found.warnings)

    for answer in (voltage(1800), voltage(1999)):
        with pytest.raises(TargetError, match="no supply") as refused:
            await connect(answer)
        assert refused.value.code is ErrorCode.TARGET_NOT_RESPONDING
        assert not any(command.startswith("F2 30") for command in rig.commands)
    for answer in (voltage(0), voltage(1799)):
        assert "not believed" in (await connect(answer))[1], (
            "no chip answers with so little: the ST-Link does not measure"
        )
    assert await connect(voltage(2000)) == (2000, "")
    assert await connect(voltage(3600)) == (3600, "")
    assert await connect(voltage(3601)) == (3601, "the board's supply is 3.60 V, more than 3.6 V")
    assert (await connect(voltage(400), ignores=True))[1] == "the board's supply reads 0.40 V, which is not believed"
    assert await connect(voltage(3300, 0)) == (None, "the ST-Link does not measure the board's supply")


@pytest.mark.parametrize("under_reset", [False, True])
@virtual
async def test_a_board_without_supply_is_told_from_bad_wires(under_reset: bool) -> None:
    rig = Rig(running_chip(), wiring=SwdWiring(supplies=False))
    probe = await rig.open()
    with pytest.raises(TargetError, match=r"no supply: 0\.00 V") as refused:
        await probe.connect(SwdSettings(under_reset=under_reset))
    assert refused.value.code is ErrorCode.TARGET_NOT_RESPONDING
    assert "VAPP" in refused.value.hint
    assert not rig.device.socket.nrst_low


@pytest.mark.parametrize("command", ["F2 4B", "F2 3C"])
@virtual
async def test_what_a_clone_or_the_first_reset_may_lack_is_done_without(command: str) -> None:
    rig = Rig(running_chip(), wiring=SwdWiring(has_nrst=True))
    probe = await rig.open()
    rig.falsify(command, [b"\x42\0"])
    found = await probe.connect(SwdSettings(under_reset=True))
    assert (found.id_code, found.warnings) == (0x1BA0_1477, ())
    rig.falsify("F2 4B", [b"\x1d\0"])
    with pytest.raises(TargetError, match="no such AP"):
        await probe.connect(SwdSettings())
    assert rig.runs


@pytest.mark.parametrize("policy", list(ClonePolicy))
@virtual
async def test_clones_are_allowed_warned_of_or_rejected(policy: ClonePolicy) -> None:
    rig = Rig(running_chip(model=replace(GENUINE, dpidr=0x2BA0_1477)))
    probe = await rig.open()
    if policy is ClonePolicy.REJECT:
        with pytest.raises(TargetError, match="clone") as refused:
            await probe.connect(SwdSettings(clones=policy))
        assert refused.value.code is ErrorCode.SIGNATURE_MISMATCH
        assert rig.runs
        assert rig.commands[-1] == "F2 21"
        return
    found = await probe.connect(SwdSettings(clones=policy))
    assert found.id_code == 0x2BA0_1477
    assert bool(found.warnings) == (policy is ClonePolicy.WARN)


@virtual
async def test_the_same_id_in_front_of_a_cortex_m4_is_no_clone() -> None:
    rig = Rig(running_chip(model=replace(GENUINE, dpidr=0x2BA0_1477)))
    probe = await rig.open()
    rig.falsify("F2 36 00 ED 00 E0", [bytes.fromhex("80000000 41C20F41")])
    assert (await probe.connect(SwdSettings(clones=ClonePolicy.REJECT))).warnings == ()


@pytest.mark.parametrize(
    ("chip", "wiring"),
    [(None, None), (running_chip, SwdWiring(swapped=True)), (running_chip, SwdWiring(supplies=False))],
)
@virtual
async def test_nobody_on_the_wires_is_told_with_what_to_look_at(
    chip: Callable[[], Stm32F1] | None, wiring: SwdWiring | None
) -> None:
    rig = Rig(chip and chip(), wiring=wiring)
    probe = await rig.open()
    for under_reset in (False, True):
        with pytest.raises(TargetError) as refused:
            await probe.connect(SwdSettings(under_reset=under_reset, ignores_voltage=True))
        assert refused.value.code is ErrorCode.TARGET_NOT_RESPONDING
        assert "SWDIO" in refused.value.hint
        assert "BOOT0" in refused.value.hint, "what helps against a program that turned its debug pins off"
        assert not rig.device.socket.nrst_low
    with pytest.raises(LocalProtocolError):
        await probe.read_word(DHCSR)


@virtual
async def test_an_id_of_zero_is_nobodys() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    rig.falsify("F2 31", [b"\x80".ljust(12, b"\0")])
    with pytest.raises(TargetError) as refused:
        await probe.connect(SwdSettings())
    assert refused.value.code is ErrorCode.TARGET_NOT_RESPONDING


# -- memory ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(start=st.integers(0, 5000), data=st.binary(max_size=9000), product=st.sampled_from([0x3748, V3]))
def test_any_bytes_go_to_memory_and_come_back(start: int, data: bytes, product: int) -> None:
    async def life() -> None:
        chip = running_chip()
        noise = random.Random(start).randbytes(len(chip.ram))
        rig = Rig(chip, StLinkFirmware(product_id=product, jtag=37 if product == 0x3748 else 6))
        probe = await rig.open()
        await probe.connect(SwdSettings())
        chip.ram[:] = noise
        at = 0x2000_0000 + start
        quiet = Quiet()
        assert await probe.read(Span(at, at + len(data)), quiet) == noise[start : start + len(data)]
        await probe.write(at, data)
        assert chip.ram == noise[:start] + data + noise[start + len(data) :]
        assert await probe.read(Span(at, at + len(data)), quiet) == data
        assert quiet.done == 2 * len(data)

    run_virtual(life)


@virtual
async def test_a_long_read_takes_few_batches_and_stops_when_it_is_asked_to() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings())
    rig.batches = 0
    assert len(await probe.read(Span(0x0800_0000, 0x0801_0000), Quiet())) == 0x1_0000
    assert rig.batches == 16
    rig.batches = 0
    await probe.write(0x2000_0100, bytes(4096))
    assert rig.batches == 1, "over the edge of a window"

    class Stopping(Quiet):
        @property
        def stop_requested(self) -> bool:  # type: ignore[override]  # asked before each piece
            return self.done >= 8192

    assert len(await probe.read(Span(0x0800_0000, 0x0801_0000), Stopping())) == 8192


@virtual
async def test_registers_and_words_are_written_and_read_back() -> None:
    rig = Rig(running_chip(), wiring=SwdWiring(has_nrst=True))
    probe = await rig.open()
    await probe.connect(SwdSettings(under_reset=True))
    for register in (CoreRegister.R0, CoreRegister.R6, CoreRegister.PC):
        await probe.write_register(register, 0x2000_0100 + register * 2)
        assert await probe.read_register(register) == 0x2000_0100 + register * 2
    await probe.write_word(0x2000_0004, 0xDEAD_BEEF)
    assert await probe.read_word(0x2000_0004) == 0xDEAD_BEEF
    await probe.hold_reset(is_held=True)
    assert rig.device.socket.nrst_low
    await probe.hold_reset(is_held=False)
    assert not rig.device.socket.nrst_low


@virtual
async def test_a_slow_clock_gets_the_time_that_it_takes() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings(clock_hz=5_000))
    begun = rig.clock.monotonic()
    assert len(await probe.read(Span(0x2000_0000, 0x2000_1000), Quiet())) == 4096
    assert rig.clock.monotonic() - begun > 5


# -- waiting -----------------------------------------------------------------------------------------------------------


@virtual
async def test_wait_is_tried_again_seven_times_with_pauses_that_double() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings())
    for status in (WAIT, b"\x14\0"):
        rig.falsify("F2 35", [status] * 7)
        before, begun = len(rig.commands), rig.clock.monotonic()
        await probe.write_word(0x2000_0000, 1)
        assert len(rig.commands) - before == 8
        assert 0.127 < rig.clock.monotonic() - begun < 0.14
        rig.falsify("F2 35", [status] * 8)
        with pytest.raises(TargetError, match="8 tries") as refused:
            await probe.write_word(0x2000_0000, 1)
        assert refused.value.code is ErrorCode.TARGET_BUSY


@pytest.mark.parametrize("first", range(30))
@virtual
async def test_a_target_that_is_not_ready_now_and_then_changes_nothing(first: int) -> None:
    chip = running_chip(faults=[ApWait(access=first, times=3)])
    rig = Rig(chip)
    probe = await rig.open()
    await probe.connect(SwdSettings())
    data = random.Random(first).randbytes(9001)
    await probe.write(0x2000_0003, data)
    assert await probe.read(Span(0x2000_0003, 0x2000_0003 + len(data)), Quiet()) == data
    await probe.disconnect()
    assert rig.runs


@virtual
async def test_a_fault_of_memory_says_where_and_the_next_command_works() -> None:
    rig = Rig(running_chip(is_protected=True))
    probe = await rig.open()
    await probe.connect(SwdSettings())
    with pytest.raises(TargetError, match="0x08000400") as refused:
        await probe.read(Span(0x0800_0400, 0x0800_0500), Quiet())
    assert refused.value.facts.address == 0x0800_0400
    assert await probe.read_word(DHCSR) >= 0


# -- batches -----------------------------------------------------------------------------------------------------------

RAM = 0x2000_0000
PAIRS = [(RAM + 4 * number, 0x1111_1111 * number) for number in range(6)]


def sent_words(rig: Rig) -> list[int]:
    """Return the addresses of the words that were written, each time they were."""
    return [int.from_bytes(one.data[2:6], "little") for one in rig.log if one.data.startswith(b"\xf2\x35")]


@virtual
async def test_words_and_registers_go_in_one_batch_in_their_order() -> None:
    rig = Rig(running_chip(), wiring=SwdWiring(has_nrst=True))
    probe = await rig.open()
    await probe.connect(SwdSettings(under_reset=True))
    rig.batches = 0
    await probe.write_all([*PAIRS, (CoreRegister.R1, 7), (RAM, 1), (RAM, 2)])
    assert await probe.read_all([CoreRegister.R1, RAM, RAM + 20]) == (7, 2, 0x5555_5555)
    assert rig.batches == 2
    await probe.write_all([])
    assert await probe.read_all([]) == ()


@pytest.mark.parametrize("third", [b"\x11\0", b"\x81\0", b"\x80", b"", b"\xee\0"])
@virtual
async def test_a_word_that_is_refused_ends_its_batch_and_is_named(third: bytes) -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings())
    rig.log.clear()
    rig.falsify("F2 35", [b"\x80\0", b"\x80\0", third])
    with pytest.raises((TargetError, RemoteProtocolError)) as failed:
        await probe.write_all(PAIRS)
    assert sent_words(rig) == [address for address, _ in PAIRS[:3]], "nothing is sent behind what failed"
    if isinstance(failed.value, TargetError):
        assert failed.value.facts.address == PAIRS[2][0]
    assert await probe.read_all([address for address, _ in PAIRS[:2]]) == tuple(value for _, value in PAIRS[:2])


@virtual
async def test_a_batch_goes_on_where_the_target_asked_to_wait() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings())
    rig.log.clear()
    ok = b"\x80\0"
    rig.falsify("F2 35", [ok, ok, *[WAIT] * 7, *[ok] * 2, *[WAIT] * 7])
    await probe.write_all(PAIRS)
    a, b, c, d, e, f = (address for address, _ in PAIRS)
    assert sent_words(rig) == [a, b, *[c] * 8, d, *[e] * 8, f], (
        "each has tries of its own, and what was done stays done"
    )


@virtual
async def test_a_memory_transfer_that_waits_is_repeated_whole_and_alone() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings())
    data = bytes(range(256)) * 16
    rig.log.clear()
    rig.falsify("F2 3E", [b"\x80".ljust(12, b"\0"), b"\x10".ljust(12, b"\0")])
    await probe.write(RAM + 0x100, data)
    heads = [int.from_bytes(one.data[2:6], "little") for one in rig.log if one.data.startswith(b"\xf2\x08")]
    assert heads == [RAM + 0x100, RAM + 0x1000, RAM + 0x1000]
    assert await probe.read(Span(RAM + 0x100, RAM + 0x1100), Quiet()) == data


# -- faults ------------------------------------------------------------------------------------------------------------

RAISED = {
    Meddle.STALL: RemoteProtocolError,
    Meddle.TIMEOUT: LinkTimeoutError,
    Meddle.UNPLUG: LinkClosedError,
    Meddle.SHORT: RemoteProtocolError,
    Meddle.EMPTY: RemoteProtocolError,
}


async def session(rig: Rig) -> bytes:
    """Do a little of everything."""
    probe = await rig.open()
    try:
        await probe.connect(SwdSettings(under_reset=True))
        try:
            await probe.write(0x2000_0001, b"0123456789")
            await probe.write_register(CoreRegister.R0, 7)
            assert await probe.read_register(CoreRegister.R0) == 7
            return await probe.read(Span(0x2000_0001, 0x2000_000B), Quiet())
        finally:
            with anyio.CancelScope(shield=True):
                await probe.disconnect()
    finally:
        await probe.aclose()


async def caught(life: Awaitable[bytes]) -> bytes | IspdError:
    try:
        return await life
    except IspdError as error:
        return error


def meddled(number: int, meddle: Meddle) -> Callable[[int, BulkTransfer], Meddle | None]:
    return lambda index, transfer: (
        meddle if index == number and (transfer.is_in or meddle not in (Meddle.SHORT, Meddle.EMPTY)) else None
    )


@pytest.mark.parametrize("meddle", list(Meddle))
def test_whatever_breaks_ends_in_its_error_or_the_right_bytes_and_the_target_runs(meddle: Meddle) -> None:
    async def life(number: int) -> bool:
        """Break one transfer; return whether there was one."""
        rig = Rig(running_chip(), wiring=SwdWiring(has_nrst=True))
        rig.meddler = meddled(number, meddle)
        outcome = await caught(session(rig))
        assert outcome == b"0123456789" or isinstance(outcome, RAISED[meddle]), (number, outcome)
        assert rig.is_closed
        if meddle is not Meddle.UNPLUG:
            assert rig.runs, number
        return number < len(rig.log)

    numbers = iter(range(1000))
    while run_virtual(life, next(numbers)):
        pass
    assert next(numbers) > 60, "so many transfers were broken"


@virtual
async def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings())
    await probe.write_word(0x2000_0000, 0x1111_1111)
    await probe.write_word(0x2000_0004, 0x2222_2222)
    lost = len(rig.log) + 1
    rig.meddler = lambda index, _transfer: Meddle.TIMEOUT if index == lost else None
    with pytest.raises(LinkTimeoutError):
        await probe.read_word(0x2000_0000)
    assert await probe.read_word(0x2000_0004) == 0x2222_2222
    drains = [one for one in rig.log if one.is_in and one.length == 6144]
    assert len(drains) == 2, "what came late, and nothing more"


@virtual
async def test_cancelling_never_cuts_a_command_in_two() -> None:
    rig = Rig(running_chip())
    probe = await rig.open()
    await probe.connect(SwdSettings(clock_hz=5_000))
    with anyio.move_on_after(1):
        await probe.write(0x2000_0000, bytes(range(256)) * 64)
    assert rig.clock.monotonic() < 15, "the piece under way, and no other"
    assert await probe.read_word(0x2000_0000) == 0x0302_0100
    assert not any(one.is_in and one.length == 6144 for one in rig.log), "nothing was lost"
    assert len(rig.log) < 60
    await probe.disconnect()
    assert rig.runs
