"""A board's port and a follow-up tool that do what a test says."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.chain.contract import ChainTool, ChainWork, Desk
from ispd.errors import ErrorCode, IspdError, JobError, TargetError
from ispd.flashing.chain_bench import ChainBench
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.job import StepRecord
from ispd.transport.contract import ControlTransfer, ToolOutcome, ToolRun, UsbDeviceAt, UsbIdentity
from vbench.hardware import BenchHardware
from vbench.virtual_time import VirtualClock

PARTS = load_parts()
PART = PARTS.avr("atmega32u4")
BOOTLOADERS = load_bootloaders(PARTS)
LOADER = BOOTLOADERS.get("atmel-dfu", PART)
PATH = "1-2.1"
FIRMWARE = Image.of([Segment(0, bytes(range(1, 200)) * 10)])

LOADER_USB = UsbIdentity(vendor_id=0x03EB, product_id=0x2FF4)
KEYBOARD_USB = UsbIdentity(vendor_id=0xFEED, product_id=0x6060)


def device(usb: UsbIdentity, *, address: int = 1, tty: str | None = None) -> UsbDeviceAt:
    return UsbDeviceAt(path=PATH, bus=1, address=address, usb=usb, version=0, tty=tty)


class ScriptedPort:
    """A port where devices come and go as told."""

    def __init__(self, there: UsbDeviceAt | None = None) -> None:
        self.path = PATH
        self.changes = 0
        self._there = there
        self._changed = anyio.Event()

    def put(self, there: UsbDeviceAt | None) -> None:
        self._there = there
        self.changes += 1
        self._changed.set()
        self._changed = anyio.Event()

    async def put_later(self, seconds: float, there: UsbDeviceAt | None) -> None:
        await anyio.sleep(seconds)
        self.put(there)

    async def wait_for_change(self, since: int) -> None:
        while self.changes <= since:
            await self._changed.wait()

    async def look(self) -> UsbDeviceAt | None:
        await anyio.lowlevel.checkpoint()
        return self._there


class PrintingHardware(BenchHardware):
    """Outside programs that print, take their time, and claim to have worked."""

    def __init__(self, prints: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self.prints = prints or {}
        self.runs: list[tuple[str, ...]] = []
        self.killed = 0

    async def run_tool(self, run: ToolRun, on_output: Callable[[bytes], object] = lambda _: None) -> ToolOutcome:
        self.runs.append(run.words)
        text = self.prints.get(run.words[1], b"")
        try:
            for at in range(0, len(text), 3):  # pieces end anywhere
                await anyio.sleep(0.01)
                on_output(text[at : at + 3])
        except anyio.get_cancelled_exc_class():
            self.killed += 1
            raise
        return ToolOutcome(exit_code=0, output=text, errors=b"", files={})


class AskedHardware(PrintingHardware):
    """Whose board answers, or says why not, when it is asked for its status."""

    def __init__(self, refusal: IspdError | None = None) -> None:
        super().__init__()
        self.asked: list[ControlTransfer] = []
        self.open = 0
        self._refusal = refusal

    async def open_usb(self, port: str) -> Any:
        assert port == f"usb:{PATH}"
        self.open += 1
        return self

    async def submit(self, transfers: Sequence[ControlTransfer]) -> list[bytes]:
        self.asked += transfers
        await anyio.lowlevel.checkpoint()
        if self._refusal is not None:
            raise self._refusal
        return [bytes(2)]

    async def aclose(self) -> None:
        self.open -= 1


Act = Callable[[ChainWork, Desk], Awaitable[None]]


async def nothing(_work: ChainWork, _desk: Desk) -> None:
    await anyio.sleep(0.1)


def fails(code: ErrorCode, message: str = "as the test says") -> Act:
    async def act(_work: ChainWork, _desk: Desk) -> None:
        await anyio.sleep(0.1)
        raise TargetError(code, message)

    return act


def lasts(seconds: float) -> Act:
    async def act(_work: ChainWork, _desk: Desk) -> None:
        await anyio.sleep(seconds)

    return act


@dataclass
class ScriptedTool:
    """Does one act of each list per call, the last one over and over; what it reads back is ``reads``."""

    port: ScriptedPort
    erases: list[Act] = field(default_factory=lambda: [nothing])
    writes: list[Act] = field(default_factory=lambda: [nothing])
    starts: list[Act] = field(default_factory=list)
    reads: Sequence[Segment] | None = FIRMWARE.segments
    name: str = "scripted"
    families: frozenset[str] = frozenset({LOADER.family})
    program: str | None = "scripted"
    is_exclusive: bool = False
    needs_tty: bool = False
    erase_is_separate: bool = True
    calls: list[str] = field(default_factory=list)

    async def erase(self, work: ChainWork, desk: Desk) -> None:
        self.calls.append("erase")
        await desk.here()
        await _next(self.erases)(work, desk)

    async def write(self, work: ChainWork, desk: Desk) -> Sequence[Segment] | None:
        self.calls.append("write")
        await desk.here()
        await _next(self.writes)(work, desk)
        desk.advance(len(work.firmware))
        return self.reads

    async def start(self, work: ChainWork, desk: Desk) -> None:
        self.calls.append("start")
        await _next(self.starts or [self.replug])(work, desk)

    async def replug(self, _work: ChainWork, _desk: Desk) -> None:
        self.port.put(None)
        await anyio.sleep(0.3)
        self.port.put(device(KEYBOARD_USB, address=2))


def _next(acts: list[Act]) -> Act:
    return acts.pop(0) if len(acts) > 1 else acts[0]


class NoTurns:
    """No tool of these tests waits for its turn."""

    async def take(self, tool: ChainTool) -> None:
        raise AssertionError(f"{tool.name} may be used at any time")

    def give(self, tool: ChainTool) -> None:
        raise AssertionError(f"{tool.name} was not taken")

    async def wait_until_alone(self, bootloader: Bootloader, path: str) -> None:
        raise AssertionError(f"{bootloader.id} at {path} can be told from others")


class CrowdedTurns(NoTurns):
    """The board is alone ``alone_times`` times; then another one is in the same bootloader, and stays."""

    def __init__(self, *, alone_times: int) -> None:
        self._alone_times = alone_times

    async def wait_until_alone(self, bootloader: Bootloader, path: str) -> None:
        if self._alone_times == 0:
            raise TargetError(ErrorCode.TOOL_FAILED, f"another board in {bootloader.title} beside the one at {path}")
        self._alone_times -= 1


class Watcher:
    """Writes down what it is told. ``give_up`` ends the unit with a reason; ``pauses`` holds it between steps."""

    def __init__(self, *, stop_in: str = "", reason: ErrorCode = ErrorCode.CANCELLED, after_s: float = 0.05) -> None:
        self.begun: list[str] = []
        self.records: list[StepRecord] = []
        self.progressed: list[int] = []
        self._stop_in = stop_in
        self._reason = JobError(reason, "the test stops it")
        self._after_s = after_s
        self._stopping = anyio.Event()
        self.may_go_on = anyio.Event()
        self.may_go_on.set()

    async def step_started(self, name: str) -> None:
        self.begun.append(name)
        if name == self._stop_in:
            self._stopping.set()

    async def step_finished(self, record: StepRecord) -> None:
        self.records.append(record)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        assert 0 <= done_bytes <= total_bytes
        self.progressed.append(done_bytes)

    async def checkpoint(self) -> None:
        await self.may_go_on.wait()

    async def stopped(self) -> JobError:
        await self._stopping.wait()
        await anyio.sleep(self._after_s)
        return self._reason


def bench(port: ScriptedPort, tool: ChainTool, hardware: BenchHardware | None = None) -> ChainBench:
    return ChainBench(
        port=port, hardware=hardware or PrintingHardware(), clock=VirtualClock(), tools=(tool,), turns=NoTurns()
    )
