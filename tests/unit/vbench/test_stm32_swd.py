"""A Bluepill has two ends: what a probe writes into its flash is what shows on its USB port."""

from tests.unit.vbench.swd_host import DHCSR, FLASH, SwdHost

from vbench.stm32 import APPLICATION, stm32_application, stm32_loader
from vbench.stm32_board import Stm32Board
from vbench.stm32duino import WINDOW_S
from vbench.swd import SwdSocket

LOADER, KEYBOARD = "1EAF:0003", "FEED:6061"
FIRMWARE = stm32_application(3000, usb=KEYBOARD)
AIRCR, SYSRESET = 0xE000_ED0C, 0x05FA_0004


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
    host.now = begun + 5.0
    host.halt()
    assert board.face(host.now) is None


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
