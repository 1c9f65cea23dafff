"""The beds an SWD driver is tried on: the bench in process on virtual time, and pyusb with its threads. One interface."""

import functools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum

import anyio

from ispd.programmers import stlink
from ispd.programmers.swd_contract import SwdDriver, SwdProgrammer
from vbench.cortex_m3 import State
from vbench.emulated import BulkReply
from vbench.hardware import BenchHardware
from vbench.pyusb_backend import PyusbBackend
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket, SwdWiring
from vbench.usb_bus import UsbHardware
from vbench.virtual_time import run_virtual

__all__ = ["QUICK_ROWS", "ROWS", "VIRTUAL", "Bed", "Disturbance", "OpenBed", "Probe", "Row", "Run", "beds_of"]

PORT, PLACE = "A1", "1-1.4"
PROGRAM = bytes.fromhex("00500020 41000008") + bytes(56) + bytes.fromhex("FEE7")
"""A vector table, and a program that goes round."""


class Disturbance(Enum):
    """What happens once, to one transfer. Of an answer the device has carried out the command before."""

    STALL = "stall"
    SILENCE = "silence"
    """Nothing comes before the time is over; an answer comes then, too late."""
    EMPTY = "empty"
    SHORT = "short"
    UNPLUG = "unplug"


class Probe(StLink):
    """An ST-Link that is disturbed once. ``log`` has every transfer that was begun: bytes to it, None for an answer."""

    def __init__(self, row: "Row", chip: Stm32F1) -> None:
        super().__init__(row.firmware, socket=SwdSocket(chip, wiring=SwdWiring(has_nrst=row.has_nrst)))
        self.log: list[bytes | None] = []
        self.disturbed_at = -1
        self.disturbance = Disturbance.STALL
        self._late: bytes | None = None

    @property
    def commands(self) -> list[bytes]:
        """Every command so far, without the zeros behind it."""
        return [one.rstrip(b"\0") for one in self.log if one is not None and len(one) == 16]

    def bulk_out(self, endpoint: int, data: bytes, at: float) -> BulkReply:
        index = len(self.log)
        self.log.append(data)
        if index != self.disturbed_at or self.disturbance in (Disturbance.EMPTY, Disturbance.SHORT):
            return super().bulk_out(endpoint, data, at)
        return self._break(endpoint, at)

    def bulk_in(self, endpoint: int, length: int, at: float) -> BulkReply | None:
        index = len(self.log)
        self.log.append(None)
        reply = super().bulk_in(endpoint, length, at) if self._late is None else self._take_late(at)
        if index != self.disturbed_at or reply is None:
            return reply
        match self.disturbance:
            case Disturbance.EMPTY:
                return BulkReply(ends_at=reply.ends_at)
            case Disturbance.SHORT:
                return BulkReply(ends_at=reply.ends_at, data=reply.data[:-1])
            case Disturbance.SILENCE:
                self._late = reply.data
        return self._break(endpoint, at)

    def _take_late(self, at: float) -> BulkReply:
        data, self._late = self._late or b"", None
        return BulkReply(ends_at=at, data=data)

    def _break(self, endpoint: int, at: float) -> BulkReply:
        match self.disturbance:
            case Disturbance.UNPLUG:
                return self._lose_power()
            case Disturbance.STALL:
                self._halted.add(endpoint)
                return BulkReply(ends_at=at, stalled=True)
            case _:
                return BulkReply(ends_at=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A driver and a programmer for it.

    :param says: how the opened programmer calls its firmware.
    :param wish_hz: SWD clock to ask for; ``clock_hz`` is what must be in use then.
    :param has_nrst: whether the reset wire is there; many dongles have none that works.
    """

    driver: SwdDriver
    firmware: StLinkFirmware
    says: str
    wish_hz: int
    clock_hz: int
    has_nrst: bool = True


def _row(product: int, jtag: int, third: int, says: str, **wishes: int) -> Row:
    firmware = StLinkFirmware(product_id=product, jtag=jtag, third=third)
    wish_hz, clock_hz = wishes.get("wish_hz", 4_000_000), wishes.get("clock_hz", 4_000_000)
    has_nrst = bool(wishes.get("has_nrst", 1))
    return Row(
        driver=stlink.DRIVER, firmware=firmware, says=says, wish_hz=wish_hz, clock_hz=clock_hz, has_nrst=has_nrst
    )


ROWS: dict[str, Row] = {
    "V2 J37": _row(0x3748, 37, 7, "V2J37S7"),
    "V2 J17 without NRST": _row(0x3748, 17, 4, "V2J17S4", clock_hz=1_800_000, has_nrst=0),
    "V2 J11": _row(0x3748, 11, 0, "V2J11S0", clock_hz=1_800_000),
    "V2 J27": _row(0x3748, 27, 6, "V2J27S6", wish_hz=1_000_000, clock_hz=950_000),
    "V2-1 J33": _row(0x374B, 33, 25, "V2J33M25"),
    "V3 J6": _row(0x374E, 6, 3, "V3J6", clock_hz=3_300_000),
}
QUICK_ROWS = {name: ROWS[name] for name in ("V2 J37", "V2 J17 without NRST", "V3 J6")}
"""One for each way to speak: what takes long is tried on these."""


@dataclass(frozen=True, slots=True)
class Bed:
    """An opened programmer and what stands behind it. ``look`` lets the emulation catch up with the clock."""

    row: Row
    programmer: SwdProgrammer
    probe: Probe
    chip: Stm32F1
    unplug: Callable[[], object]
    now: Callable[[], float]

    @property
    def runs(self) -> bool:
        """Whether the chip is left alone: no reset, no halt, its program runs."""
        self.probe.run(self.now())
        return not self.probe.socket.nrst_low and self.chip.core.state is State.IN_FLASH


OpenBed = Callable[[], AbstractAsyncContextManager[Bed]]


def _chip() -> Stm32F1:
    chip = Stm32F1()
    chip.chip.flash[: len(PROGRAM)] = PROGRAM
    return chip


@asynccontextmanager
async def virtually(row: Row) -> AsyncIterator[Bed]:
    """Open the driver on a bench in process; the caller's event loop decides what time is."""
    chip = _chip()
    probe = Probe(row, chip)
    bench = BenchHardware()
    bench.add(PORT, probe)
    programmer = await row.driver.open(bench, PORT, usb=probe.usb)
    try:
        yield Bed(row, programmer, probe, chip, lambda: bench.unplug(PORT), bench.now)
    finally:
        await programmer.aclose()


@asynccontextmanager
async def on_pyusb(row: Row) -> AsyncIterator[Bed]:
    """Open the driver through pyusb and a worker thread, in real time."""
    chip = _chip()
    probe = Probe(row, chip)
    backend = PyusbBackend()
    backend.add(PLACE, probe)
    programmer = await row.driver.open(UsbHardware(backend), f"usb:{PLACE}", usb=probe.usb)
    try:
        yield Bed(row, programmer, probe, chip, lambda: backend.unplug(PLACE), backend.now)
    finally:
        await programmer.aclose()
    assert backend.opens == backend.closes
    assert backend.strays == []


Run = Callable[[Callable[[OpenBed], Awaitable[None]]], None]


def _runner(row: Row, bed: Callable[[Row], AbstractAsyncContextManager[Bed]]) -> Run:
    start = run_virtual if bed is virtually else anyio.run

    def run(test: Callable[[OpenBed], Awaitable[None]]) -> None:
        start(functools.partial(test, functools.partial(bed, row)))

    return run


def beds_of(rows: dict[str, Row]) -> dict[str, Run]:
    """Return what runs a test, for each row on each bed; on virtual time where the bed allows it."""
    return {
        f"{name} {where}": _runner(row, bed)
        for name, row in rows.items()
        for where, bed in (("virtual", virtually), ("pyusb", on_pyusb))
    }


VIRTUAL: dict[str, Run] = {name: run for name, run in beds_of(QUICK_ROWS).items() if name.endswith("virtual")}
