"""ST-Links and boards with an STM32 in bench files: what is made of them, the example, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError
from ispd.model.part import Interface, MemoryKind
from vbench.benchfile import read_bench
from vbench.board_table import BoardState, BoardTable
from vbench.hardware import open_bench
from vbench.stlink import StLink
from vbench.stm32_board import Stm32Board
from vbench.stm32_models import Clone
from vbench.swd import SwdWiring
from vbench.virtual_time import virtual

EXAMPLES = Path(__file__).parents[3] / "config" / "examples"
ENTER = bytes.fromhex("F230A3").ljust(16, b"\0")
LOADER = "1EAF:0003"


def says(probe: StLink, command: bytes, length: int, at: float) -> bytes:
    probe.bulk_out(probe.firmware.out_endpoint, command, at)
    reply = probe.bulk_in(0x81, length, at)
    assert reply is not None
    return reply.data


@virtual
async def test_the_example_bench() -> None:
    async with open_bench(EXAMPLES / "bench_stlink.toml") as bench:
        await bench.sleep(3)
        probes = [probe for probe in map(bench.programmer, bench.names) if isinstance(probe, StLink)]
        assert [probe.firmware.product_id for probe in probes] == [0x3748, 0x3748, 0x374B, 0x374F, *[0x3748] * 4]
        assert [len(probe.usb.serial or "") for probe in probes] == [24, 12, *[24] * 6]
        found = [says(probe, ENTER, 2, bench.now())[0] == 0x80 for probe in probes]
        assert found == [True, True, False, True, True, False, True, False]
        chips = [bench.chip(name) for name in bench.names[:7]]
        held = [chip for chip in chips if chip is not None]
        assert len({chip.uid for chip in held}) == 7
        assert [len(chip.chip.flash) // 1024 for chip in held] == [64, 128, 64, 256, 64, 64, 64]
        assert [chip.flash.is_protected for chip in held] == [False] * 4 + [True] + [False] * 2
        assert held[1].model.size_kib == 64
        assert held[3].model.idcode & 0xFFF == 0x414
        devices = {device.path: str(device.usb) for device in bench.devices() if device.path.startswith("1-2")}
        assert devices == {"1-2.3": "FEED:0001", "1-2.5": "FEED:0002", "1-2.7": "FEED:0003"}
        await bench.sleep(28)
        assert {device.path: str(device.usb) for device in bench.devices()}["1-2.8"] == LOADER
        assert says(probes[7], ENTER, 2, bench.now())[0] == 0x09, "too fast for its wires"
        assert says(probes[7], bytes.fromhex("F2430700").ljust(16, b"\0"), 2, bench.now())[0] == 0x80
        assert says(probes[7], ENTER, 2, bench.now())[0] == 0x80


@virtual
async def test_boards_come_and_go_by_events(tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text(
        """
        [[programmer]]
        name = "S"
        kind = "stlink"
        path = "1-1"
        board_usb = "1-2"
        board = { part = "stm32f103", state = "bootloader" }

        [[event]]
        at = 2.0
        remove = "S"

        [[event]]
        at = 4.0
        insert = "S"
        board = { part = "stm32f103", state = "flashed", firmware_usb = "FEED:0009" }

        [[event]]
        at = 10.0
        press = "S"
        """
    )
    async with open_bench(tmp_path / "bench.toml") as bench:
        shown, uids = [], []
        for wait_s in (1, 2, 4, 4, 2):
            await bench.sleep(wait_s)
            shown.append(next((str(device.usb) for device in bench.devices() if device.path == "1-2"), None))
            chip = bench.chip("S")
            uids.append(None if chip is None else chip.uid)
        assert shown == [LOADER, None, "FEED:0009", LOADER, "FEED:0009"]
        assert uids[1] is None
        assert len(set(uids)) == 3


def make(parts: Parts, **options: Any) -> Stm32Board:
    board = BoardTable(**{"part": "bluepill", **options}).build_board(parts, load_bootloaders(parts), name="S")
    assert isinstance(board, Stm32Board)
    return board


def test_what_a_table_makes(parts: Parts) -> None:
    used = make(parts, state=BoardState.USED, fuses={MemoryKind.USER: 0xFB, MemoryKind.WRP0: 0xFE}, supply_mv=2900)
    assert used.chip.flash[:0xC000].rstrip(b"\xff") != b""
    assert used.chip.flash[0xC000:] == b"\xff" * 0x4000
    assert used.swd.flash.options == bytes.fromhex("A55A FB04 FF00 FF00 FE01 FF00 FF00 FF00")
    locked = make(parts, state=BoardState.LOCKED)
    assert locked.swd.flash.is_protected
    assert locked.chip.flash[:8] != b"\xff" * 8
    assert not make(parts, state=BoardState.LOCKED, lock=0xA5).swd.flash.is_protected
    assert make(parts, lock=0x42).swd.flash.is_protected
    assert make(parts, clone=Clone.CS32).swd.model.dpidr == 0x2BA0_1477
    assert make(parts, clone=Clone.GD32).swd.model.idcode == 0x1303_6410 & 0xFFFF_0FFF
    assert make(parts, flash_kib=128, size_kib=64).swd.program == range(0x0800_0000, 0x0802_0000)
    assert make(parts, unique_id="00112233445566778899AABB").swd.uid.hex() == "00112233445566778899aabb"
    assert make(parts).swd.uid != make(parts, seed=1).swd.uid
    assert BoardTable(part="stm32f107vc").interface(parts) is Interface.SWD
    assert make(parts, part="stm32f107vc").chip.page_bytes == 2048


def test_how_a_probe_is_wired(tmp_path: Path, parts: Parts) -> None:
    text = 'name = "S"\nkind = "stlink"\nswapped = true\nhas_nrst = true\nsupplies = false\nmeasures = false'
    (tmp_path / "bench.toml").write_text(f"[[programmer]]\n{text}\nfirmware = 'V1'")
    (table,) = read_bench(tmp_path / "bench.toml", parts).programmer
    probe = table.build(parts)
    assert isinstance(probe, StLink)
    assert probe.firmware.generation == 1
    assert probe.socket.wiring == SwdWiring(swapped=True, has_nrst=True, supplies=False, measures=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "stlink"\nboard = { part = "atmega32u4" }', "programmer S: a stlink speaks SWD"),
        ('kind = "stlink"\nboard = { part = "stm32f303" }', "stm32f303 has no header"),
        ('kind = "usbasp"\nboard = { part = "bluepill" }', "bluepill is programmed by SWD"),
        ('kind = "usbasp"\n[[event]]\nat = 1.0\ninsert = "S"\nboard = { part = "bluepill" }', "bluepill is programmed by SWD"),
        ('kind = "stlink"\nfirmware = "2.37.7"', "'2.37.7' is no release"),
        ('kind = "stlink"\nflavour = "uno"', "a stlink has no flavour"),
        ('kind = "usbasp"\nswapped = true', "a usbasp has no swapped"),
        ('kind = "stlink"\nboard = { part = "stm32f999" }', "stm32f999"),
        ('kind = "stlink"\nboard = { part = "bluepill", crystal_hz = 8e6 }', "bluepill has no crystal_hz"),
        ('kind = "usbasp"\nboard = { part = "atmega32u4", habit = "sleeps" }', "atmega32u4 has no habit"),
        ('kind = "stlink"\nboard = { part = "bluepill", habit = "sleeps" }', "no firmware"),
        ('kind = "stlink"\nboard = { part = "bluepill", fuses = { lfuse = 0x5E } }', "no lfuse"),
        ('kind = "stlink"\nboard = { part = "bluepill", fuses = { user = 0x100 } }', "option byte"),
        ('kind = "stlink"\nboard = { part = "bluepill", flash_kib = 256 }', "up to 128 KiB"),
        ('kind = "stlink"\nboard = { part = "bluepill", loader = "atmel-dfu-32u4" }', "not atmel-dfu-32u4"),
        ('kind = "stlink"\nboard = { part = "bluepill", fault = [{ kind = "silent" }] }', "ap-wait"),
        ('kind = "stlink"\nboard = { part = "bluepill", unique_id = "12" }', "unique_id"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, parts: Parts, text: str, says: str) -> None:
    (tmp_path / "bench.toml").write_text(f'[[programmer]]\nname = "S"\n{text}')
    with pytest.raises(ConfigError, match="bench file") as refused:
        read_bench(tmp_path / "bench.toml", parts)
    assert says in str(refused.value)
