"""The ST-Link driver: memory, registers, batches, and a target that is not ready. The device is the bench's."""

import random

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.programmers.stlink_rig import V3, Meddle, Quiet, Rig, running_chip

from ispd.errors import (
    ErrorCode,
    LinkTimeoutError,
    RemoteProtocolError,
    TargetError,
)
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdSettings
from ispd.wire.cortex_m import DHCSR, CoreRegister
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32f1 import ApWait
from vbench.swd import SwdWiring
from vbench.virtual_time import run_virtual, virtual

WAIT = b"\x10\0"


# -- memory ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
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
