"""Option bytes, protection and ids of an STM32F1."""

from hypothesis import given
from hypothesis import strategies as st

from ispd.wire.stm32f1 import (
    OPTION_SPAN,
    OptionBytes,
    clone_maker,
    device_id,
    is_read_protected,
    protected_pages,
    revision_words,
)

OPEN = "A5 5A FF 00 FF 00 FF 00 FF 00 FF 00 FF 00 FF 00"
BYTE = st.integers(0, 255)


def test_an_open_chips_option_bytes_are_those_of_the_factory() -> None:
    assert OptionBytes().encode() == bytes.fromhex(OPEN)
    assert len(OptionBytes().encode()) == len(OPTION_SPAN)
    # OBR of such a chip reads 03FFFFFC, WRPR all ones (PM0075)
    assert OptionBytes.of_registers(0x03FF_FFFC, 0xFFFF_FFFF) == OptionBytes()


def test_registers_tell_each_byte() -> None:
    obr = 0x02 | 0b101 << 2 | 0x12 << 10 | 0x34 << 18
    assert is_read_protected(obr)
    assert OptionBytes.of_registers(obr, 0x8765_4321) == OptionBytes(
        rdp=0x00, user=0xFD, data=(0x12, 0x34), wrp=(0x21, 0x43, 0x65, 0x87)
    )
    assert not is_read_protected(obr & ~0x02)


@given(rdp=BYTE, user=BYTE, data=st.tuples(BYTE, BYTE), wrp=st.tuples(BYTE, BYTE, BYTE, BYTE))
def test_each_byte_lies_beside_its_complement_and_opening_keeps_the_rest(
    rdp: int, user: int, data: tuple[int, int], wrp: tuple[int, int, int, int]
) -> None:
    options = OptionBytes(rdp=rdp, user=user, data=data, wrp=wrp)
    cells = options.encode()
    assert cells[::2] == bytes((rdp, user, *data, *wrp))
    assert all(first ^ second == 0xFF for first, second in zip(cells[::2], cells[1::2], strict=True))
    opened = options.opened()
    assert opened == OptionBytes(user=user, data=data)
    # only A5 opens, and what the registers cannot tell is not compared
    shown = options.as_registers()
    assert (shown.rdp == 0xA5) == (rdp == 0xA5)
    assert (shown.user & 7, shown.data, shown.wrp) == (user & 7, data, wrp)


def test_a_bit_protects_four_kib_and_the_last_all_that_follow() -> None:
    pages = tuple(range(128))
    assert protected_pages(0xFFFF_FFFF, pages, 1024) == ()
    assert protected_pages(0xFFFF_FFFE, pages, 1024) == (0, 1, 2, 3)
    assert protected_pages(0xFFFF_FFFD, pages, 2048) == (2, 3)
    assert protected_pages(0x7FFF_FFFF, (0, 123, 124, 127), 1024) == (124, 127)
    assert protected_pages(0x7FFF_FFFF, (61, 62, 255), 2048) == (62, 255)
    assert protected_pages(0, (5,), 1024) == (5,)


def test_revisions_and_clones_by_id() -> None:
    words = [revision_words(revision << 16 | 0x6410) for revision in (0x0000, 0x2000, 0x2001, 0x2003, 0x1303)]
    assert words == ["revision A", "revision B", "revision Z", "revision Y", "revision 0x1303"]
    assert revision_words(0x1003_0414) == "revision Y"
    assert device_id(0x2003_6410) == b"\x04\x10"
    assert clone_maker(0x2003_6410, 0x1BA0_1477) is None
    assert clone_maker(0x2003_6410, 0x2BA0_1477) == "CKS32 or CS32"
    assert [clone_maker(revision << 16 | 0x410) for revision in (0x0000, 0x2000, 0x2001, 0x2003)] == [None] * 4
    assert all(clone_maker(revision << 16 | 0x410) for revision in (0x1303, 0x1704, 0x1906, 0x1909))
