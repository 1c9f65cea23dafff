"""A debugger that talks to an emulated STM32F103 directly, without a probe: reads, writes, flash work, code in RAM."""

from vbench.stm32f1 import Stm32F1
from vbench.swd import Ack

__all__ = ["LOADER", "SwdHost"]

KHZ = 1.8e6
FLASH, RAM, REGISTERS = 0x0800_0000, 0x2000_0000, 0x4002_2000
KEYR, OPTKEYR, SR, CR, AR = (REGISTERS + offset for offset in (4, 8, 0xC, 0x10, 0x14))
DHCSR, DCRSR, DCRDR = 0xE000_EDF0, 0xE000_EDF4, 0xE000_EDF8
KEYS = (0x4567_0123, 0xCDEF_89AB)
LOADER = bytes.fromhex("04880C80DD686E08FCD2142635 4203D1023002 31013AF3D100BE 0000")
"""Copies half-words from r0 to r1, r2 of them, polling SR at r3 + 0C: ldrh, strh, ldr, lsrs, bcs, test of the error bits, bkpt."""


class SwdHost:
    """Its accesses come one after another, each 0.1 ms after the one before."""

    def __init__(self, chip: Stm32F1) -> None:
        self.chip = chip
        self.now = 0.1
        chip.set_supply("test", True, 0.0)

    def read(self, address: int, length: int = 4, width: int = 4) -> bytes:
        self.now += 1e-4
        reply = self.chip.read(address, length, width, self.now, KHZ)
        assert reply.ack is Ack.OK, (hex(address), reply.ack)
        return reply.data

    def word(self, address: int) -> int:
        return int.from_bytes(self.read(address), "little")

    def ack_of_read(self, address: int, length: int = 4, width: int = 4) -> Ack:
        self.now += 1e-4
        return self.chip.read(address, length, width, self.now, KHZ).ack

    def write(self, address: int, value: int, width: int = 4) -> Ack:
        return self.put(address, value.to_bytes(width, "little"), width)

    def put(self, address: int, data: bytes, width: int = 4) -> Ack:
        self.now += 1e-4
        return self.chip.write(address, data, width, self.now, KHZ)

    # -- flash -------------------------------------------------------------------------------------------------------

    def unlock(self) -> None:
        for key in KEYS:
            self.write(KEYR, key)

    def unlock_options(self) -> None:
        self.unlock()
        for key in KEYS:
            self.write(OPTKEYR, key)

    def finish(self) -> int:
        """Wait for the controller and return SR."""
        for _ in range(1000):
            if not self.word(SR) & 1:
                return self.word(SR)
        raise AssertionError("busy for ever")

    def erase_page(self, address: int) -> int:
        self.write(CR, 1 << 1)
        self.write(AR, address)
        self.write(CR, 1 << 1 | 1 << 6)
        return self.finish()

    # -- core --------------------------------------------------------------------------------------------------------

    def halt(self) -> None:
        self.write(DHCSR, 0xA05F_0003)
        assert self.word(DHCSR) & 1 << 17

    def register(self, number: int) -> int:
        self.write(DCRSR, number)
        return self.word(DCRDR)

    def set_register(self, number: int, value: int) -> None:
        self.write(DCRDR, value)
        self.write(DCRSR, 1 << 16 | number)

    def start(self, pc: int, *registers: int) -> None:
        for number, value in enumerate(registers):
            self.set_register(number, value)
        self.set_register(16, 0x0100_0000)
        self.set_register(15, pc)
        self.write(DHCSR, 0xA05F_0009)

    def load(self, data: bytes, to: int) -> None:
        """Have the loader in RAM begin to program data, which takes its time."""
        self.halt()
        self.unlock()
        self.write(CR, 1)
        self.put(RAM, LOADER)
        self.put(RAM + 0x100, data)
        self.start(RAM, RAM + 0x100, to, len(data) // 2, REGISTERS)
