"""A workstation's own parts and bootloaders: in the catalog of the running daemon, or the daemon says what is wrong and ends."""

from importlib.resources import files
from pathlib import Path

import pytest
from tests.bench.live_daemon import LiveDaemon

pytestmark = pytest.mark.anyio

PART = (files("ispd.catalog") / "parts" / "atmega32u4.toml").read_text()
OWN_PART = PART.replace("ATmega32U4", "ATmega32X4").replace('"m32u4"', '"m32x4"').replace("0x1E9587", "0x1E95FE")
OWN_BOOTLOADER = """
family = "flip"
qmk = "atmel-dfu"
title = "Our own DFU: ATmega32X4"
parts = ["atmega32x4"]
usb = ["1209:0001"]
section_start = 0x7000
section_bytes = 4096
lock = 0x2F
[fuses]
lfuse = 0x5E
hfuse = 0xD9
efuse = 0xF3
"""


def daemon_with(folder: Path, part: str, bootloader: str) -> LiveDaemon:
    for kind, name, text in (("parts.d", "atmega32x4", part), ("bootloaders.d", "our-dfu", bootloader)):
        (folder / kind).mkdir()
        (folder / kind / f"{name}.toml").write_text(text)
    daemon = LiveDaemon(folder, {})
    with daemon.config.open("a") as config:
        config.write('[catalog]\nparts = "parts.d"\nbootloaders = "bootloaders.d"\n')
    return daemon


async def test_they_are_there_beside_the_shipped_ones(tmp_path: Path):
    daemon = daemon_with(tmp_path, OWN_PART, OWN_BOOTLOADER)
    await daemon.start()
    try:
        parts = {part["id"] for part in await daemon.call("part.list")}
        assert {"atmega32x4", "atmega32u4"} <= parts
        explained = await daemon.call("part.get", id="m32x4", bootloader="atmel-dfu")
        assert (explained["fuses"]["preset"], explained["fuses"]["bytes"][-1]["value"]) == ("our-dfu", 0x2F)
        assert (await daemon.call("part.get", id="m32u4", bootloader="atmel-dfu"))["fuses"][
            "preset"
        ] == "atmel-dfu-32u4"
    finally:
        assert await daemon.stop() == 0


@pytest.mark.parametrize(
    ("part", "bootloader", "told"),
    [
        (OWN_PART.replace("ocden = 0x80", "ocden = 0xC0"), OWN_BOOTLOADER, "parts/atmega32x4.toml: fuse bits: ocden"),
        (
            OWN_PART,
            OWN_BOOTLOADER.replace("hfuse = 0xD9", "hfuse = 0xF9"),
            "our-dfu.toml: presets: hfuse 0xF9 shuts out ISP",
        ),
    ],
)
async def test_a_wrong_one_stops_the_start(tmp_path: Path, part: str, bootloader: str, told: str):
    daemon = daemon_with(tmp_path, part, bootloader)
    await daemon.start()
    assert await daemon.wait() != 0
    assert told in daemon.log()
    assert not daemon.socket.exists()
