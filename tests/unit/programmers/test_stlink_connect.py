"""The ST-Link driver opens and connects: what it sends, what it refuses, with what words. The device is the bench's."""

from collections.abc import Callable

import pytest
from tests.unit.programmers.stlink_rig import V2_1, V3, Meddle, Quiet, Rig, running_chip

from ispd.errors import (
    ErrorCode,
    LocalProtocolError,
    ProgrammerError,
    TargetError,
)
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdProgrammer, SwdSettings
from ispd.wire.cortex_m import DHCSR, CoreRegister
from vbench.stlink_firmware import Mode, StLinkFirmware, odd_serial
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdWiring
from vbench.virtual_time import virtual

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


WRITE_64 = bytes.fromhex("F208 00000020 4000").ljust(16, b"\0")
READ_64 = bytes.fromhex("F207 00000020 4000").ljust(16, b"\0")


@pytest.mark.parametrize("left_behind", [WRITE_64, READ_64])
@virtual
async def test_one_that_a_program_was_killed_at_finds_its_place(left_behind: bytes) -> None:
    """It waits for data that never came, or holds an answer that nobody took."""
    rig = Rig(running_chip())
    rig.device.bulk_out(0x02, left_behind, 0.0)
    probe = await rig.open()
    assert probe.identity.firmware == "V2J37S7"
    assert (await probe.connect(SwdSettings())).id_code == 0x1BA0_1477
    assert rig.clock.monotonic() < 3
    await probe.disconnect()
    assert rig.runs


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
    assert probe.identity.firmware == "V3J6M3"
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

    async def connect(answer: bytes) -> tuple[int | None, str]:
        rig.falsify("F7", [answer])
        found = await probe.connect(SwdSettings())
        return found.voltage_mv, " ".join(found.warnings)

    for answer in (voltage(1800), voltage(1999)):
        with pytest.raises(TargetError, match="too low a supply") as refused:
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
    assert (await connect(voltage(400)))[1] == "the board's supply reads 0.40 V, which is not believed"
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
    rig.falsify("F2 43", [b"\x42\0"])
    found = await probe.connect(SwdSettings(clock_hz=125_000))
    assert (found.clock_hz, "does not set SWD's clock" in " ".join(found.warnings)) == (1_800_000, True)
    rig.falsify("F2 4B", [b"\x1d\0"])
    with pytest.raises(TargetError, match="no such AP"):
        await probe.connect(SwdSettings())
    assert rig.runs


@pytest.mark.parametrize(
    ("chip", "wiring"),
    [(None, None), (running_chip, SwdWiring(swapped=True))],
)
@virtual
async def test_nobody_on_the_wires_is_told_with_what_to_look_at(
    chip: Callable[[], Stm32F1] | None, wiring: SwdWiring | None
) -> None:
    rig = Rig(chip and chip(), wiring=wiring)
    probe = await rig.open()
    for under_reset in (False, True):
        rig.falsify("F7", [voltage(3300)])
        with pytest.raises(TargetError) as refused:
            await probe.connect(SwdSettings(under_reset=under_reset))
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
