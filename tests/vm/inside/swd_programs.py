"""st-info, st-flash and OpenOCD as they come from Debian, called as the QMK ISP guide calls them."""

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["GUIDE", "missing", "refuse_write", "st_info", "unlock", "verify", "write"]

GUIDE = {
    "version": "V2J37S7",
    "serial": "2C1219002B135937334D4E00",
    "flash": "65536 (pagesize: 1024)",
    "sram": "20480",
    "chipid": "0x0410",
    "descr": "F1xx Medium-density",
}
"""What the guide shows of ``st-info --probe``."""
_OPENOCD = ("openocd", "-f", "interface/stlink.cfg", "-f", "target/stm32f1x.cfg", "-c")
_ST_FLASH = ("st-flash", "--reset", "--format", "binary")
_BASE = "0x08000000"
_DEADLINE_S = 120.0


def missing() -> list[str]:
    """Return Debian's packages that are not installed."""
    return [
        package for tool, package in (("st-flash", "stlink-tools"), ("openocd", "openocd")) if not shutil.which(tool)
    ]


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_DEADLINE_S)


def st_info() -> dict[str, str]:
    """Return the fields of ``st-info --probe``."""
    return dict(re.findall(r"^ +(\w+): +(.*)$", _run("st-info", "--probe").stdout, re.MULTILINE))


def refuse_write(file: Path) -> None:
    """Let st-flash write to a read-protected board, and see that it refuses as the guide says."""
    done = _run(*_ST_FLASH, "write", str(file), _BASE)
    assert (done.returncode != 0, "Unknown memory region" in done.stdout) == (True, True), done.stderr


def write(file: Path) -> None:
    """Write with st-flash, and let OpenOCD write the same over it and verify it."""
    done = _run(*_ST_FLASH, "write", str(file), _BASE)
    assert "Flash written and verified! jolly good!" in done.stderr, done.stderr
    done = _run(*_OPENOCD, f"program {file} {_BASE} verify reset exit")
    assert "** Verified OK **" in done.stderr, done.stderr


def unlock() -> None:
    """Remove read protection with OpenOCD, as the guide does."""
    done = _run(*_OPENOCD, "init; reset halt; stm32f1x unlock 0; reset halt; exit")
    assert done.returncode == 0, done.stderr


def verify(file: Path, back: Path) -> None:
    """Compare flash with a file by OpenOCD, and read all of its 64 KiB into another by st-flash."""
    done = _run(*_OPENOCD, f"init; reset halt; verify_image {file} {_BASE} bin; reset run; exit")
    assert done.returncode == 0, done.stderr
    done = _run("st-flash", "read", str(back), _BASE, "0x10000")
    assert done.returncode == 0, done.stderr
