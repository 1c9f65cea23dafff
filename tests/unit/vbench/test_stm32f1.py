"""STM32F103 on its SWD port: identity, resets, the core under a debugger, code in RAM."""

import hashlib
import subprocess
import sys

import pytest
from tests.unit.vbench.swd_host import DHCSR, FLASH, KHZ, RAM, SR, SwdHost

from ispd.model.part import MemoryKind
from vbench.faults import BusyForever, GoesSilent, LostPage, ReadFlips, SckCeiling, SlowWrites, StuckBits
from vbench.stm32f1 import ApWait, Stm32F1, Stm32F1Model
from vbench.swd import Ack

AIRCR, DEMCR, DFSR = 0xE000_ED0C, 0xE000_EDFC, 0xE000_ED30
S_HALT, S_LOCKUP, S_RESET_ST = 1 << 17, 1 << 19, 1 << 25
SYSRESET = 0x05FA_0004
DATA = hashlib.shake_128(b"data").digest(4096)
VECTORS = (0x2000_5000).to_bytes(4, "little") + (0x0800_0141).to_bytes(4, "little")
SPIN = bytes.fromhex("0130FDE7")  # adds r0, 1; b back
HALF_WORD_S = 52.5e-6


def host_of(chip: Stm32F1) -> SwdHost:
    chip.chip.flash[: len(VECTORS)] = VECTORS
    return SwdHost(chip)


def test_says_who_it_is() -> None:
    chip = Stm32F1(uid=bytes(range(12)))
    host = host_of(chip)
    assert chip.connect(0.1, KHZ) == 0x1BA0_1477
    assert host.word(0xE000_ED00) == 0x411F_C231
    assert host.word(0xE004_2000) & 0xFFF == 0x410
    assert host.read(0x1FFF_F7E0, 2, 2) == b"\x40\x00"
    assert host.read(0x1FFF_F7E8, 12) == bytes(range(12))
    assert host.read(0) == VECTORS[:4], "flash shows at 0 too"
    assert host.ack_of_read(0x6000_0000) is Ack.FAULT


def test_sizes_may_lie() -> None:
    liar, hider, open_one = (
        Stm32F1(Stm32F1Model(size_kib=128)),
        Stm32F1(is_protected=True),
        Stm32F1(Stm32F1Model(hides_size=False), is_protected=True),
    )
    told = [int.from_bytes(host_of(chip).read(0x1FFF_F7E0, 2, 2), "little") for chip in (liar, hider, open_one)]
    assert told == [128, 0, 64]
    assert len(liar.chip.flash) == 64 * 1024


def test_a_system_reset_is_seen_once_and_caught_where_asked() -> None:
    host = host_of(Stm32F1())
    assert host.word(DHCSR) & S_RESET_ST, "power-on is a reset too"
    assert not host.word(DHCSR) & S_RESET_ST
    host.halt()
    host.write(AIRCR, SYSRESET)
    after = host.word(DHCSR)
    assert after & S_RESET_ST
    assert not after & S_HALT, "a halted core runs after a reset"
    host.write(DEMCR, 1 << 24 | 1)
    host.write(AIRCR, SYSRESET)
    assert host.word(DHCSR) & S_HALT
    assert host.word(DFSR) & 1 << 3
    assert (host.register(15), host.register(13), host.register(16)) == (0x0800_0140, 0x2000_5000, 0x0100_0000)


def test_debug_works_while_reset_is_held() -> None:
    chip = Stm32F1()
    host = host_of(chip)
    chip.set_nrst(True, host.now)
    assert host.word(DHCSR) & S_RESET_ST
    assert host.word(DHCSR) & S_RESET_ST, "as long as it lasts"
    host.write(DHCSR, 0xA05F_0001)
    host.write(DEMCR, 1)
    chip.set_nrst(False, host.now)
    assert host.word(DHCSR) & S_HALT
    assert host.register(15) == 0x0800_0140


def test_a_blank_chip_locks_up() -> None:
    host = SwdHost(Stm32F1())
    assert host.word(DHCSR) & S_LOCKUP
    host.halt()
    assert host.register(15) == 0xFFFF_FFFE


def test_tells_when_its_program_runs() -> None:
    chip = Stm32F1()
    told: list[tuple[bool, float]] = []
    chip.on_run = lambda runs, at: told.append((runs, at))
    host = host_of(chip)
    host.halt()
    host.write(DHCSR, 0xA05F_0001)
    chip.set_nrst(True, 5.0)
    chip.set_nrst(False, 6.0)
    chip.set_supply("test", False, 7.0)
    assert [runs for runs, _ in told] == [True, False, True, False, True, False]
    assert [at for _, at in told][-3:] == [5.0, 6.0, 7.0]


def test_code_in_ram_programs_the_flash_in_the_time_it_takes() -> None:
    chip = Stm32F1()
    host = host_of(chip)
    begun = host.now
    host.load(DATA, FLASH + 0x1000)
    started = host.now
    while not host.word(DHCSR) & S_HALT:
        assert host.now < begun + 5
        host.now += 1e-3
    took = host.now - started
    assert took == pytest.approx(len(DATA) / 2 * HALF_WORD_S, rel=0.1)
    assert host.read(FLASH + 0x1000, 4096) == DATA
    assert [host.register(number) for number in (0, 1, 2)] == [RAM + 0x1100, FLASH + 0x2000, 0]
    assert host.word(DFSR) & 1 << 1
    assert chip.violations == []


def test_a_halt_in_the_middle_leaves_the_rest_blank() -> None:
    chip = Stm32F1()
    host = host_of(chip)
    host.load(DATA, FLASH + 0x1000)
    host.now += 1000 * HALF_WORD_S
    host.halt()
    done = 2 * (2048 - host.register(2))
    assert 1500 < done < 2700
    assert chip.chip.flash[0x1000 : 0x1000 + done] == DATA[:done]
    assert chip.chip.flash.count(0xFF, 0x1000 + done + 2) == len(chip.chip.flash) - 0x1000 - done - 2


def test_the_loader_stops_at_what_is_not_blank() -> None:
    chip = Stm32F1()
    host = host_of(chip)
    chip.chip.flash[0x1000 + 100] = 0x55
    host.load(DATA, FLASH + 0x1000)
    host.now += 1.0
    assert host.word(DHCSR) & S_HALT
    assert host.register(1) == FLASH + 0x1000 + 100
    assert host.register(5) & 0x14 == 0x04


def test_a_step_is_one_instruction_and_new_code_is_seen() -> None:
    host = host_of(Stm32F1())
    host.halt()
    host.put(RAM, SPIN)
    host.set_register(0, 5)
    host.set_register(15, RAM)
    host.write(DHCSR, 0xA05F_0005)
    assert (host.register(0), host.register(15)) == (6, RAM + 2)
    host.put(RAM, bytes.fromhex("02300000"))
    host.set_register(15, RAM)
    host.write(DHCSR, 0xA05F_0005)
    assert host.register(0) == 8


def test_an_endless_loop_goes_on_while_the_host_looks_on() -> None:
    host = host_of(Stm32F1())
    host.halt()
    host.put(RAM, SPIN)
    host.start(RAM, 0)
    counts = []
    for _ in range(3):
        host.now += 1e-3
        host.halt()
        counts.append(host.register(0))
        host.write(DHCSR, 0xA05F_0001)
    assert counts == sorted(set(counts)), "it goes on from where it was"
    assert 2000 < counts[0] < 20_000, "some instructions in a millisecond at 8 MHz"


@pytest.mark.parametrize("code", ["0160FEE7", "FFDEFEE7"], ids=["store-into-the-void", "undefined"])
def test_a_crash_is_a_lockup(code: str) -> None:
    host = host_of(Stm32F1())
    host.halt()
    host.put(RAM, bytes.fromhex(code))
    host.start(RAM, 0x9000_0000)
    host.now += 1e-2
    assert host.word(DHCSR) & S_LOCKUP


def test_code_in_ram_may_jump_into_the_flash_which_then_counts_as_running() -> None:
    chip = Stm32F1()
    host = host_of(chip)
    host.halt()
    told: list[bool] = []
    chip.on_run = lambda runs, _at: told.append(runs)
    host.put(RAM, bytes.fromhex("00470000"))  # bx r0
    host.start(RAM, FLASH + 0x141)
    host.now += 1e-2
    assert not host.word(DHCSR) & (S_HALT | S_LOCKUP)
    assert told == [True]
    host.halt()
    assert host.register(15) in range(FLASH + 0x140, FLASH + 0x400)
    assert told == [True, False]


def test_a_running_core_shows_no_registers_and_a_core_reset_spares_the_rest() -> None:
    chip = Stm32F1()
    host = host_of(chip)
    host.set_register(0, 0x1234)
    host.halt()
    assert host.register(0) == 0
    host.unlock()
    host.write(AIRCR, 0x05FA_0001)
    assert host.word(0x4002_2010) == 0, "the flash stays open"
    assert not host.word(DHCSR) & S_HALT
    host.write(AIRCR, 4)
    assert not host.word(DHCSR) & S_RESET_ST, "not without the key"


def test_registers_take_parts_of_words_and_the_backup_register_outlives_resets() -> None:
    chip = Stm32F1()
    host = host_of(chip)
    host.write(0x4002_1014, 0xAABB_CCDD)
    host.write(0x4002_1016, 0x1122, 2)
    host.write(0x4002_1014, 0x33, 1)
    assert host.word(0x4002_1014) == 0x1122_CC33
    assert host.read(0x4002_1015, 1, 1) == b"\xcc"
    host.write(0x4000_6C28, 0x424C, 2)
    host.write(AIRCR, SYSRESET)
    assert (host.word(0x4002_1014), chip.chip.dr10) == (0x14, 0x424C)
    assert host.word(0x4000_6C28) == 0x424C
    host.put(RAM + 1, b"abc", 1)
    assert host.read(RAM, 4) == b"\0abc"
    assert host.ack_of_read(RAM + 1) is Ack.FAULT, "not aligned"
    assert host.write(0x1FFF_F000, 0) is Ack.FAULT, "system memory is a ROM"
    chip.set_supply("test", False, host.now)
    assert chip.chip.dr10 == 0


def test_faults_of_the_connection() -> None:
    silent = SwdHost(Stm32F1(faults=[GoesSilent(after_instructions=2)]))
    assert [silent.ack_of_read(DHCSR) for _ in range(3)] == [Ack.OK, Ack.OK, Ack.NONE]
    waiting = SwdHost(Stm32F1(faults=[ApWait(access=1, times=2)]))
    assert [waiting.ack_of_read(DHCSR) for _ in range(4)] == [Ack.OK, Ack.WAIT, Ack.WAIT, Ack.OK]
    slow = Stm32F1(faults=[SckCeiling(hz=1e6)])
    assert slow.connect(0.1, KHZ) is None
    slow.set_supply("test", True, 0.2)
    assert slow.connect(0.3, 0.95e6) == 0x1BA0_1477
    slow.set_supply("test", False, 0.4)
    assert slow.connect(0.5, 0.95e6) is None
    flipping = host_of(Stm32F1(faults=[ReadFlips(mask=0x10, reads=(0,))]))
    assert flipping.read(FLASH)[0] == VECTORS[0] ^ 0x10
    assert flipping.read(FLASH)[0] == VECTORS[0]


def test_faults_of_the_cells() -> None:
    stuck_bit = StuckBits(memory=MemoryKind.FLASH, address=0x1003, mask=1, level=1)
    lost, stuck = Stm32F1(faults=[LostPage(0x1400)]), Stm32F1(faults=[stuck_bit])
    for chip in (lost, stuck):
        host = host_of(chip)
        host.load(bytes(2048), FLASH + 0x1000)
        host.now += 1.0
        assert host.word(DHCSR) & S_HALT
    assert lost.chip.flash[0x1400:0x1800] == b"\xff" * 1024
    assert lost.chip.flash[0x1000:0x1400] == bytes(1024)
    assert stuck.chip.flash[0x1000:0x1006] == bytes((0, 0, 0, 1, 0, 0))


def test_faults_of_the_controller() -> None:
    hung = host_of(Stm32F1(faults=[BusyForever(after_writes=10)]))
    hung.load(bytes(2048), FLASH + 0x1000)
    hung.now += 10.0
    assert not hung.word(DHCSR) & S_HALT
    assert hung.word(SR) & 1
    assert hung.ack_of_read(FLASH) is Ack.WAIT, "nothing gets past the flash any more"
    slow = host_of(Stm32F1(faults=[SlowWrites(factor=3)]))
    slow.load(bytes(2048), FLASH + 0x1000)
    slow.now += 2.5 * 1024 * HALF_WORD_S
    assert not slow.word(DHCSR) & S_HALT
    slow.now += 1024 * HALF_WORD_S
    assert slow.word(DHCSR) & S_HALT


def test_does_without_unicorn_until_code_is_to_run() -> None:
    program = (
        "import sys; sys.modules['unicorn'] = None\n"
        "from tests.unit.vbench.swd_host import *\n"
        "from vbench.stm32f1 import Stm32F1\n"
        "from ispd.errors import ConfigError\n"
        "host = SwdHost(Stm32F1()); host.halt(); assert host.word(0xE0042000)\n"
        "try:\n    host.load(bytes(4), 0x08000000)\n"
        "except ConfigError as error:\n    print(error.message, '/', error.hint)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "unicorn, which is not installed / install ispd[bench]" in result.stdout, result.stderr
