"""The loader's bytes are what its source says."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ispd.flashing.stm32f1_loader import LOADER_CODE, LOADER_SOURCE

ASSEMBLER, CUTTER = "arm-none-eabi-as", "arm-none-eabi-objcopy"


@pytest.mark.skipif(shutil.which(ASSEMBLER) is None, reason="Debian's binutils-arm-none-eabi is not installed")
def test_the_source_assembles_to_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "loader.s").write_text(LOADER_SOURCE)
    for command in (
        (ASSEMBLER, "--fatal-warnings", "-o", "loader.o", "loader.s"),
        (CUTTER, "-O", "binary", "-j", ".text", "loader.o", "loader.bin"),
    ):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=30)
    assert (tmp_path / "loader.bin").read_bytes() == LOADER_CODE


def test_the_bytes_end_with_the_breakpoint_that_tells_their_end() -> None:
    assert len(LOADER_CODE) == 26
    assert LOADER_CODE[-2:] == bytes.fromhex("00BE"), "BKPT #0"
