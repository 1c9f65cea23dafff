"""ArduinoISP on the virtual bench, and how often its port was opened."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from ispd.catalog.parts import load_parts
from ispd.model.image import Segment
from ispd.programmers.contract import IspProgrammer
from ispd.programmers.stk500v1 import DRIVER
from ispd.transport.contract import SerialSettings
from ispd.wire import avr_isp
from vbench.faults import Fault, ProgrammerFault
from vbench.hardware import BenchHardware, BenchPort
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget

__all__ = ["CODE", "PAGES", "PORT", "U4", "Rig", "rig"]

U4 = load_parts().avr("atmega32u4")
CODE = random.Random(1).randbytes(8 * 128)
PAGES = [Segment(at, CODE[at : at + 128]) for at in range(0, len(CODE), 128)]
PORT = "A1"


class CountingBench(BenchHardware):
    """Counts how often ports are opened."""

    opened = 0

    async def open_serial(self, settings: SerialSettings) -> BenchPort:
        self.opened += 1
        return await super().open_serial(settings)


@dataclass(frozen=True, slots=True)
class Rig:
    """A bench with one programmer, not yet opened."""

    bench: CountingBench
    board: SerialProgrammer
    target: AvrTarget

    async def open(self) -> IspProgrammer:
        return await DRIVER.open(self.bench, PORT, baud=self.board.baud, usb=self.board.usb)

    async def open_and_erase(self) -> IspProgrammer:
        programmer = await self.open()
        await programmer.enter(U4, None)
        await programmer.transfer([avr_isp.chip_erase()])
        await anyio.sleep(0.01)
        return programmer

    def reset_board(self) -> None:
        """Reset an Uno as a supply dip would: its bootloader comes first."""
        now = self.bench.now()
        self.board.opened(now, baud=self.board.baud, dtr=False)
        self.board.opened(now, baud=self.board.baud, dtr=True)

    def check(self) -> None:
        self.bench.target(PORT)
        assert self.board.mcu.lost == 0
        assert self.board.optiboot.writes == 0
        assert [str(violation) for violation in self.target.violations] == []


def rig(
    flavour: Flavour = Flavour.UART,
    *,
    baud: int = 19200,
    line_faults: Sequence[ProgrammerFault] = (),
    chip_faults: Sequence[Fault] = (),
    stuck_in_bootloader: bool = False,
) -> Rig:
    target = AvrTarget(U4, faults=chip_faults)
    board = SerialProgrammer(
        flavour, baud=baud, target=target, faults=line_faults, stuck_in_bootloader=stuck_in_bootloader
    )
    bench = CountingBench()
    bench.add(PORT, board)
    return Rig(bench, board, target)
