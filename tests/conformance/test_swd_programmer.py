"""The contract of SWD programmers, run on every bed: connect, registers, memory, disconnect; disturbed, cancelled, unplugged."""

import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest
from tests.conformance.beds import Watch
from tests.conformance.swd_beds import QUICK_ROWS, ROWS, VIRTUAL, Bed, Disturbance, OpenBed, Run, beds_of

from ispd.errors import IspdError, LinkClosedError, LinkTimeoutError, LocalProtocolError, RemoteProtocolError
from ispd.model.span import Span
from ispd.programmers.swd_contract import SwdSettings
from ispd.wire.cortex_m import DHCSR, CoreRegister, Dhcsr

RAM = 0x2000_0000
WORDS = [(RAM + 0x4000 + 4 * number, 0x0101_0101 * (number + 1)) for number in range(4)]

EVERY = beds_of(ROWS)
QUICK = beds_of(QUICK_ROWS)
each_bed = pytest.mark.parametrize("run", EVERY.values(), ids=EVERY)
each_quick_bed = pytest.mark.parametrize("run", QUICK.values(), ids=QUICK)
each_virtual_bed = pytest.mark.parametrize("run", VIRTUAL.values(), ids=VIRTUAL)

RAISED = {
    Disturbance.STALL: RemoteProtocolError,
    Disturbance.SILENCE: LinkTimeoutError,
    Disturbance.EMPTY: RemoteProtocolError,
    Disturbance.SHORT: RemoteProtocolError,
    Disturbance.UNPLUG: LinkClosedError,
}


@each_bed
def test_a_session_reads_and_writes_what_it_was_asked_to_and_lets_go(run: Run) -> None:
    data = random.Random(1).randbytes(6001)

    async def session(open_bed: OpenBed) -> None:
        async with open_bed() as bed:
            programmer, row = bed.programmer, bed.row
            assert programmer.identity.kind == row.driver.kind
            assert programmer.identity.firmware.startswith(row.says)
            assert row.clock_hz in programmer.capabilities.clock_hz
            assert programmer.capabilities.default_hz in programmer.capabilities.clock_hz
            assert list(programmer.capabilities.clock_hz) == sorted(programmer.capabilities.clock_hz)
            found = await programmer.connect(SwdSettings(clock_hz=row.wish_hz))
            assert (found.clock_hz, found.id_code, found.warnings) == (row.clock_hz, 0x1BA0_1477, ())
            assert bed.runs, "connecting disturbs nothing"
            found = await programmer.connect(SwdSettings(clock_hz=row.wish_hz, under_reset=True))
            assert bool(found.warnings) is not row.has_nrst
            assert bed.chip.core.is_halted
            await programmer.write(RAM + 3, data)
            watch = Watch()
            assert await programmer.read(Span(RAM + 3, RAM + 3 + len(data)), watch) == data
            assert watch.total == len(data)
            assert await programmer.read(Span(RAM, RAM), watch) == b""
            await programmer.write(RAM, b"")
            await programmer.write_all([*WORDS, (CoreRegister.R4, 5), (RAM + 0x4000, 9)])
            places = [CoreRegister.R4, *(address for address, _ in WORDS)]
            assert await programmer.read_all(places) == (5, 9, *(value for _, value in WORDS[1:]))
            await programmer.write_register(CoreRegister.R1, 77)
            await programmer.write_word(RAM + 0x4800, 78)
            assert await programmer.read_register(CoreRegister.R1) == 77
            assert await programmer.read_word(RAM + 0x4800) == 78
            await programmer.hold_reset(is_held=True)
            await programmer.hold_reset(is_held=False)
            await programmer.disconnect()
            assert bed.runs
            await programmer.disconnect()

    run(session)


@each_quick_bed
def test_without_a_target_nothing_is_sent(run: Run) -> None:
    async def session(open_bed: OpenBed) -> None:
        async with open_bed() as bed:
            programmer, quiet = bed.programmer, Watch()
            sent = len(bed.probe.log)
            for call in (
                lambda: programmer.read(Span(RAM, RAM + 4), quiet),
                lambda: programmer.write(RAM, b"1234"),
                lambda: programmer.read_word(RAM),
                lambda: programmer.write_word(RAM, 1),
                lambda: programmer.read_all([RAM]),
                lambda: programmer.write_all([(RAM, 1)]),
                lambda: programmer.read_register(CoreRegister.R0),
                lambda: programmer.write_register(CoreRegister.R0, 1),
                lambda: programmer.hold_reset(is_held=True),
            ):
                with pytest.raises(LocalProtocolError):
                    await call()
            await programmer.disconnect()
            assert len(bed.probe.log) == sent
            assert bed.runs

    run(session)


@each_quick_bed
def test_a_stop_ends_a_read_between_pieces(run: Run) -> None:
    async def session(open_bed: OpenBed) -> None:
        async with open_bed() as bed:
            await bed.programmer.connect(SwdSettings(clock_hz=bed.row.wish_hz))
            some = await bed.programmer.read(Span(0x0800_0000, 0x0800_6000), Watch(stop_after=2))
            assert 0 < len(some) < 0x6000
            assert bytes(bed.chip.chip.flash).startswith(some)
            await bed.programmer.disconnect()
            assert bed.runs

    run(session)


# -- disturbances ------------------------------------------------------------------------------------------------------


async def work(bed: Bed) -> None:
    """Do a little of everything, each write once and none like another; what is read is checked."""
    programmer = bed.programmer
    await programmer.connect(SwdSettings(clock_hz=bed.row.wish_hz, under_reset=True))
    try:
        await programmer.write(RAM + 1, b"0123456789")
        await programmer.write_all([*WORDS, (CoreRegister.R0, 7)])
        assert await programmer.read_all([CoreRegister.R0, *(address for address, _ in WORDS)]) == (
            7,
            *(value for _, value in WORDS),
        )
        assert await programmer.read(Span(RAM + 1, RAM + 11), Watch()) == b"0123456789"
    finally:
        with anyio.CancelScope(shield=True):
            await programmer.disconnect()


async def check_the_next_session(bed: Bed) -> None:
    """Find that whatever happened before leaves no trace."""
    await bed.programmer.connect(SwdSettings(clock_hz=bed.row.wish_hz))
    await bed.programmer.write_word(RAM + 0x4900, 0x600D_600D)
    assert await bed.programmer.read_all([RAM + 0x4900, DHCSR])
    assert await bed.programmer.read_word(RAM + 0x4900) == 0x600D_600D
    await bed.programmer.disconnect()
    assert bed.runs


def check_writes(bed: Bed) -> None:
    """Find each write to memory and registers at most once; those that let the target go may be tried again."""
    heads = (b"\xf2\x34", b"\xf2\x35", b"\xf2\x08", b"\xf2\x0d")
    writes = Counter(one for one in bed.probe.commands if one.startswith(heads) and one[5:6] != b"\xe0")
    assert [one.hex() for one, times in writes.items() if times > 1] == []


async def disturbed(open_bed: OpenBed, disturbance: Disturbance, number: int) -> bool:
    """Disturb one transfer of a session; return whether there was one."""
    async with open_bed() as bed:
        bed.probe.disturbed_at = len(bed.probe.log) + number
        bed.probe.disturbance = disturbance
        outcome = await caught(lambda: work(bed))
        was_hit = len(bed.probe.log) > bed.probe.disturbed_at
        assert outcome is None or isinstance(outcome, RAISED[disturbance]), (number, outcome)
        check_writes(bed)
        if disturbance is not Disturbance.UNPLUG:
            assert bed.runs, number
            bed.probe.disturbed_at = -1
            await check_the_next_session(bed)
        elif was_hit:
            assert isinstance(outcome, LinkClosedError), number
            sent = len(bed.probe.log)
            assert isinstance(await caught(bed.programmer.disconnect), LinkClosedError | None)
            assert isinstance(await caught(lambda: work(bed)), LinkClosedError)
            assert len(bed.probe.log) == sent
        return was_hit


async def caught(call: Callable[[], Awaitable[object]]) -> IspdError | None:
    try:
        await call()
    except IspdError as error:
        return error
    return None


@each_virtual_bed
@pytest.mark.parametrize("disturbance", list(Disturbance))
def test_one_disturbance_of_any_transfer_is_its_error_or_nothing_and_the_target_runs(
    run: Run, disturbance: Disturbance
) -> None:
    async def sweep(open_bed: OpenBed) -> None:
        for number in itertools.count():
            if not await disturbed(open_bed, disturbance, number):
                assert number > 60, "so many transfers were disturbed"
                return

    run(sweep)


@pytest.mark.parametrize("disturbance", [one for one in Disturbance if one is not Disturbance.SILENCE])
@pytest.mark.parametrize("name", ["V2 J37", "V3 J6"])
def test_the_same_through_threads(name: str, disturbance: Disturbance) -> None:
    async def sweep(open_bed: OpenBed) -> None:
        for number in itertools.count(step=5):
            with anyio.fail_after(20):
                if not await disturbed(open_bed, disturbance, number):
                    return

    QUICK[f"{name} pyusb"](sweep)


@pytest.mark.parametrize("number", [0, 11, 24, 37])
def test_silence_through_threads(number: int) -> None:
    async def once(open_bed: OpenBed) -> None:
        with anyio.fail_after(20):
            assert await disturbed(open_bed, Disturbance.SILENCE, number)

    QUICK["V2 J37 pyusb"](once)


# -- instants ----------------------------------------------------------------------------------------------------------

SWEEP_S = [0.00037 * step + 0.00001 for step in range(60)]
"""Instants from the first command to the last."""


@each_virtual_bed
def test_cancelling_at_any_instant_lets_the_target_go_and_cuts_no_command_in_two(run: Run) -> None:
    cancelled = []

    async def cancel_after(open_bed: OpenBed, seconds: float) -> None:
        async with open_bed() as bed:
            with anyio.move_on_after(seconds) as scope:
                await work(bed)
            cancelled.append(scope.cancelled_caught)
            assert bed.runs, seconds
            check_writes(bed)
            before = len(bed.probe.log)
            await check_the_next_session(bed)
            # nothing had to be found again: the first transfer is the next session's question for the mode
            assert (bed.probe.log[before] or b"")[:1] == b"\xf5"
            assert bed.probe.log[before + 1] is None

    async def sweep(open_bed: OpenBed) -> None:
        for seconds in SWEEP_S:
            await cancel_after(open_bed, seconds)

    run(sweep)
    assert (cancelled[0], cancelled[-1]) == (True, False), "from the begin to beyond the end"


@each_virtual_bed
def test_the_plug_pulled_at_any_instant_is_told_at_once_and_as_that(run: Run) -> None:
    async def pulled_after(open_bed: OpenBed, seconds: float) -> None:
        async with open_bed() as bed, anyio.create_task_group() as tasks:

            async def go_on() -> None:
                while True:
                    await work(bed)

            async def expect_loss() -> None:
                with pytest.raises(LinkClosedError):
                    await go_on()
                assert anyio.current_time() - pulled_at < 0.01

            tasks.start_soon(expect_loss)
            await anyio.sleep(seconds)
            pulled_at = anyio.current_time()
            bed.unplug()

    async def sweep(open_bed: OpenBed) -> None:
        for seconds in SWEEP_S:
            await pulled_after(open_bed, seconds)

    run(sweep)


@each_quick_bed
def test_a_closed_programmer_is_gone_and_nobodys_mistake(run: Run) -> None:
    async def session(open_bed: OpenBed) -> None:
        async with open_bed() as bed:
            programmer = bed.programmer
            await programmer.connect(SwdSettings())
            await programmer.aclose()
            for call in (
                lambda: programmer.read_word(RAM),
                lambda: programmer.write_all(WORDS),
                lambda: programmer.read(Span(RAM, RAM + 4), Watch()),
                programmer.disconnect,
                lambda: programmer.connect(SwdSettings()),
            ):
                assert isinstance(await caught(call), LinkClosedError)

    run(session)


def test_the_halted_core_is_what_a_session_under_reset_leaves_to_its_caller() -> None:
    async def session(open_bed: OpenBed) -> None:
        async with open_bed() as bed:
            await bed.programmer.connect(SwdSettings(under_reset=True))
            assert Dhcsr.IS_HALTED in Dhcsr(await bed.programmer.read_word(DHCSR))
            await bed.programmer.disconnect()
            assert bed.runs

    VIRTUAL["V2 J37 virtual"](session)
