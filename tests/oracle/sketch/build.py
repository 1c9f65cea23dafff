"""Obtains the ArduinoISP sketch, its core and Optiboot by Debian package name, and builds them and the Uno around them.

Nothing of those packages is kept in the repository: they are found where they are installed, or fetched with
``apt-get download`` and unpacked into the user's cache. Everything built is cached under a digest of its sources.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["MissingPackageError", "build_board_library", "build_sketch", "merge_bootloader"]

_SKETCH = "usr/share/doc/arduino/examples/11.ArduinoISP/ArduinoISP/ArduinoISP.ino"
_HARDWARE = "usr/share/arduino/hardware/arduino/avr"
_OPTIBOOT = f"{_HARDWARE}/bootloaders/optiboot/optiboot_atmega328.hex"

# platform.txt and boards.txt (uno) of arduino-core-avr 1.8.7
_COMMON_FLAGS = (
    *("-c", "-g", "-Os", "-w", "-ffunction-sections", "-fdata-sections", "-flto"),
    *("-mmcu=atmega328p", "-DF_CPU=16000000L", "-DARDUINO=10819", "-DARDUINO_AVR_UNO", "-DARDUINO_ARCH_AVR"),
)
_C_FLAGS = ("-std=gnu11", "-fno-fat-lto-objects")
_CPP_FLAGS = (
    *("-std=gnu++11", "-fpermissive", "-fno-exceptions", "-fno-threadsafe-statics", "-Wno-error=narrowing"),
    "-DDECIMAL_DIG=__DECIMAL_DIG__",  # the core is made for avr-gcc 7; version 5 hides this name from C++
)
_LINK_FLAGS = ("-w", "-Os", "-g", "-flto", "-fuse-linker-plugin", "-Wl,--gc-sections", "-mmcu=atmega328p")

_FLASH_BYTES = 0x8000
_BOOT_SECTION_BYTES = 512

_FUNCTION = re.compile(r"^((?:unsigned )?(?:void|char|int|uint8_t) \w+\([^;{]*\)) \{", re.MULTILINE)
_BAUD = re.compile(r"^#define BAUDRATE\s+19200$", re.MULTILINE)


class MissingPackageError(Exception):
    """A Debian package that the test needs is neither installed nor to be had."""

    def __init__(self, package: str, why: str) -> None:
        super().__init__(f"Debian package {package!r} is needed: {why.strip()}")


def build_sketch(*, baud: int = 19200) -> bytes:
    """Return the flash contents of ArduinoISP for an Uno.

    At 19200 the sketch is taken as it is shipped. Any other rate changes its one ``BAUDRATE`` line, as users do.
    """
    hardware = _package_file("arduino-core-avr", _HARDWARE)
    source = _package_file("arduino", _SKETCH).read_text()
    if baud != 19200:
        source, changed = _BAUD.subn(f"#define BAUDRATE {baud}", source)
        assert changed == 1
    source = _with_prototypes(source)
    core = sorted(path for path in (hardware / "cores/arduino").iterdir() if path.suffix in {".c", ".cpp", ".S"})
    parts = [*core, hardware / "libraries/SPI/src/SPI.cpp"]
    key = _digest(
        [
            source.encode(),
            *(part.read_bytes() for part in parts),
            repr((_COMMON_FLAGS, _C_FLAGS, _CPP_FLAGS, _LINK_FLAGS)).encode(),
        ]
    )
    built = _cache() / f"sketch-{key}.bin"
    if not built.exists():
        _compile_sketch(source, parts, hardware, built)
    return built.read_bytes()


def merge_bootloader(sketch: bytes) -> tuple[bytes, int]:
    """Return a whole Uno flash with Optiboot above the sketch, and the byte address where a reset starts.

    Debian 12 builds Optiboot with its own compiler and gets 532 bytes for a section of 512. The code has relative jumps
    only, so that it is put one section size lower here, where it fits, and is otherwise as shipped.
    """
    code: dict[int, bytes] = {}
    # read by hand: the oversized code runs into the version word, which strict readers refuse
    for line in _package_file("arduino-core-avr", _OPTIBOOT).read_text().split():
        record = bytes.fromhex(line[1:])
        is_version = record[:3] == b"\x02\x7f\xfe"
        if record[3] == 0 and not is_version:
            code[record[1] << 8 | record[2]] = record[4:-1]
    start = min(code)
    boot = b"".join(code[address] for address in sorted(code))
    while start + len(boot) > _FLASH_BYTES:
        start -= _BOOT_SECTION_BYTES
    flash = sketch.ljust(start, b"\xff") + boot
    return flash.ljust(_FLASH_BYTES, b"\xff"), start


def build_board_library() -> Path:
    """Compile board.c against libsimavr and return the shared object."""
    source = Path(__file__).with_name("board.c")
    header = Path("/usr/include/simavr/sim_avr.h")
    if not header.exists():
        raise MissingPackageError("libsimavr-dev", f"{header} is not there")
    built = _cache() / f"board-{_digest([source.read_bytes(), header.read_bytes()])}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=_cache()) as scratch:
            target = Path(scratch) / "board.so"
            _run(
                "gcc",
                ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"],
                "-o",
                target,
                source,
                "-lsimavr",
            )
            target.replace(built)
    return built


def _compile_sketch(source: str, parts: Sequence[Path], hardware: Path, built: Path) -> None:
    includes = [f"-I{hardware / folder}" for folder in ("cores/arduino", "variants/standard", "libraries/SPI/src")]
    with tempfile.TemporaryDirectory(dir=_cache()) as scratch:
        folder = Path(scratch)
        sketch = folder / "ArduinoISP.ino.cpp"
        sketch.write_text(source)
        objects = []
        for part in (sketch, *parts):
            target = folder / f"{part.name}.o"
            match part.suffix:
                case ".cpp":
                    compiler = ["avr-g++", *_COMMON_FLAGS, *_CPP_FLAGS]
                case ".c":
                    compiler = ["avr-gcc", *_COMMON_FLAGS, *_C_FLAGS]
                case _:
                    compiler = ["avr-gcc", *_COMMON_FLAGS, "-x", "assembler-with-cpp"]
            _run("gcc-avr", [*compiler, *includes], part, "-o", target)
            objects.append(target)
        # the core goes in as an archive, as the IDE does it: its main() and vectors only where they are needed
        archive = folder / "core.a"
        _run("gcc-avr", ["avr-gcc-ar", "rcs"], archive, *objects[1:])
        elf = folder / "sketch.elf"
        _run("gcc-avr", ["avr-gcc", *_LINK_FLAGS], "-o", elf, objects[0], archive, "-lm")
        flat = folder / "sketch.bin"
        _run("binutils-avr", ["avr-objcopy", "-O", "binary", "-R", ".eeprom"], elf, flat)
        flat.replace(built)


def _with_prototypes(source: str) -> str:
    """Do what the IDE does to a sketch: include Arduino.h and declare its functions before the first of them."""
    found = list(_FUNCTION.finditer(source))
    prototypes = "".join(f"{match[1]};\n" for match in found)
    first = found[0].start()
    return f"#include <Arduino.h>\n{source[:first]}{prototypes}{source[first:]}"


def _package_file(package: str, path: str) -> Path:
    installed = Path("/") / path
    if installed.exists():
        return installed
    unpacked = _cache() / f"package-{package}"
    if not (unpacked / path).exists():
        _download(package, unpacked)
    if not (unpacked / path).exists():
        raise MissingPackageError(package, f"it holds no {path}")
    return unpacked / path


def _download(package: str, unpacked: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_cache()) as scratch:
        _run(package, ["apt-get", "download", "-q"], package, cwd=Path(scratch))
        archive = next(Path(scratch).glob("*.deb"), None)
        if archive is None:
            raise MissingPackageError(package, "apt-get download brought no file")
        tree = Path(scratch) / "tree"
        _run(package, ["dpkg", "-x"], archive, tree)
        shutil.rmtree(unpacked, ignore_errors=True)
        tree.replace(unpacked)


def _run(package: str, command: Sequence[str], *arguments: str | Path, cwd: Path | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise MissingPackageError(package, f"{command[0]} is not there")
    line = [*command, *(str(argument) for argument in arguments)]
    result = subprocess.run(line, capture_output=True, text=True, cwd=cwd, check=False, timeout=120)
    if result.returncode != 0:
        raise MissingPackageError(package, f"{' '.join(line)} failed:\n{result.stderr}")


def _cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "ispd-oracle"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(hashlib.sha256(piece).digest())
    return digest.hexdigest()[:16]
