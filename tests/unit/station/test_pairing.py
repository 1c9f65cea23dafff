"""Which USB port belongs to a slot: from the configuration, or learnt, and kept."""

from pathlib import Path

import anyio
import pytest
from tests.bench.chain_station import ChainStation, blank_board, chain_station, firmware, loaded_board, recipe, runs

from ispd.errors import ErrorCode, JobError, ProgrammerError
from ispd.model.job import Verdict
from ispd.model.recipe import PlanKind
from ispd.model.station import SlotState
from ispd.station.spec import SlotSpec
from vbench.board import Board
from vbench.hardware import BenchHardware
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.usbasp import UsbAsp
from vbench.virtual_time import virtual

A, B = (SlotSpec(name=name, programmer="usbasp", path=f"1-1.{at}") for at, name in enumerate("AB", start=1))


def bench_of(*boards: Board | None) -> BenchHardware:
    """One USBasp a board, at 1-1.1 and on; the boards' cables at 1-2.1 and on."""
    hardware = BenchHardware(hotplug_lag_s=0.02)
    for number, board in enumerate(boards, start=1):
        name = "AB"[number - 1]
        hardware.add(name, UsbAsp(), path=f"1-1.{number}", board_usb=f"1-2.{number}")
        if board is not None:
            hardware.insert(name, board)
    return hardware


async def refused(bench: ChainStation, name: str = "A") -> JobError:
    with pytest.raises(JobError) as caught:
        await bench.station.learn(name)
    assert caught.value.code is ErrorCode.NOT_PAIRED
    return caught.value


@virtual
async def test_a_port_is_learnt_by_holding_the_board_in_reset_and_survives_a_restart(tmp_path: Path) -> None:
    app = firmware(1)
    boards = [loaded_board(app=app), loaded_board()]
    async with chain_station(bench_of(*boards), [A, B], tmp_path) as bench:
        await anyio.sleep(1.0)
        slots = [await bench.station.learn(name) for name in "AB"]
        assert [slot.target_usb for slot in slots] == ["1-2.1", "1-2.2"]
        assert slots[1].board_usb == "03EB:2FF4"
        assert all(not board.target.in_reset for board in boards)
        assert bytes(boards[0].target.flash[:4000]) == app.bytes_in(app.span), "nothing was written"
    fresh = blank_board()
    async with chain_station(bench_of(fresh, None), [A, B], tmp_path) as bench:
        assert [slot.target_usb for slot in bench.station.slots()] == ["1-2.1", "1-2.2"]
        (unit,) = await bench.once(recipe(app), "A")
    assert (unit.verdict, unit.target_usb) == (Verdict.PASSED, "1-2.1")
    assert runs(fresh, app)


@virtual
async def test_cables_that_changed_places_are_learnt_anew(tmp_path: Path) -> None:
    async with chain_station(bench_of(loaded_board(), loaded_board()), [A, B], tmp_path) as bench:
        await anyio.sleep(1.0)
        for name in "AB":
            await bench.station.learn(name)
    swapped = BenchHardware()
    for name, at in (("A", 1), ("B", 2)):
        swapped.add(name, UsbAsp(), path=f"1-1.{at}", board_usb=f"1-2.{3 - at}")
        swapped.insert(name, loaded_board())
    async with chain_station(swapped, [A, B], tmp_path) as bench:
        await anyio.sleep(1.0)
        assert (await bench.station.learn("A")).target_usb == "1-2.2"
        assert bench.station.slot("B").target_usb is None, "two slots cannot have one port"
        assert (await bench.station.learn("B")).target_usb == "1-2.1"


@virtual
async def test_a_slot_that_hotplug_makes_has_what_was_learnt_for_its_place(tmp_path: Path) -> None:
    async with chain_station(bench_of(loaded_board()), [], tmp_path, watch_hotplug=True) as bench:
        await anyio.sleep(1.0)
        assert (await bench.station.learn("1-1.1")).target_usb == "1-2.1"
    async with chain_station(bench_of(loaded_board()), [], tmp_path, watch_hotplug=True) as bench:
        await anyio.sleep(1.0)
        slot = bench.station.slot("1-1.1")
        assert (slot.target_usb, slot.board_usb) == ("1-2.1", "03EB:2FF4")


@virtual
async def test_the_programmers_own_port_is_never_the_boards(tmp_path: Path) -> None:
    """A serial programmer on a device node; its place in the USB tree is only known from the events."""
    hardware = BenchHardware()
    hardware.add("/dev/ttyACM0", SerialProgrammer(Flavour.TEENSYDUINO), path="1-1.1", board_usb="1-2.1")
    hardware.insert("/dev/ttyACM0", loaded_board())
    spec = SlotSpec(name="A", programmer="stk500v1", port="/dev/ttyACM0")
    async with chain_station(hardware, [spec], tmp_path, watch_hotplug=True) as bench:
        await anyio.sleep(3.0)
        assert (await bench.station.learn("A")).target_usb == "1-2.1"


@virtual
async def test_without_a_port_that_goes_quiet_what_was_seen_is_told(tmp_path: Path) -> None:
    async with chain_station(bench_of(blank_board(), loaded_board()), [A, B], tmp_path) as bench:
        await anyio.sleep(1.0)
        error = await refused(bench)
        assert "03EB:2FF4 on 1-2.2" in error.message
        assert "USB cable" in error.hint
        assert bench.station.slot("A").target_usb is None


@pytest.mark.parametrize("after_s", [0.5, 1.1], ids=["first hold", "second hold"])
@virtual
async def test_a_board_that_is_pulled_out_meanwhile_teaches_nothing(tmp_path: Path, after_s: float) -> None:
    hardware = bench_of(loaded_board())
    async with chain_station(hardware, [A], tmp_path) as bench:
        await anyio.sleep(1.0)
        hardware.at(hardware.now() + after_s, lambda: hardware.remove("A"))
        await refused(bench)


@virtual
async def test_something_else_that_is_plugged_again_meanwhile_is_not_taken_for_the_board(tmp_path: Path) -> None:
    hardware = bench_of(loaded_board())
    hardware.add_port("desk", "1-2.9", loaded_board())
    async with chain_station(hardware, [A], tmp_path) as bench:
        await anyio.sleep(1.0)
        moment = hardware.now()
        hardware.at(moment + 0.1, lambda: hardware.remove("desk"))
        hardware.at(moment + 0.4, lambda: hardware.insert("desk", loaded_board()))
        assert (await bench.station.learn("A")).target_usb == "1-2.1"


@pytest.mark.parametrize("late_s", [0.0, 0.3, 1.0])
@virtual
async def test_slots_that_learn_at_once_do_not_take_each_others_boards(tmp_path: Path, late_s: float) -> None:
    """A board without USB would be paired with the one that another slot holds in reset at the same time."""
    async with chain_station(bench_of(blank_board(), loaded_board()), [A, B], tmp_path) as bench:
        await anyio.sleep(1.0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refused, bench, "A")
            await anyio.sleep(late_s)
            tasks.start_soon(bench.station.learn, "B")
        assert [slot.target_usb for slot in bench.station.slots()] == [None, "1-2.2"]


@virtual
async def test_a_board_that_stays_while_the_slots_own_is_in_reset_is_left_alone(tmp_path: Path) -> None:
    """Its cable is in this slot's port; no reset of this slot's programmer reaches it."""
    hardware = BenchHardware(hotplug_lag_s=0.02)
    hardware.add("A", UsbAsp(), path="1-1.1", board_usb="1-2.2")
    hardware.insert("A", blank_board())
    other = loaded_board()
    before = bytes(other.target.flash)
    hardware.add_port("desk", "1-2.1", other)
    spec = SlotSpec(name="A", programmer="usbasp", path="1-1.1", target_usb="1-2.1")
    async with chain_station(hardware, [spec], tmp_path) as bench:
        await anyio.sleep(1.0)
        assert bench.station.slot("A").board_usb == "03EB:2FF4"
        (unit,) = await bench.once(recipe(firmware(1)))
    assert unit.failure is not None
    assert (unit.verdict, unit.failure.code) == (Verdict.FAILED, "board-unexpected")
    assert "learn" in unit.failure.hint
    assert bytes(other.target.flash) == before


@virtual
async def test_what_was_learnt_gives_way_to_what_is_configured_later(tmp_path: Path) -> None:
    async with chain_station(bench_of(loaded_board()), [A], tmp_path) as bench:
        await anyio.sleep(1.0)
        await bench.station.learn("A")
    other = SlotSpec(name="P", target_usb="1-2.1")
    async with chain_station(bench_of(loaded_board()), [A, other], tmp_path) as bench:
        assert {slot.name: slot.target_usb for slot in bench.station.slots()} == {"A": None, "P": "1-2.1"}


@virtual
async def test_the_configuration_goes_before_and_is_compared(tmp_path: Path) -> None:
    wrong = SlotSpec(name="A", programmer="usbasp", path="1-1.1", target_usb="1-2.7")
    async with chain_station(bench_of(loaded_board()), [wrong], tmp_path) as bench:
        await anyio.sleep(1.0)
        error = await refused(bench)
        assert ("1-2.1" in error.message, "1-2.7" in error.message) == (True, True)
        assert bench.station.slot("A").target_usb == "1-2.7"


@pytest.mark.parametrize("plan", [PlanKind.CHAINED, PlanKind.AUTO, PlanKind.CHAIN_ONLY])
@virtual
async def test_without_a_known_port_nothing_is_enqueued_over_usb(tmp_path: Path, plan: PlanKind) -> None:
    async with chain_station(bench_of(loaded_board(), None), [A, B], tmp_path) as bench:
        for slots in (["A"], None):
            with pytest.raises(JobError) as caught:
                await bench.station.enqueue(recipe(firmware(1), plan), slots=slots, count=None)
            assert caught.value.code is ErrorCode.NOT_PAIRED
            assert ("learn" in caught.value.hint, "target_usb" in caught.value.hint) == (True, True)
        await anyio.sleep(1.0)
        await bench.station.learn("A")
        job = await bench.station.enqueue(recipe(firmware(1), plan), slots=None, count=None)
        assert (job.slots, any("slot B is left out" in word for word in job.warnings)) == (("A",), True)
        assert (await bench.ended(job)).passed == 1


@virtual
async def test_a_slot_without_programmer_learns_nothing_and_takes_no_isp_job(tmp_path: Path) -> None:
    hardware = BenchHardware()
    hardware.add_port("P", "1-2.1")
    async with chain_station(hardware, [SlotSpec(name="P", target_usb="1-2.1")], tmp_path) as bench:
        assert bench.station.slot("P").state is SlotState.IDLE
        with pytest.raises(ProgrammerError):
            await bench.station.learn("P")
        for slots in (["P"], None):
            with pytest.raises(JobError) as caught:
                await bench.station.enqueue(recipe(firmware(1)), slots=slots, count=None)
            assert caught.value.code is ErrorCode.NO_SLOT
        assert bench.station.slot("P").state is SlotState.IDLE
