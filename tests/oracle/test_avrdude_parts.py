"""The part files say what an unmodified avrdude knows about the same parts, or say why not."""

import shutil
import subprocess

import pytest

from ispd.catalog.parts import load_parts
from ispd.model.part import AvrPart, MemoryKind

pytestmark = pytest.mark.oracle

PARTS = load_parts().of(AvrPart)

Table = dict[tuple[str, str, str], str]
"""(avrdude id, memory or "part", key) to value."""


@pytest.fixture(scope="module")
def known() -> Table:
    """Everything ``avrdude -p '*/At'`` prints: one line per part, memory and key, by the part's id."""
    tool = shutil.which("avrdude")
    if tool is None:
        pytest.fail("avrdude is not installed: apt-get install avrdude")
    text = subprocess.run([tool, "-p", "*/At"], capture_output=True, text=True, check=True, timeout=60).stdout
    rows = [line.split("\t") for line in text.splitlines()]
    ids = {row[1]: row[3].strip('"') for row in rows if row[0] == ".pt" and row[2] == "id"}
    table = {(ids[row[1]], "part", row[2]): row[3] for row in rows if row[0] == ".pt" and row[1] in ids}
    wide = [row for row in rows if row[0] in (".ptmm", ".ptmmop") and len(row) > 4]
    return table | {(ids[row[1]], row[2], row[3]): row[4] for row in wide if row[1] in ids}


def number(table: Table, part: AvrPart, memory: str, key: str) -> int:
    return int(table[part.avrdude_id, memory, key], 0)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.id)
def test_identity_and_memories(known, part):
    assert known[part.avrdude_id, "part", "desc"].strip('"') == part.name
    signature = bytes(int(byte, 0) for byte in known[part.avrdude_id, "part", "signature"].split())
    assert signature == part.signature.value
    assert number(known, part, "part", "stk500_devcode") == part.stk500_code
    for kind in (MemoryKind.FLASH, MemoryKind.EEPROM):
        memory = part.memory(kind)
        assert number(known, part, kind, "size") == memory.size_bytes
        assert number(known, part, kind, "page_size") == memory.page_bytes
    fuses = {fuse.memory for fuse in part.fuses}
    assert fuses == {
        k for k in (MemoryKind.LFUSE, MemoryKind.HFUSE, MemoryKind.EFUSE) if (part.avrdude_id, k, "size") in known
    }
    if part.boot is not None:
        assert number(known, part, "part", "boot_section_size") == part.boot.min_bytes
    assert number(known, part, "part", "n_boot_sections") == (0 if part.boot is None else 4)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.id)
def test_waits_are_never_shorter(known, part):
    """A wait may be longer where the data sheet asks for more than avrdude takes (erase of the tiny parts)."""
    for seconds, memory, key in (
        (part.times.flash_s, "flash", "min_write_delay"),
        (part.times.eeprom_s, "eeprom", "min_write_delay"),
        (part.times.fuse_s, "lfuse", "min_write_delay"),
        (part.times.erase_s, "part", "chip_erase_delay"),
    ):
        assert round(seconds * 1e6) >= number(known, part, memory, key), (part.id, memory)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.id)
def test_extended_addresses_where_avrdude_sends_them(known, part):
    operation = known.get((part.avrdude_id, "flash", "load_ext_addr"), "NULL")
    assert operation.startswith("0100.1101") == part.needs_extended_address
