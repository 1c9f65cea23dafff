"""Boards in bench files: states, loaders, ports, faults of the USB side, and what is refused."""

from pathlib import Path

import pytest

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.imagefile import read_image
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError
from ispd.model.part import MemoryKind
from vbench.benchfile import read_bench
from vbench.board import Board
from vbench.board_table import BoardState, BoardTable
from vbench.hardware import open_bench
from vbench.target import AvrTarget
from vbench.virtual_time import virtual

EXAMPLES = Path(__file__).parents[3] / "config" / "examples"


@virtual
async def test_the_example_bench() -> None:
    async with open_bench(EXAMPLES / "bench_usb.toml") as bench:
        assert bench.tools == {"dfu-programmer": "0.6.1"}
        await bench.sleep(1)
        assert {device.path: str(device.usb) for device in bench.devices() if device.path.startswith("1-2")} == {
            "1-2.8": "03EB:2FF4",
            "1-2.9": "FEED:0001",
        }
        first = bench.board("usb-1")
        assert first is not None
        assert first.target is not None
        assert first.target.fuses[MemoryKind.LFUSE] == 0x5E
        await bench.sleep(20)
        pressed = await bench.device_at("1-2.9")
        assert pressed is not None
        assert str(pressed.usb) == "03EB:2FF4"
        await bench.sleep(40)
        assert await bench.device_at("1-2.8") is None
        await bench.sleep(2)
        assert await bench.device_at("1-2.8") is not None
        assert bench.board("usb-1") is not first
        assert isinstance(bench.board("usbasp-2"), Board)


@virtual
async def test_images_of_others_are_what_the_board_is_said_to_have(tmp_path: Path) -> None:
    """The example keyboard carries no marker: its boot section is the declared loader, its firmware runs as some firmware."""
    (tmp_path / "bench.toml").write_text(
        """
        [[port]]
        name = "B"
        path = "1-2"
        board = { part = "atmega32u4", loader = "caterina-leonardo", fuses = { lfuse = 0xFF, hfuse = 0xD8, efuse = 0xFB } }
        """
    )
    async with open_bench(tmp_path / "bench.toml") as bench:
        board = bench.board("B")
        assert board is not None
        assert board.target is not None
        flash(board.target, EXAMPLES / "firmware" / "board.hex")
        told = []
        for _ in range(2):
            board.target.set_reset(True, bench.now())
            board.target.set_reset(False, bench.now())
            await bench.sleep(1)
            told.append(await bench.device_at("1-2"))
            await bench.sleep(8)
            told.append(await bench.device_at("1-2"))
        assert [str(device.usb) for device in told if device] == ["2341:0036", "FEED:0000"] * 2


def flash(target: AvrTarget, file: Path) -> None:
    image = read_image(file.name, file.read_bytes()).image
    for segment in image.segments:
        target.flash[segment.start : segment.span.stop] = segment.data


def test_states_and_faults(parts: Parts) -> None:
    bootloaders = load_bootloaders(parts)
    table = BoardTable(
        part="atmega32u4",
        state=BoardState.FLASHED,
        loader="caterina-promicro16",
        fault=[{"kind": "erase-leaves", "residue": "0c94"}, {"kind": "silent"}],
    )
    board = table.build_board(parts, bootloaders)
    assert board.target is not None
    assert board.target.lock == 0x2F
    assert board.target.fuses[MemoryKind.HFUSE] == 0xD8
    assert board.target.flash[:2] != b"\xff\xff"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[[port]]\nname = "B"\npath = "1-2"\nboard = { part = "atmega32u4", state = "bootloader" }',
            "name its loader",
        ),
        ('[[port]]\nname = "B"\npath = "1-2"\nboard = { part = "atmega32u4", loader = "catarina" }', "catarina"),
        ('[[port]]\nname = "B"\npath = "1-2"\nboard = { part = "atmega32u4", loader = "lufa-ms" }', "cannot show"),
        ('[[port]]\nname = "B"\npath = "1-2"\nboard = { part = "m32u4", fault = [{ kind = "vanish" }] }', "vanishes"),
        ('[[port]]\nname = "B"\n', "path"),
        ('[[port]]\nname = "B"\npath = "1-2"\n[[event]]\nat = 1.0\npress = "B"\nremove = "B"', "exactly one"),
        ('[[port]]\nname = "B"\npath = "1-2"\n[[programmer]]\nname = "B"', "called B"),
        ('[[port]]\nname = "B"\npath = "1-2"\n[[programmer]]\nname = "P"\nboard_usb = "1-2"', "path 1-2"),
        ('[[programmer]]\nname = "P"\npath = "1-1"\nboard_usb = "1-1"', "path 1-1"),
        ('[[port]]\nname = "B"\npath = "1-2"\n[[event]]\nat = 1.0\nunplug = "B"', "insert and remove"),
        ('[tools]\ndfu-programmer = "9.9"', "9.9"),
        ('[tools]\nflipper = ""', "flipper"),
    ],
)
def test_what_is_refused(tmp_path: Path, parts: Parts, text: str, says: str) -> None:
    (tmp_path / "bench.toml").write_text(text)
    with pytest.raises(ConfigError, match="bench file") as refused:
        read_bench(tmp_path / "bench.toml", parts)
    assert says in str(refused.value)
