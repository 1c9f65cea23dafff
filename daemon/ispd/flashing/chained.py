"""The chain stage of one unit: wait for its bootloader, bring the firmware through it, compare, start it, see it come up.

What is retried and what is not: an erase that leaves something behind or does not happen is repeated, by force, up to
three times in all. Nothing else is: a board whose bootloader misbehaves otherwise is ill, and ISP cures it.
"""

from collections.abc import Awaitable, Callable, Sequence

import anyio

from ispd.chain.contract import ChainTool, ChainWork
from ispd.chain.registry import tool_for
from ispd.errors import ErrorCode, IspdError, LocalProtocolError
from ispd.flashing import chain_faults as faults
from ispd.flashing.chain_bench import ChainBench, ChainObserver, ChainOutcome, unless_stopped, verdict_of
from ispd.flashing.desk import LISTED_FOR_S, BoardDesk, BoardPort, answers, shows, wait_for_board
from ispd.flashing.pace import UsbPace
from ispd.flashing.verdict import failure_of
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.job import StepRecord, Verdict
from ispd.model.part import Part
from ispd.transport.contract import UsbDeviceAt

__all__ = ["chain_board", "until_loader"]

BOOTLOADER_DEADLINE_S = 10.0
"""After reset a bootloader enumerates within a second; a busy host with many hubs takes longer."""
TTY_DEADLINE_S = 5.0
"""A tty comes after its USB device: drivers are bound and udev's rules run."""
APPLICATION_DEADLINE_S = 10.0
ERASE_TRIES = 3
_RETURN_DEADLINE_S = 2.0
"""A board that fell off the bus by itself is back by then; one that was unplugged is not."""
_ASK_AGAIN_S = 0.5


async def chain_board(
    firmware: Image, part: Part | None, loader: Bootloader, bench: ChainBench, observer: ChainObserver
) -> ChainOutcome:
    """Bring ``firmware`` onto the board at the bench's port and return how that ended.

    :param part: None for a chip that the part catalog does not know.

    Passed means: what the tool read back afterwards equals the firmware; or, where the bootloader cannot be read, the
    tool verified it and something else than the bootloader showed up. Every declared error becomes an outcome.
    """
    run = _ChainRun(firmware, part, loader, bench, observer)
    failed: IspdError | None = None
    try:
        await run.carry_out()
    except IspdError as error:
        failed = error
    return ChainOutcome(
        verdict=Verdict.PASSED if failed is None else verdict_of(failed, is_ill=run.is_ill),
        failure=None if failed is None else failure_of(failed),
        application_usb=run.application_usb,
        warnings=tuple(run.warnings),
        pace=run.pace if failed is None else None,
    )


async def until_loader(port: BoardPort, loader: Bootloader) -> UsbDeviceAt:
    """Wait for a bootloader on a port; raises ``TargetError`` (bootloader-not-seen, board-unexpected) where it does not come in time."""
    device = await wait_for_board(port, lambda there: shows(loader, there), BOOTLOADER_DEADLINE_S)
    if device is None:
        raise faults.no_bootloader(port.path, await port.look(), loader)
    return device


class _ChainRun:
    """State of one chain stage. ``is_ill`` is set once the board's bootloader did what no cable and no host explains."""

    def __init__(
        self,
        firmware: Image,
        part: Part | None,
        loader: Bootloader,
        bench: ChainBench,
        observer: ChainObserver,
    ) -> None:
        self.is_ill = False
        self.application_usb: str | None = None
        self.warnings: list[str] = []
        self._firmware = firmware
        self._part = part
        self._loader = loader
        self._bench = bench
        self._port = bench.port
        self._clock = bench.clock
        self._observer = observer
        self._done_bytes = 0
        self._write_s = 0.0
        self._total_s = 0.0
        self._proof_s = 0.0
        self._at_work: tuple[ChainTool, ChainWork, BoardDesk] | None = None
        self._read_back: Sequence[Segment] | None = None

    @property
    def pace(self) -> UsbPace:
        """What this board tells about how long the next one takes."""
        return UsbPace(max(0.0, self._total_s - self._write_s), self._write_s / max(1, len(self._firmware)))

    async def carry_out(self) -> None:
        begun_s = self._clock.monotonic()
        await self._step("wait for bootloader", self._meet)
        tool, work, desk = self._met
        await self._write(tool, work, desk)
        await self._step("verify over USB", lambda: self._compare(tool))
        await self._step("start firmware", lambda: self._start(tool, work, desk))
        await self._step("wait for firmware", self._wait_for_firmware)
        self._total_s = self._clock.monotonic() - begun_s - self._proof_s  # others' cables are no pace of this board

    # ------------------------------------------------------------------ the bootloader

    @property
    def _met(self) -> tuple[ChainTool, ChainWork, BoardDesk]:
        if self._at_work is None:
            raise LocalProtocolError("no bootloader was met")
        return self._at_work

    async def _meet(self) -> str:
        """Wait for the bootloader, and for all that its tool needs to begin."""
        device = await until_loader(self._port, self._loader)
        if self._bench.prove is not None:
            begun_s = self._clock.monotonic()
            device = await self._bench.prove()
            self._proof_s = self._clock.monotonic() - begun_s
        tool = tool_for(self._loader.family, self._bench.tools)
        if tool is None:
            raise faults.no_tool(self._loader)
        if tool.needs_tty and await self._wait_for(self._has_tty, TTY_DEADLINE_S) is None:
            raise faults.no_tty(self._port.path, TTY_DEADLINE_S)
        await self._be_alone(tool)
        work = ChainWork(part=self._part, bootloader=self._loader, firmware=self._firmware)
        desk = BoardDesk(
            self._port,
            self._bench.hardware,
            self._clock,
            bootloader=self._loader,
            met=device,
            on_advance=self._advance,
        )
        self._at_work = (tool, work, desk)
        return f"{device.usb} on USB port {device.path}"

    async def _be_alone(self, tool: ChainTool) -> None:
        """Wait until a tool that takes whatever board it finds can only find this one."""
        if tool.is_exclusive:
            await self._bench.turns.wait_until_alone(self._loader, self._port.path)

    def _is_loader(self, device: UsbDeviceAt) -> bool:
        return shows(self._loader, device)

    def _is_firmware(self, device: UsbDeviceAt) -> bool:
        """Tell who is not the bootloader for sure: where its texts tell it, somebody whose texts could not be read may be."""
        has_texts = bool(device.usb.manufacturer or device.usb.product)
        return not self._is_loader(device) and (has_texts or str(device.usb) not in self._loader.usb)

    def _has_tty(self, device: UsbDeviceAt) -> bool:
        return self._is_loader(device) and device.tty is not None

    async def _wait_for(self, accept: Callable[[UsbDeviceAt], bool], deadline_s: float) -> UsbDeviceAt | None:
        return await wait_for_board(self._port, accept, deadline_s)

    # ------------------------------------------------------------------ the firmware

    async def _write(self, tool: ChainTool, work: ChainWork, desk: BoardDesk) -> None:
        """Erase and write, again where the erase did not do what it says."""
        for number in range(1, ERASE_TRIES + 1):
            again = "" if number == 1 else f", try {number} of {ERASE_TRIES}"
            self._done_bytes = 0
            self.is_ill = False  # what ends a further try has its own cause
            try:
                if tool.erase_is_separate:
                    await self._step(f"erase over USB{again}", lambda: self._by_tool(tool.erase(work, desk)))
                await self._step(f"write over USB{again}", lambda: self._write_once(tool, work, desk))
            except IspdError as error:
                if not (faults.is_erase_at_fault(error) and number < ERASE_TRIES):
                    raise
            else:
                return
        raise LocalProtocolError("the last try neither succeeded nor failed")

    async def _write_once(self, tool: ChainTool, work: ChainWork, desk: BoardDesk) -> str:
        await self._be_alone(
            tool
        )  # again: a pause may lie between the steps, and not to be alone is no fault of the board
        begun_s = self._clock.monotonic()

        async def write() -> None:
            self._read_back = await tool.write(work, desk)

        note = await self._by_tool(write())
        self._write_s = self._clock.monotonic() - begun_s
        self._advance(len(self._firmware) - self._done_bytes)
        return note

    def _advance(self, done_bytes: int) -> None:
        self._done_bytes = min(len(self._firmware), self._done_bytes + done_bytes)
        self._observer.progress(self._done_bytes, len(self._firmware))

    async def _by_tool(self, work: Awaitable[None]) -> str:
        """Let the tool work; what it says went wrong is put down to the board only while the board is there."""
        try:
            await work
        except IspdError as error:
            if not faults.may_be_board(error):
                raise
            if not faults.is_proof(error) and not await self._is_there():
                raise faults.vanished(self._port.path, error) from error
            self.is_ill = True
            raise faults.of_board(error) from error
        return ""

    async def _is_there(self) -> bool:
        """Tell whether the bootloader is on the board's port, listed there and not only so: who was unplugged does not answer. One that
        is silent for longer than that hangs, and is there."""
        with anyio.move_on_after(LISTED_FOR_S):
            while True:
                seen = self._port.changes
                if await self._wait_for(self._is_loader, _RETURN_DEADLINE_S) is None:
                    return False
                if await answers(self._bench.hardware, self._port.path):
                    return True
                with anyio.move_on_after(_ASK_AGAIN_S):
                    await self._port.wait_for_change(seen)
        return await self._wait_for(self._is_loader, _RETURN_DEADLINE_S) is not None

    async def _compare(self, tool: ChainTool) -> str:
        """Compare what was read back; raises ``TargetError`` (verify-mismatch)."""
        if self._read_back is None and self._bench.read_flash is not None:
            return await self._compare_elsewhere(self._bench.read_flash)
        if self._read_back is None:
            return (
                f"this bootloader cannot be read: the verdict rests on {tool.name}'s own verification and on the "
                "firmware showing up on USB"
            )
        wrong = faults.difference(self._firmware, self._read_back)
        if wrong is not None:
            self.is_ill = True
            raise wrong
        return f"{len(self._firmware)} bytes read back are as they should be"

    async def _compare_elsewhere(self, read_flash: Callable[[], Awaitable[Sequence[Segment]]]) -> str:
        """Compare what the slot's programmer reads; where it cannot, the verdict rests on what it rests on without one."""
        try:
            found = await read_flash()
        except IspdError as error:
            self.warnings.append(f"the slot's programmer could not read the firmware back: {error.message}")
            return error.message
        start = self._loader.application_start
        firmware = self._firmware
        if firmware.span.start < start:  # a plain .bin has no addresses of its own
            firmware = Image.of(Segment(start + one.start, one.data) for one in firmware.segments)
        wrong = faults.difference(firmware, found)
        if wrong is not None:
            self.is_ill = True
            raise wrong
        return f"{len(firmware)} bytes read back by the slot's programmer are as they should be"

    # ------------------------------------------------------------------ the start

    async def _start(self, tool: ChainTool, work: ChainWork, desk: BoardDesk) -> str:
        """Start the firmware. A bootloader that will not is told of; the firmware showing up, or not, decides."""
        try:
            await tool.start(work, desk)
        except IspdError as error:
            if error.code in (ErrorCode.BOOTLOADER_NOT_SEEN, ErrorCode.LINK_CLOSED, ErrorCode.BOARD_UNEXPECTED):
                return "the bootloader had left already"
            self.warnings.append(f"starting the firmware: {error.message}")
            return error.message
        return ""

    async def _wait_for_firmware(self) -> str:
        device = await self._wait_for(self._is_firmware, APPLICATION_DEADLINE_S)
        if device is not None:
            self.application_usb = str(device.usb)
            return f"{device.usb} on USB port {device.path}"
        missing = faults.no_application(self._port.path, await self._port.look(), APPLICATION_DEADLINE_S)
        if self._read_back is None:
            raise missing
        self.warnings.append(f"{missing.message}; what was read back is as it should be")
        return missing.message

    # ------------------------------------------------------------------ steps

    async def _step(self, name: str, work: Callable[[], Awaitable[str]]) -> None:
        """Carry out one step with its record around it, also where it fails: what a tool printed then matters most."""
        await self._observer.checkpoint()
        await self._observer.step_started(name)
        started, started_s = self._clock.wall(), self._clock.monotonic()
        done_bytes = self._done_bytes

        async def record(note: str) -> None:
            await self._observer.step_finished(
                StepRecord(
                    name=name,
                    started=started.isoformat(timespec="milliseconds"),
                    seconds=self._clock.monotonic() - started_s,
                    bytes=max(0, self._done_bytes - done_bytes),
                    note=note,
                    output="" if self._at_work is None else self._at_work[2].take_output(),
                )
            )

        try:
            note = await unless_stopped(self._observer, work)
        except IspdError as error:
            await record(error.message)
            raise
        await record(note)
