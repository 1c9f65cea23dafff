"""Flash controller of an STM32F103: keys, erase and program, what it refuses, option bytes, read protection."""

import pytest
from tests.unit.vbench.swd_host import AR, CR, FLASH, KEYR, OPTKEYR, SR, SwdHost

from vbench.stm32f1 import Stm32F1, Stm32F1Model
from vbench.swd import Ack
from vbench.violation import ViolationKind

PG, PER, MER, OPTPG, OPTER, STRT, LOCK, OPTWRE = (1 << bit for bit in (0, 1, 2, 4, 5, 6, 7, 9))
BSY, PGERR, WRPRTERR, EOP = 1 << 0, 1 << 2, 1 << 4, 1 << 5
OBR, WRPR = 0x4002_201C, 0x4002_2020
OPTIONS = 0x1FFF_F800
AIRCR = 0xE000_ED0C


def kinds(chip: Stm32F1) -> list[ViolationKind]:
    return [violation.kind for violation in chip.violations]


def opened(chip: Stm32F1) -> SwdHost:
    host = SwdHost(chip)
    host.unlock()
    return host


def reset(host: SwdHost) -> None:
    host.write(AIRCR, 0x05FA_0004)


def test_keys_open_it_in_their_order_only() -> None:
    chip = Stm32F1()
    host = SwdHost(chip)
    assert host.word(CR) == LOCK
    host.write(CR, PG)
    assert host.word(CR) == LOCK
    host.unlock()
    assert host.word(CR) == 0
    host.unlock()
    assert host.word(CR) == 0, "keys on an open flash change nothing"
    host.write(CR, LOCK)
    host.write(KEYR, 0xCDEF_89AB)
    host.unlock()
    assert host.word(CR) == LOCK, "a wrong key shuts it until the next reset"
    reset(host)
    host.unlock()
    assert host.word(CR) == 0
    assert kinds(chip)[:2] == [ViolationKind.FLASH_LOCKED, ViolationKind.WRONG_KEY]


def test_erases_a_page_and_programs_half_words() -> None:
    chip = Stm32F1()
    chip.chip.flash[0x3F0:0xC10] = bytes(0x820)
    host = opened(chip)
    assert host.erase_page(FLASH + 0x555) & (EOP | BSY) == EOP
    assert chip.chip.flash[0x3F0:0xC10] == bytes(0x10) + b"\xff" * 0x400 + bytes(0x410)
    host.write(SR, EOP)
    host.write(CR, PG)
    assert host.write(FLASH + 0x402, 0x1234, 2) is Ack.OK
    assert host.finish() == EOP
    assert chip.chip.flash[0x400:0x406] == b"\xff\xff\x34\x12\xff\xff"
    assert chip.violations == []


def test_takes_the_time_of_the_data_sheet() -> None:
    host = opened(Stm32F1())
    host.write(CR, MER)
    host.write(CR, MER | STRT)
    begun = host.now
    while host.word(SR) & BSY:
        assert host.word(CR) & STRT
    assert host.now - begun == pytest.approx(40e-3, rel=0.05)
    assert not host.word(CR) & STRT


def test_refuses_what_is_not_blank_but_for_zero() -> None:
    chip = Stm32F1()
    chip.chip.flash[0:2] = b"\x00\xf0"
    host = opened(chip)
    host.write(CR, PG)
    host.write(FLASH, 0xA000, 2)
    assert host.finish() & PGERR
    assert chip.chip.flash[0:2] == b"\x00\xf0"
    host.write(SR, PGERR | WRPRTERR | EOP)
    host.write(FLASH, 0x0000, 2)
    assert host.finish() & (PGERR | EOP) == EOP
    assert chip.chip.flash[0:2] == b"\x00\x00"
    assert kinds(chip) == [ViolationKind.NOT_BLANK]


def test_takes_half_words_only_and_only_in_programming_mode() -> None:
    chip = Stm32F1()
    host = opened(chip)
    assert host.write(FLASH, 0x1234, 2) is Ack.FAULT
    host.write(CR, PG)
    assert host.write(FLASH, 0x1234_5678) is Ack.FAULT
    assert host.write(FLASH, 0x12, 1) is Ack.FAULT
    assert chip.chip.flash[:4] == b"\xff" * 4
    assert kinds(chip) == [ViolationKind.FLASH_LOCKED, *(ViolationKind.WRONG_WIDTH,) * 2]


def test_commands_while_busy_are_noted_and_do_nothing() -> None:
    chip = Stm32F1()
    chip.chip.flash[0x400] = 0
    host = opened(chip)
    host.write(CR, PER)
    host.write(AR, FLASH)
    host.write(CR, PER | STRT)
    host.write(AR, FLASH + 0x400)
    host.write(CR, PER | STRT)
    assert host.ack_of_read(FLASH) is Ack.WAIT
    host.finish()
    assert chip.chip.flash[0x400] == 0
    assert kinds(chip) == [ViolationKind.WHILE_BUSY]


@pytest.mark.parametrize("stalls", [True, False], ids=["genuine", "clone"])
def test_a_store_while_busy_waits_or_is_lost(stalls: bool) -> None:
    chip = Stm32F1(Stm32F1Model(stalls=stalls))
    host = opened(chip)
    host.write(CR, PG)
    host.put(FLASH, bytes(8), 2)
    assert chip.chip.flash[:8] == (bytes(8) if stalls else bytes(2) + b"\xff" * 6)
    assert len(chip.violations) == (0 if stalls else 3)


def test_a_clone_may_be_locked_without_telling() -> None:
    chip = Stm32F1(Stm32F1Model(shows_lock=False))
    host = SwdHost(chip)
    assert host.word(CR) == 0
    host.write(CR, PG)
    assert host.write(FLASH, 0, 2) is Ack.FAULT
    host.unlock()
    host.write(CR, PG)
    assert host.write(FLASH, 0, 2) is Ack.OK


def test_option_bytes_count_from_the_next_reset() -> None:
    chip = Stm32F1()
    host = SwdHost(chip)
    assert (host.word(OBR), host.word(WRPR)) == (0x03FF_FFFC, 0xFFFF_FFFF)
    host.unlock()
    host.write(CR, OPTER | STRT)
    assert chip.flash.options[0] == 0xA5, "not without the option keys"
    host.unlock_options()
    assert host.word(CR) & OPTWRE
    host.write(CR, OPTER | OPTWRE)
    host.write(CR, OPTER | OPTWRE | STRT)
    host.finish()
    host.write(CR, OPTPG | OPTWRE)
    for index, value in enumerate((0xA5, 0xFE, 0x12, 0x34, 0xFD, 0xFF, 0xFF, 0xFF)):
        assert host.write(OPTIONS + 2 * index, value, 2) is Ack.OK
        host.finish()
    assert host.read(OPTIONS, 16)[:10] == bytes((0xA5, 0x5A, 0xFE, 0x01, 0x12, 0xED, 0x34, 0xCB, 0xFD, 0x02))
    assert host.word(WRPR) == 0xFFFF_FFFF
    reset(host)
    assert host.word(WRPR) == 0xFFFF_FFFD
    assert host.word(OBR) == 0xFE << 2 | 0x12 << 10 | 0x34 << 18
    host.unlock()
    assert [host.erase_page(FLASH + page * 0x400) & WRPRTERR for page in (3, 8)] == [0, 0]
    assert host.erase_page(FLASH + 4 * 0x400) & WRPRTERR
    assert chip.chip.flash.count(0xFF) == len(chip.chip.flash)


def test_a_protected_chip_opens_at_the_price_of_its_content() -> None:
    chip = Stm32F1(is_protected=True)
    chip.chip.flash[0x100:0x104] = b"key!"
    host = SwdHost(chip)
    assert host.word(OBR) & 2
    assert host.ack_of_read(FLASH + 0x100) is Ack.FAULT
    host.unlock()
    assert host.erase_page(FLASH) & WRPRTERR
    host.unlock_options()
    host.write(CR, OPTER | OPTWRE)
    host.write(CR, OPTER | OPTWRE | STRT)
    host.finish()
    assert chip.chip.flash[0x100:0x104] == b"key!"
    host.write(CR, OPTPG | OPTWRE)
    host.write(OPTIONS, 0xA5, 2)
    host.finish()
    assert chip.chip.flash[0x100:0x104] == b"\xff" * 4
    assert host.word(OBR) & 2, "until the next reset"
    reset(host)
    assert not host.word(OBR) & 2
    assert host.read(FLASH + 0x100) == b"\xff" * 4
    assert chip.flash.mass_erases == 1


def test_a_mass_erase_is_allowed_under_protection_and_changes_nothing_about_it() -> None:
    chip = Stm32F1(is_protected=True)
    chip.chip.flash[5] = 0
    host = opened(chip)
    host.write(CR, MER)
    host.write(CR, MER | STRT)
    host.finish()
    reset(host)
    assert chip.chip.flash[5] == 0xFF
    assert chip.flash.is_protected


def test_an_option_byte_without_its_complement_protects() -> None:
    chip = Stm32F1()
    chip.flash.options[1] = 0x00
    host = SwdHost(chip)
    reset(host)
    assert host.word(OBR) & 3 == 3, "an error, and read-protected"
    assert host.write(OPTKEYR, 0) is Ack.OK
    assert host.word(CR) & OPTWRE == 0
