"""A Bluepill has two ends: what a probe writes into its flash is what shows on its USB port."""

import math

import pytest
from tests.unit.vbench.swd_host import CR, DHCSR, FLASH, SwdHost

from ispd.transport.contract import ControlTransfer
from vbench.board_shown import ShownUsb
from vbench.cortex_m3 import CPUID
from vbench.stm32 import APPLICATION, Habit, stm32_application, stm32_loader
from vbench.stm32_board import Stm32Board
from vbench.stm32duino import WINDOW_S
from vbench.swd import Ack, SwdSocket

LOADER, KEYBOARD = "1EAF:0003", "FEED:6061"
FIRMWARE = stm32_application(3000, usb=KEYBOARD)
AIRCR, SYSRESET = 0xE000_ED0C, 0x05FA_0004
OPTPG, OPTER, STRT, OPTWRE = (1 << bit for bit in (4, 5, 6, 9))
OBR, OPTIONS = 0x4002_201C, 0x1FFF_F800
S_HALT, S_LOCKUP = 1 << 17, 1 << 19
CPUID_AT, DEMCR, DBGMCU_CR, DBG_STOP, DPIDR = 0xE000_ED00, 0xE000_EDFC, 0xE004_2004, 1 << 1, 0x1BA0_1477


def shown(board: Stm32Board, at: float) -> str | None:
    face = board.face(at)
    return None if face is None else str(face.usb)


def write(host: SwdHost, content: bytes, to: int = FLASH) -> None:
    """Write by code in RAM, 4 KiB at a time, and leave the core halted."""
    content += b"\xff" * (-len(content) % 4)
    for start in range(0, len(content), 4096):
        host.load(content[start : start + 4096], to + start)
        host.now += 0.3
        assert host.word(DHCSR) & 1 << 17
        assert host.register(2) == 0


def test_a_loader_written_by_a_probe_shows_on_usb_afterwards() -> None:
    board = Stm32Board(has_loader=False)
    host = SwdHost(board.swd)
    write(host, stm32_loader())
    board.swd.set_supply("test", False, host.now)
    board.attach(host.now + 1)
    assert shown(board, host.now + 60) == LOADER
    assert board.enumerations == 1


def test_loader_and_firmware_in_one_go_run_after_a_reset() -> None:
    board = Stm32Board(has_loader=False)
    board.attach(0.0)
    assert board.face(10.0) is None
    host = SwdHost(board.swd)
    host.now = 10.0
    write(host, stm32_loader())
    write(host, FIRMWARE, FLASH + APPLICATION)
    assert board.face(host.now) is None, "the core is halted"
    host.write(DHCSR, 0xA05F_0001)
    host.write(AIRCR, SYSRESET)
    begun = host.now
    assert shown(board, begun + 1.0) == LOADER
    assert shown(board, begun + WINDOW_S + 1.0) == KEYBOARD


@pytest.mark.parametrize("fixed_pull_up", [True, False])
def test_a_halted_board_stays_on_the_bus_where_its_pull_up_is_a_resistor(fixed_pull_up: bool) -> None:
    board = Stm32Board(application=FIRMWARE, fixed_pull_up=fixed_pull_up)
    board.attach(0.0)
    before = board.face(5.0)
    assert before is not None
    assert str(before.usb) == KEYBOARD
    host = SwdHost(board.swd)
    host.now = 5.0
    host.halt()
    if not fixed_pull_up:
        assert board.face(host.now) is None
        assert before.power_lost_at == pytest.approx(host.now, abs=1e-3)
        return
    held = board.face(host.now + 10.0)
    assert held is before
    assert isinstance(held, ShownUsb)
    descriptor = ControlTransfer(request_type=0x80, request=6, value=0x0100, index=0, length=18)
    assert held.control(descriptor, host.now + 10.0).ends_at == math.inf, "it is there, and does not answer"
    host.now += 20.0
    host.write(DHCSR, 0xA05F_0001)
    host.write(AIRCR, SYSRESET)
    assert board.face(host.now) is None
    assert before.power_lost_at == pytest.approx(host.now, abs=1e-3)
    assert shown(board, host.now + 1.0) == LOADER


def test_protection_set_by_a_debugger_keeps_the_program_from_running_until_the_supply_was_off() -> None:
    board = Stm32Board(application=FIRMWARE)
    board.attach(0.0)
    socket = SwdSocket(board.swd)
    socket.power(True, 0.0)
    host = SwdHost(board.swd)
    board.swd.set_supply("test", False, 0.0)
    host.now = 5.0
    host.halt()
    host.unlock_options()
    host.write(CR, OPTER | OPTWRE)
    host.write(CR, OPTER | OPTWRE | STRT)
    host.finish()
    host.write(CR, OPTPG | OPTWRE)
    host.write(OPTIONS, 0x00, 2)
    host.finish()
    assert not host.word(OBR) & 2, "it counts from the next reset on"
    host.write(DHCSR, 0xA05F_0001)
    host.write(AIRCR, SYSRESET)
    assert host.word(OBR) & 2
    assert host.word(DHCSR) & S_LOCKUP
    assert host.ack_of_read(FLASH) is Ack.FAULT
    enumerated = board.enumerations
    board.detach(10.0)
    board.attach(11.0)
    board.swd.press_reset(12.0)
    assert board.face(20.0) is None, "the probe has supplied it all the time"
    board.detach(20.0)
    socket.power(False, 20.0)
    board.attach(21.0)
    assert shown(board, 21.0 + WINDOW_S + 1.0) == KEYBOARD
    assert board.enumerations == enumerated + 2
    assert board.chip.flash[APPLICATION : APPLICATION + len(FIRMWARE)] == FIRMWARE


@pytest.mark.parametrize("habit", list(Habit))
def test_a_firmware_that_turns_swd_off_is_reached_under_reset_only(habit: Habit) -> None:
    board = Stm32Board(application=stm32_application(3000, usb=KEYBOARD, habit=habit))
    board.attach(0.0)
    host = SwdHost(board.swd)
    assert host.word(CPUID_AT) == CPUID, "its bootloader still runs"
    host.now = 5.0
    is_asleep = habit is Habit.SLEEPS
    assert board.swd.connect(host.now, 1e6) == (DPIDR if is_asleep else None)
    assert host.ack_of_read(CPUID_AT) is (Ack.WAIT if is_asleep else Ack.NONE)
    board.swd.set_nrst(True, host.now)
    assert board.swd.connect(host.now, 1e6) == DPIDR
    host.write(DHCSR, 0xA05F_0001)
    host.write(DEMCR, 1)
    host.write(DBGMCU_CR, DBG_STOP)
    board.swd.set_nrst(False, host.now)
    assert host.word(DHCSR) & S_HALT, "caught before it could"
    assert host.word(FLASH + APPLICATION) == int.from_bytes(FIRMWARE[:4], "little")
    host.write(DHCSR, 0xA05F_0001)
    host.now += 5.0
    assert shown(board, host.now) == KEYBOARD
    assert host.ack_of_read(CPUID_AT) is (Ack.OK if is_asleep else Ack.NONE), "DBG_STOP keeps the clocks on"


def test_a_loader_that_is_not_whole_shows_nothing() -> None:
    board = Stm32Board(has_loader=False)
    host = SwdHost(board.swd)
    write(host, stm32_loader()[:6000])
    board.swd.set_supply("test", False, host.now)
    board.attach(host.now)
    assert board.face(host.now + 60) is None


def test_a_firmware_at_the_beginning_needs_no_loader() -> None:
    board = Stm32Board(has_loader=False)
    host = SwdHost(board.swd)
    write(host, stm32_application(2500, usb=KEYBOARD, start=0))
    board.swd.set_supply("test", False, host.now)
    board.attach(host.now)
    assert shown(board, host.now + 1) == KEYBOARD


def test_read_protection_hides_the_flash_and_not_the_program() -> None:
    board = Stm32Board(application=FIRMWARE, is_protected=True)
    board.attach(0.0)
    assert shown(board, WINDOW_S + 1) == KEYBOARD
    host = SwdHost(board.swd)
    host.now = 10.0
    assert host.word(0x4002_201C) & 2


def test_the_probe_may_be_its_only_supply() -> None:
    board = Stm32Board()
    socket = SwdSocket(board.swd)
    socket.power(True, 0.0)
    assert board.face(10.0) is None, "nobody is at the other end of its cable"
    board.attach(20.0)
    assert shown(board, 21.0) == LOADER
    board.chip.dr10 = 0x424C
    board.detach(30.0)
    assert board.face(31.0) is None
    assert board.chip.dr10 == 0x424C, "the probe keeps its registers"
    socket.remove(40.0)
    assert board.chip.dr10 == 0
