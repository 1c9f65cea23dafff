"""A Bus Pirate on the virtual bench, with somebody on its line who listens, refuses rates and loses bytes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from ispd.catalog.parts import load_parts
from ispd.errors import ErrorCode, TransportError
from ispd.model.image import Segment
from ispd.model.part import MemoryKind
from ispd.programmers.buspirate import DRIVER
from ispd.programmers.contract import IspProgrammer
from ispd.transport.contract import BytePort, SerialSettings
from ispd.wire import avr_isp
from vbench.bus_pirate import BusPirate, BusPirateHardware, BusPirateWiring
from vbench.faults import Fault, ProgrammerFault
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget

__all__ = [
    "CODE",
    "FAST_FUSES",
    "PAGES",
    "PARTS",
    "PORT",
    "U4",
    "V3",
    "V4",
    "Rig",
    "TappedBench",
    "erase",
    "rig",
    "signature",
]

V3, V4 = BusPirateHardware.V3, BusPirateHardware.V4
PARTS = load_parts()
U4 = PARTS.avr("atmega32u4")
PORT = "A1"
FAST_FUSES = {MemoryKind.LFUSE: 0xDE}
"""A 16 MHz crystal without division: SCK up to 2.67 MHz."""
CODE = random.Random(1).randbytes(6 * 128)
PAGES = [Segment(at, CODE[at : at + 128]) for at in range(0, len(CODE), 128)]
LATENCY_S = 1e-3
"""What the transport asks an FTDI chip for."""


@dataclass(slots=True)
class Tap:
    """A port of the bench that remembers what went out, and may refuse rates or lose bytes at some."""

    port: BytePort
    rates: list[int]
    refused: frozenset[int] = frozenset()
    lossy: frozenset[int] = frozenset()
    sent: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.port.name

    async def send(self, data: bytes) -> None:
        self.sent.append((self.rates[-1], data))
        await self.port.send(data[:-1] if self.rates[-1] in self.lossy and len(data) > 8 else data)

    async def receive(self) -> bytes:
        return await self.port.receive()

    def take(self) -> bytes:
        return self.port.take()

    async def set_baud(self, baud: int) -> None:
        if baud in self.refused:
            raise TransportError(ErrorCode.INVALID_PARAMETER, f"{baud} baud?")
        self.rates.append(baud)
        await self.port.set_baud(baud)

    async def aclose(self) -> None:
        await self.port.aclose()


class TappedBench(BenchHardware):
    """A bench whose ports are tapped."""

    taps: list[Tap]
    refused: frozenset[int] = frozenset()
    lossy: frozenset[int] = frozenset()

    async def open_serial(self, settings: SerialSettings) -> Tap:  # type: ignore[override]  # it is one, and more
        tap = Tap(await super().open_serial(settings), [settings.baud], self.refused, self.lossy)
        self.taps = [*getattr(self, "taps", []), tap]
        return tap


@dataclass(frozen=True, slots=True)
class Rig:
    """A bench with one Bus Pirate, not yet opened."""

    bench: TappedBench
    board: BusPirate
    target: AvrTarget | None

    async def open(self, baud: int | None = None) -> IspProgrammer:
        return await DRIVER.open(self.bench, PORT, baud=baud, usb=self.board.usb)

    async def open_and_erase(self, sck_hz: int | None = 1_600_000) -> IspProgrammer:
        programmer = await self.open()
        await programmer.enter(U4, sck_hz)
        await erase(programmer)
        return programmer

    async def type(self, *lines: bytes, baud: int = 115200) -> None:
        """Say something to the Bus Pirate as another program would, and let go of the port."""
        port = await self.bench.open_serial(SerialSettings(port=PORT, baud=115200))
        for line in lines:
            await port.send(line)
            await anyio.sleep(0.1)
            port.take()
        if baud != 115200:
            await port.set_baud(baud)
            await port.send(b" ")
            await anyio.sleep(0.1)
        await port.aclose()

    def feeds(self) -> bool:
        """Tell whether the Bus Pirate's supplies are on."""
        self.bench.target(PORT)
        return self.board.pins.power

    def check(self) -> None:
        """Fail on anything a data sheet forbids, on a deaf receiver, and on a target left in reset or under current."""
        self.bench.target(PORT)
        assert self.board.lost == 0
        assert self.board.pins.cs_is_high
        assert not self.feeds()
        if self.target is not None:
            assert [str(violation) for violation in self.target.violations] == []


def rig(
    hardware: BusPirateHardware = V3,
    firmware: str | None = None,
    *,
    target: AvrTarget | None = None,
    line_faults: Sequence[ProgrammerFault] = (),
    chip_faults: Sequence[Fault] = (),
    own_supply: bool = False,
    latency_s: float = LATENCY_S,
    empty: bool = False,
) -> Rig:
    if target is None and not empty:
        target = AvrTarget(U4, fuses=FAST_FUSES, faults=chip_faults)
    wiring = BusPirateWiring(own_supply=own_supply)
    board = BusPirate(hardware, firmware, target=target, faults=line_faults, latency_s=latency_s, wiring=wiring)
    bench = TappedBench()
    bench.add(PORT, board)
    return Rig(bench, board, target)


async def erase(programmer: IspProgrammer) -> None:
    await programmer.transfer([avr_isp.chip_erase()])
    await anyio.sleep(0.0105)


async def signature(programmer: IspProgrammer) -> bytes:
    return await programmer.transfer([avr_isp.read_signature(index) for index in range(3)])
