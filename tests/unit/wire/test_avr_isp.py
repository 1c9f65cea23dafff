"""The instruction set, against the data sheets' table."""

import pytest

from ispd.errors import LocalProtocolError
from ispd.model.part import MemoryKind
from ispd.wire import avr_isp
from ispd.wire.avr_isp import ByteAddress, WordAddress

W = WordAddress(0x12C5)
B = ByteAddress(0x03A6)

TABLE = [
    (avr_isp.program_enable(), "AC 53 00 00", False),
    (avr_isp.chip_erase(), "AC 80 00 00", True),
    (avr_isp.poll_ready(), "F0 00 00 00", False),
    (avr_isp.load_extended_address(1), "4D 00 01 00", False),
    (avr_isp.read_flash(W, high=False), "20 12 C5 00", False),
    (avr_isp.read_flash(W, high=True), "28 12 C5 00", False),
    (avr_isp.load_flash_page(W, 0x5A, high=False), "40 00 C5 5A", True),
    (avr_isp.load_flash_page(W, 0x5A, high=True), "48 00 C5 5A", True),
    (avr_isp.write_flash_page(W), "4C 12 C5 00", True),
    (avr_isp.read_eeprom(B), "A0 03 A6 00", False),
    (avr_isp.write_eeprom(B, 0x77), "C0 03 A6 77", True),
    (avr_isp.load_eeprom_page(B, 0x77), "C1 00 A6 77", True),
    (avr_isp.write_eeprom_page(B), "C2 03 A6 00", True),
    (avr_isp.read_fuse(MemoryKind.LFUSE), "50 00 00 00", False),
    (avr_isp.read_fuse(MemoryKind.HFUSE), "58 08 00 00", False),
    (avr_isp.read_fuse(MemoryKind.EFUSE), "50 08 00 00", False),
    (avr_isp.write_fuse(MemoryKind.LFUSE, 0x5E), "AC A0 00 5E", True),
    (avr_isp.write_fuse(MemoryKind.HFUSE, 0x00), "AC A8 00 00", True),
    (avr_isp.write_fuse(MemoryKind.EFUSE, 0xF3), "AC A4 00 F3", True),
    (avr_isp.read_lock(), "58 00 00 00", False),
    (avr_isp.write_lock(0x2F), "AC E0 00 EF", True),
    (avr_isp.read_signature(2), "30 00 02 00", False),
    (avr_isp.read_calibration(), "38 00 00 00", False),
]


@pytest.mark.parametrize(("instruction", "expected", "is_write"), TABLE)
def test_instruction(instruction: bytes, expected: str, is_write: bool) -> None:
    assert instruction == bytes.fromhex(expected)
    assert avr_isp.is_write(instruction) is is_write


def test_addresses_beyond_16_bits_are_split_not_truncated_silently() -> None:
    word = avr_isp.word_address(ByteAddress(0x2_0102))
    assert word == 0x1_0081
    assert avr_isp.extended_address(word) == 1
    assert avr_isp.write_flash_page(word) == bytes.fromhex("4C008100")
    with pytest.raises(LocalProtocolError):
        avr_isp.word_address(ByteAddress(3))


def test_only_bit_0_means_busy_and_only_fuses_are_fuses() -> None:
    assert [avr_isp.is_busy(reply) for reply in (0x00, 0x01, 0xFE, 0xFF)] == [False, True, False, True]
    with pytest.raises(LocalProtocolError):
        avr_isp.read_fuse(MemoryKind.LOCK)
    with pytest.raises(LocalProtocolError):
        avr_isp.write_fuse(MemoryKind.FLASH, 0)
