"""The chain stage: every way it can end, with a tool and a port that do what the test says."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
from tests.unit.flashing.scripted_chain import (
    FIRMWARE,
    KEYBOARD_USB,
    LOADER,
    LOADER_USB,
    PART,
    PATH,
    Act,
    AskedHardware,
    CrowdedTurns,
    PrintingHardware,
    ScriptedPort,
    ScriptedTool,
    Watcher,
    bench,
    device,
    fails,
    lasts,
    nothing,
)

from ispd.chain.contract import ChainWork, Desk
from ispd.errors import ErrorCode, IspdError, LinkClosedError, LinkTimeoutError, RemoteProtocolError, TransportError
from ispd.flashing.chain_bench import ChainOutcome
from ispd.flashing.chained import chain_board
from ispd.flashing.desk import Transcript
from ispd.model.image import Segment
from ispd.model.job import MAX_OUTPUT, Verdict
from ispd.transport.contract import ToolRun, UsbIdentity
from vbench.hardware import BenchHardware
from vbench.virtual_time import virtual

GOOD_STEPS = [
    "wait for bootloader",
    "erase over USB",
    "write over USB",
    "verify over USB",
    "start firmware",
    "wait for firmware",
]


class Stage:
    """One run of the stage; the bootloader is on the port already unless said otherwise."""

    def __init__(self, *, is_there: bool = True, hardware: BenchHardware | None = None, **script: Any) -> None:
        self.port = ScriptedPort(device(LOADER_USB) if is_there else None)
        self.tool = ScriptedTool(self.port, **script)
        self.watcher = Watcher()
        self.hardware = hardware or PrintingHardware()

    async def run(self) -> ChainOutcome:
        return await chain_board(FIRMWARE, PART, LOADER, bench(self.port, self.tool, self.hardware), self.watcher)

    @property
    def names(self) -> list[str]:
        return [record.name for record in self.watcher.records]


def code(outcome: ChainOutcome) -> str | None:
    return None if outcome.failure is None else outcome.failure.code


@virtual
async def test_a_good_board_goes_through_all_steps_and_every_one_is_recorded() -> None:
    stage = Stage()
    outcome = await stage.run()
    assert (outcome.verdict, outcome.failure, outcome.warnings) == (Verdict.PASSED, None, ())
    assert outcome.application_usb == "FEED:6060"
    assert stage.names == stage.watcher.begun == GOOD_STEPS
    assert [record.bytes for record in stage.watcher.records] == [0, 0, len(FIRMWARE), 0, 0, 0]
    assert stage.watcher.progressed[-1] == len(FIRMWARE)
    assert outcome.pace is not None
    assert outcome.pace.byte_s * len(FIRMWARE) == pytest.approx(0.1)
    assert outcome.pace.fixed_s == pytest.approx(0.4)


@pytest.mark.parametrize("bad", [1, 2])
@pytest.mark.parametrize("fault", [ErrorCode.NOT_BLANK, ErrorCode.ERASE_FAILED])
@virtual
async def test_an_erase_that_did_not_work_is_repeated(bad: int, fault: ErrorCode) -> None:
    stage = Stage(erases=[*[fails(fault)] * bad, nothing])
    outcome = await stage.run()
    assert outcome.verdict is Verdict.PASSED
    assert stage.tool.calls == ["erase"] * (bad + 1) + ["write", "start"]
    assert (
        stage.names[1 : bad + 2]
        == ["erase over USB", "erase over USB, try 2 of 3", "erase over USB, try 3 of 3"][: bad + 1]
    )
    assert [record.note for record in stage.watcher.records[1 : bad + 1]] == ["as the test says"] * bad


@virtual
async def test_a_board_that_never_gets_blank_is_ill_after_three_erases() -> None:
    stage = Stage(erases=[fails(ErrorCode.NOT_BLANK)])
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.NEEDS_RESCUE, "not-blank")
    assert stage.tool.calls == ["erase"] * 3


@virtual
async def test_where_writing_erases_it_is_the_write_that_is_repeated() -> None:
    stage = Stage(erase_is_separate=False, writes=[fails(ErrorCode.NOT_BLANK)])
    outcome = await stage.run()
    assert (outcome.verdict, stage.tool.calls) == (Verdict.NEEDS_RESCUE, ["write"] * 3)


@pytest.mark.parametrize(
    "found",
    [
        (Segment(0, FIRMWARE.bytes_in(FIRMWARE.span)[:-1] + b"\x00"),),
        (Segment(0, FIRMWARE.bytes_in(FIRMWARE.span)[:-1]),),
        (Segment(1, FIRMWARE.bytes_in(FIRMWARE.span)[1:]),),
        (),
    ],
    ids=["other byte", "too short", "begins too late", "nothing"],
)
@virtual
async def test_cells_that_differ_are_never_a_pass_whatever_the_tool_claims(found: Sequence[Segment]) -> None:
    stage = Stage(reads=found)
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.NEEDS_RESCUE, "verify-mismatch")
    assert outcome.failure is not None
    assert outcome.failure.address in (0, len(FIRMWARE) - 1)
    assert "start firmware" not in stage.names


@virtual
async def test_more_than_the_firmware_may_be_read_back() -> None:
    cells = bytes(FIRMWARE.bytes_in(FIRMWARE.span)) + b"\xff" * 100
    assert (await Stage(reads=(Segment(0, cells[:500]), Segment(500, cells[500:]))).run()).verdict is Verdict.PASSED


@pytest.mark.parametrize("fault", [ErrorCode.VERIFY_MISMATCH, ErrorCode.TOOL_FAILED])
@virtual
async def test_a_write_that_fails_on_a_board_that_stays_makes_it_ill(fault: ErrorCode) -> None:
    stage = Stage(writes=[fails(fault)])
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.NEEDS_RESCUE, fault.value)
    assert stage.tool.calls == ["erase", "write"], "only the erase is repeated"


def _raises(error: Exception) -> Act:
    async def act(_work: ChainWork, _desk: Desk) -> None:
        raise error

    return act


@pytest.mark.parametrize("fault", [ErrorCode.TOOL_MISSING, ErrorCode.PERMISSION_DENIED, ErrorCode.PORT_BUSY])
@virtual
async def test_what_the_machine_lacks_is_not_the_boards_fault(fault: ErrorCode) -> None:
    stage = Stage(erases=[_raises(TransportError(fault, "the machine is to blame"))])
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome), stage.tool.calls) == (Verdict.FAILED, fault.value, ["erase"])


@virtual
async def test_a_bootloader_that_never_comes() -> None:
    stage = Stage(is_there=False)
    begun = anyio.current_time()
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.FAILED, "bootloader-not-seen")
    assert anyio.current_time() - begun == pytest.approx(10.0)
    assert stage.names == ["wait for bootloader"]
    assert outcome.failure is not None
    assert (LOADER.title in outcome.failure.message, PATH in outcome.failure.message) == (True, True)


@virtual
async def test_a_bootloader_that_comes_late_and_after_something_else() -> None:
    stage = Stage(is_there=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.port.put_later, 2.0, device(KEYBOARD_USB))
        tasks.start_soon(stage.port.put_later, 9.5, device(LOADER_USB, address=2))
        assert (await stage.run()).verdict is Verdict.PASSED


@virtual
async def test_somebody_else_on_the_port_is_left_alone() -> None:
    stage = Stage(is_there=False)
    stage.port.put(device(KEYBOARD_USB))
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome), stage.tool.calls) == (Verdict.FAILED, "board-unexpected", [])


@virtual
async def test_an_exchange_of_identity_in_the_midst_stops_the_work() -> None:
    stage = Stage()

    async def exchange(_work: ChainWork, _desk: Desk) -> None:
        stage.port.put(device(KEYBOARD_USB, address=2))

    stage.tool.erases = [exchange]
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome), stage.tool.calls) == (
        Verdict.FAILED,
        "board-unexpected",
        ["erase", "write"],
    )


@virtual
async def test_another_board_in_the_same_bootloader_is_noticed_by_its_address() -> None:
    """What was erased, or went on by ISP, was the first one."""
    stage = Stage()

    async def exchange(_work: ChainWork, desk: Desk) -> None:
        await desk.here()
        stage.port.put(None)
        stage.port.put(device(LOADER_USB, address=2))

    stage.tool.erases = [exchange]
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome), stage.tool.calls) == (
        Verdict.FAILED,
        "board-unexpected",
        ["erase", "write"],
    )


@pytest.mark.parametrize("error", [LinkClosedError("usb:1-2.1"), TransportError(ErrorCode.PORT_NOT_FOUND, "gone")])
@pytest.mark.parametrize(("comes_back", "verdict"), [(False, Verdict.FAILED), (True, Verdict.NEEDS_RESCUE)])
@virtual
async def test_a_board_that_vanishes_while_it_is_written(comes_back: bool, verdict: Verdict, error: Exception) -> None:
    """Pulled out it is nobody's fault but the operator's; one that fell off the bus by itself is ill."""
    stage = Stage()

    async def vanish(_work: ChainWork, _desk: Desk) -> None:
        stage.port.put(None)
        raise error

    stage.tool.writes = [vanish]
    async with anyio.create_task_group() as tasks:
        if comes_back:
            tasks.start_soon(stage.port.put_later, 1.0, device(LOADER_USB, address=2))
        outcome = await stage.run()
    assert outcome.verdict is verdict
    assert code(outcome) == ("tool-failed" if comes_back else "bootloader-not-seen")
    assert outcome.failure is not None
    assert "programmer" not in (outcome.failure.message + outcome.failure.hint) or comes_back


@pytest.mark.parametrize("listed_s", [0.1, 8.0, 10.5, 11.9])
@virtual
async def test_a_board_that_was_pulled_out_may_be_listed_for_long(listed_s: float) -> None:
    """Its hub is busy with another one, and until then only that it does not answer tells that it is gone."""
    hardware = AskedHardware(LinkClosedError("usb:1-2.1"))
    stage = Stage(writes=[fails(ErrorCode.TOOL_FAILED)], hardware=hardware)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.port.put_later, listed_s, None)
        outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.FAILED, "bootloader-not-seen")
    assert (len(hardware.asked) >= listed_s // 1.0, hardware.open) == (True, 0)


@pytest.mark.parametrize(
    ("refusal", "waits_s"),
    [
        (None, 0.0),
        (RemoteProtocolError("a stall"), 0.0),
        (LinkTimeoutError("usb:1-2.1", 1.0), 12.0),
        (TransportError(ErrorCode.PERMISSION_DENIED, "no"), 12.0),
    ],
    ids=["answers", "refuses", "hangs", "is closed to us"],
)
@virtual
async def test_a_board_that_stays_on_its_port_is_ill(refusal: IspdError | None, waits_s: float) -> None:
    hardware = AskedHardware(refusal)
    stage = Stage(writes=[fails(ErrorCode.TOOL_FAILED)], hardware=hardware)
    begun_s = anyio.current_time()
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.NEEDS_RESCUE, "tool-failed")
    assert anyio.current_time() - begun_s == pytest.approx(waits_s, abs=1.0)
    assert {(one.request_type, one.request) for one in hardware.asked} == {(0x80, 0)}


@virtual
async def test_cells_that_were_looked_at_count_wherever_the_board_went_meanwhile() -> None:
    """A bootloader that is left with the last word of its tool, as Caterina is."""
    stage = Stage()

    async def leave(work: ChainWork, desk: Desk) -> None:
        stage.port.put(device(KEYBOARD_USB, address=2))
        await fails(ErrorCode.VERIFY_MISMATCH)(work, desk)

    stage.tool.writes = [leave]
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.NEEDS_RESCUE, "verify-mismatch")


@pytest.mark.parametrize(
    ("reads", "verdict", "failure"),
    [(FIRMWARE.segments, Verdict.PASSED, None), (None, Verdict.FAILED, "application-not-seen")],
    ids=["read back", "not readable"],
)
@pytest.mark.parametrize("stays", [True, False])
@virtual
async def test_firmware_that_never_shows_up(
    reads: Sequence[Segment] | None, verdict: Verdict, failure: str | None, stays: bool
) -> None:
    stage = Stage(reads=reads)

    async def silent(_work: ChainWork, _desk: Desk) -> None:
        if not stays:
            stage.port.put(None)

    stage.tool.starts = [silent]
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome), outcome.application_usb) == (verdict, failure, None)
    told = " ".join(outcome.warnings) + ("" if outcome.failure is None else outcome.failure.message)
    assert ("the bootloader" in told) is stays, "what is on the port then is told"


@virtual
async def test_an_erase_that_worked_at_last_is_forgiven() -> None:
    """What goes wrong later has its own cause, and ISP does not cure a firmware without USB."""
    stage = Stage(erases=[fails(ErrorCode.NOT_BLANK), nothing], reads=None, starts=[nothing])
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (Verdict.FAILED, "application-not-seen")


@pytest.mark.parametrize(
    "then",
    [TransportError(ErrorCode.PORT_BUSY, "somebody has it"), LinkClosedError("usb:1-2.1")],
    ids=["busy", "pulled out"],
)
@virtual
async def test_a_failed_erase_does_not_make_a_board_ill_that_the_next_try_could_not_reach(then: IspdError) -> None:
    stage = Stage()

    async def out_of_reach(_work: ChainWork, _desk: Desk) -> None:
        if isinstance(then, LinkClosedError):
            stage.port.put(None)
        raise then

    stage.tool.erases = [fails(ErrorCode.ERASE_FAILED), out_of_reach]
    assert (await stage.run()).verdict is Verdict.FAILED


@virtual
async def test_a_tool_that_takes_any_board_is_used_only_where_its_board_is_alone_at_that_moment() -> None:
    """A job may be paused for hours between two steps, and other boards come meanwhile."""
    stage = Stage(is_exclusive=True, erase_is_separate=False)
    turns = CrowdedTurns(alone_times=1)
    crowded = replace(bench(stage.port, stage.tool), turns=turns)
    outcome = await chain_board(FIRMWARE, PART, LOADER, crowded, stage.watcher)
    assert (outcome.verdict, code(outcome)) == (Verdict.FAILED, "tool-failed"), (
        "another board is not this one's illness"
    )
    assert stage.tool.calls == []


@virtual
async def test_a_bootloader_whose_texts_could_not_be_read_when_it_came_back_is_no_firmware() -> None:
    stage = Stage(reads=None)
    named = replace(LOADER_USB, manufacturer="obdev.at", product="HIDBoot")
    stage.port.put(device(named))

    async def stays(_work: ChainWork, _desk: Desk) -> None:
        stage.port.put(device(LOADER_USB, address=2))

    stage.tool.starts = [stays]
    loader = replace(LOADER, usb_texts=("obdev.at", "HIDBoot"))
    outcome = await chain_board(FIRMWARE, PART, loader, bench(stage.port, stage.tool), stage.watcher)
    assert (outcome.verdict, code(outcome)) == (Verdict.FAILED, "application-not-seen")


@virtual
async def test_without_read_back_the_record_says_what_the_verdict_rests_on() -> None:
    stage = Stage(reads=None)
    assert (await stage.run()).verdict is Verdict.PASSED
    assert "cannot be read" in stage.watcher.records[GOOD_STEPS.index("verify over USB")].note


@virtual
async def test_a_bootloader_that_left_before_it_was_asked_to_did_what_was_wanted() -> None:
    stage = Stage()

    async def gone(_work: ChainWork, _desk: Desk) -> None:
        stage.port.put(device(UsbIdentity(vendor_id=1, product_id=2), address=3))
        raise LinkClosedError("usb:1-2.1")

    stage.tool.starts = [gone]
    outcome = await stage.run()
    assert (outcome.verdict, outcome.application_usb, outcome.warnings) == (Verdict.PASSED, "0001:0002", ())


@virtual
async def test_a_tty_is_waited_for_where_the_tool_needs_one() -> None:
    stage = Stage(needs_tty=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stage.port.put_later, 4.0, device(LOADER_USB, tty="/dev/ttyACM7"))
        assert (await stage.run()).verdict is Verdict.PASSED
    without = Stage(needs_tty=True)
    assert code(await without.run()) == "bootloader-not-seen"
    assert without.tool.calls == []


@pytest.mark.parametrize("step", GOOD_STEPS)
@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(ErrorCode.CANCELLED, Verdict.CANCELLED), (ErrorCode.INTERRUPTED, Verdict.INTERRUPTED)],
)
@virtual
async def test_a_cancel_or_the_daemons_stop_ends_any_step_at_once(
    step: str, reason: ErrorCode, verdict: Verdict
) -> None:
    is_first, is_last = step == GOOD_STEPS[0], step == GOOD_STEPS[-1]
    long = lasts(100.0)
    stage = Stage(is_there=not is_first)
    stage.tool.erases, stage.tool.writes = (
        [long if "erase" in step else nothing],
        [long if "write" in step else nothing],
    )
    stage.tool.starts = [long if "start" in step else nothing] if "start" in step or is_last else []
    stage.watcher = Watcher(stop_in=step, reason=reason)
    outcome = await stage.run()
    assert (outcome.verdict, code(outcome)) == (verdict, reason.value)
    # comparing takes no time: the next step is the one that is stopped
    cut_short = "start firmware" if step == "verify over USB" else step
    assert stage.names[-1] == cut_short, "the step that was cut short is in the record"
    assert anyio.current_time() < 2.0


@virtual
async def test_a_pause_lets_a_step_end_and_begins_no_other() -> None:
    stage = Stage(erases=[lasts(5.0)])
    async with anyio.create_task_group() as tasks:
        outcomes: list[ChainOutcome] = []

        async def run() -> None:
            outcomes.append(await stage.run())

        tasks.start_soon(run)
        await anyio.sleep(1.0)
        stage.watcher.may_go_on = anyio.Event()
        await anyio.sleep(60.0)
        assert stage.tool.calls == ["erase"]
        assert stage.names[-1] == "erase over USB"
        stage.watcher.may_go_on.set()
    assert outcomes[0].verdict is Verdict.PASSED


def _runs(words: tuple[str, ...]) -> Act:
    async def act(_work: ChainWork, desk: Desk) -> None:
        await desk.run(ToolRun(words=words, deadline_s=10.0))

    return act


@virtual
async def test_what_a_tool_prints_is_kept_with_its_step_also_where_it_fails() -> None:
    text = "Prüfe … Not blank at 0x1.\n".encode()
    hardware = PrintingHardware({"erase": text})

    async def erase(work: ChainWork, desk: Desk) -> None:
        await _runs(("dfu-programmer", "erase"))(work, desk)
        await fails(ErrorCode.NOT_BLANK)(work, desk)

    stage = Stage(hardware=hardware, erases=[erase])
    await stage.run()
    outputs = [record.output for record in stage.watcher.records]
    assert outputs == ["", *["$ dfu-programmer erase\nPrüfe … Not blank at 0x1.\n\n[exit code 0]\n"] * 3]


@virtual
async def test_a_tool_that_is_stopped_is_killed_and_what_it_printed_is_kept() -> None:
    hardware = PrintingHardware({"erase": b"." * 3000})
    stage = Stage(hardware=hardware, erases=[_runs(("tool", "erase"))])
    stage.watcher = Watcher(stop_in="erase over USB", after_s=1.0)
    assert (await stage.run()).verdict is Verdict.CANCELLED
    assert hardware.killed == 1
    assert "...." in stage.watcher.records[-1].output


@pytest.mark.parametrize("piece", [1, 7, 1000, 20_000])
def test_a_transcript_keeps_the_first_and_the_last_half(piece: int) -> None:
    text = "".join(f"{number:07d}\n" for number in range(5000))
    kept = Transcript()
    for at in range(0, len(text), piece):
        kept.add(text[at : at + piece])
    first, last = kept.text.split("\n[..]\n")
    assert text.startswith(first)
    assert text.endswith(last)
    assert MAX_OUTPUT - 2 <= len(kept.text) <= MAX_OUTPUT
    short = Transcript()
    short.add("as it came")
    assert short.text == "as it came"


@virtual
async def test_a_dump_on_standard_output_is_counted_and_not_kept() -> None:
    hardware = PrintingHardware({"dump": bytes(range(256)) * 4})
    stage = Stage(hardware=hardware, erases=[_runs(("dfu-programmer", "dump"))])
    await stage.run()
    output = stage.watcher.records[1].output
    assert output.startswith("$ dfu-programmer dump\n")
    assert "bytes of data]" in output
    assert len(output) < 800, "some pieces of three bytes look like text"
    assert "\x00" not in output


def _loader_changes() -> list[Callable[[UsbIdentity], UsbIdentity]]:
    return [lambda usb: replace(usb, serial="LLM 003"), lambda usb: replace(usb, product="ATm32U4DFU")]


@pytest.mark.parametrize("change", _loader_changes())
@virtual
async def test_texts_and_serial_numbers_of_a_bootloader_mean_nothing(
    change: Callable[[UsbIdentity], UsbIdentity],
) -> None:
    stage = Stage(is_there=False)
    stage.port.put(device(change(LOADER_USB)))
    assert (await stage.run()).verdict is Verdict.PASSED
