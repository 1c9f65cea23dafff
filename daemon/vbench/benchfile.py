"""Bench files: a workstation described in TOML. Strict: unknown keys, names and parts are refused before anything runs.

::

    time_scale = 2.0                       # bench seconds per real second; the daemon tells a slow USBasp by its own clock,
                                           # so benches far from 1 make it misjudge targets below 1 MHz

    [[programmer]]
    name = "P1"                            # how events name it, and its port where it is a tty
    flavour = "uno"                        # uart | uno | leonardo | teensyduino
    baud = 19200
    path = "1-1.1"                         # USB topology path; slots in ispd.toml name it: port = "usb:1-1.1"
    board_usb = "1-2.1"                    # where its board's own USB cable goes: its bootloader and firmware show up there
    fault = [{ kind = "power-loss", bytes = 20000 }]
    [programmer.board]                     # what sits on it at the start; leave out for an empty socket
    part = "atmega32u4"
    state = "used"                         # blank | used (another firmware in it) | locked (the same, lock bits set) |
                                           # bootloader (its loader is in it, with its fuses) | flashed (and a firmware)
    fuses = { lfuse = 0x5E }
    loader = "atmel-dfu-32u4"              # what a bootloader without the bench's marker is; also what state puts into it
    hwb_low = true                         # the HWB pin: a reset enters the bootloader where HWBE is programmed
    fault = [{ kind = "stuck-bits", memory = "flash", address = 0x1234, mask = 0x01, level = 1 }]

    [[programmer]]
    name = "P2"
    kind = "usbasp"                        # stk500v1 (the default) | usbasp | usbtiny | buspirate | usbasp-loader | stlink
    path = "1-1.2"
    firmware = "stock-2007"                # stock-2005 .. stock-2011 | nerdralph | dioannidis | usbasp-flash
    manufacturer = "Clone"                 # texts of a clone: also product, serial
    slow_jumper = true                     # also buffer_bytes; for all USB kinds tau_s
    [programmer.board]
    part = "atmega328p"

    [[programmer]]
    name = "P3"
    kind = "usbtiny"
    model = "arduino-isp"                  # usbtinyisp | usbtiny-spi | little-wire | arduino-isp | arduino-org-isp
    stretch = 1.0                          # how much polls of the host slow it down; 2.2 where not given

    [[programmer]]
    name = "P4"
    kind = "buspirate"
    hardware = "v4"                        # v3 | v4
    firmware = "7.1"                       # 5.2 | 5.10 | 6.1 | 6.3-r2151 | 7.0 | 7.1-2018 | 7.1 | 7.1-2024 | 8.0
    own_supply = true                      # the board does not depend on the Bus Pirate's; also aux_on_xtal1, latency_s

    [[programmer]]
    name = "K1"
    kind = "usbasp-loader"                 # a keyboard in its bootloader that looks like a USBasp
    part = "atmega32a"

    [[programmer]]
    name = "S1"
    kind = "stlink"
    path = "1-1.3"
    board_usb = "1-2.3"
    firmware = "V2J37S7"                   # V2J17S4 .. (a dongle), V2J40M27 (M: a V2-1 on a Nucleo), V3J10M3, V1
    serial = "2C1219002B135937334D4E00"    # or serial_bytes = "52FF6C06..": old firmware, that many characters of one byte each
    swapped = false                        # SWDIO and SWCLK exchanged
    has_nrst = true                        # the reset wire is there; false by default, as on most Bluepills
    supplies = true                        # 3.3 V is wired; measures = false: the dongle cannot measure the board's supply
    [programmer.board]
    part = "bluepill"                      # any STM32F1 of the catalog, by any of its names
    state = "locked"                       # blank | used | locked (a firmware, and read protection) | bootloader (STM32duino) | flashed
    fuses = { user = 0xFF, wrp0 = 0xFE }   # option bytes; lock = 0xA5 is RDP open
    flash_kib = 64                         # also size_kib: what its size register says; clone = "gd32" | "cs32" | "apm32"
    habit = "swd-off"                      # of its firmware: swd-off | sleeps; then only connecting under reset works
    fault = [{ kind = "lost-page", address = 0x1000 }]
                                           # stuck-bits | busy-forever | slow-writes | lost-page | goes-silent | sck-ceiling |
                                           # read-flips | ap-wait; of its USB side: vanishes | stalls | wrong-identity | never-enumerates
                                           # also unique_id (one of its own by name and seed), fixed_pull_up

    [[port]]                               # a USB port for boards that are on no programmer
    name = "B1"
    path = "1-2.9"
    [port.board]
    part = "atmega32u4"
    state = "bootloader"
    loader = "caterina-promicro16"
    fault = [{ kind = "vanishes", transfer = 500 }]  # of a board's USB side: erase-leaves | vanishes | stalls | wrong-identity | never-enumerates

    [tools]                                # outside programs: the version, "" for one that is not installed
    dfu-programmer = "0.7.2"

    [[event]]
    at = 12.0                              # bench seconds after the start
    unplug = "P1"                          # or plug, remove; insert together with a board table; press: a board's reset button
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, ErrorCode
from vbench.board_table import BoardState, BoardTable
from vbench.programmer_table import ProgrammerKind, ProgrammerTable
from vbench.tools import check_versions

__all__ = [
    "BenchFile",
    "BoardState",
    "BoardTable",
    "EventTable",
    "PortTable",
    "ProgrammerKind",
    "ProgrammerTable",
    "read_bench",
]


class PortTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A port for boards that are on no programmer. ``refusal`` is why what shows up there cannot be opened."""

    name: str
    path: str
    refusal: ErrorCode | None = None
    board: BoardTable | None = None


class EventTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that happens ``at`` bench seconds: exactly one of the five verbs, naming a programmer; a port cannot be plugged.

    ``press`` is the reset button of the board that is there.
    """

    at: float
    plug: str | None = None
    unplug: str | None = None
    remove: str | None = None
    press: str | None = None
    insert: str | None = None
    board: BoardTable | None = None

    @property
    def subject(self) -> str:
        """Name of the programmer it happens to."""
        return self.named[0]

    @property
    def named(self) -> list[str]:
        """What each of its verbs names."""
        verbs = (self.plug, self.unplug, self.remove, self.press, self.insert)
        return [name for name in verbs if name is not None]


class BenchFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole bench."""

    time_scale: float = 1.0
    tools: dict[str, str] = {}
    programmer: list[ProgrammerTable] = []
    port: list[PortTable] = []
    event: list[EventTable] = []


def read_bench(file: Path, parts: Parts) -> BenchFile:
    """Read a bench file and check that all of it can be built. Raises ``ConfigError`` naming the file and what is wrong in it."""
    try:
        bench = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), BenchFile)
        _check(bench)
        check_versions(bench.tools)
        bootloaders = load_bootloaders(parts)
        for board in _boards(bench):
            board.build_board(parts, bootloaders)
        programmers = {programmer.name: programmer for programmer in bench.programmer}
        for programmer in bench.programmer:
            programmer.build(parts)
        for event in bench.event:
            if event.board is not None and event.subject in programmers:
                programmers[event.subject].check_board(event.board, parts)
    except OSError as error:
        raise ConfigError(f"bench file {file} cannot be read: {error.strerror}") from error
    except (ValueError, ConfigError) as error:  # of TOML, of msgspec, of a program's version
        raise ConfigError(f"bench file {file}: {error}") from error
    return bench


def _check(bench: BenchFile) -> None:
    if bench.time_scale <= 0:
        raise ConfigError("time_scale must be above 0")
    ports = [port.name for port in bench.port]
    names = [programmer.name for programmer in bench.programmer] + ports
    for twin in (name for name in names if names.count(name) > 1):
        raise ConfigError(f"two programmers or ports are called {twin}")
    places = [place for programmer in bench.programmer for place in (programmer.path, programmer.board_usb)]
    paths = [path for path in places if path is not None] + [port.path for port in bench.port]
    for path in (path for path in paths if paths.count(path) > 1):
        raise ConfigError(f"two programmers or boards have the path {path}")
    for event in bench.event:
        if len(event.named) != 1:
            raise ConfigError(f"the event at {event.at} needs exactly one of plug, unplug, remove, press, insert")
        if (event.insert is None) != (event.board is None):
            raise ConfigError(f"the event at {event.at}: insert and board belong together")
        if event.at < 0 or event.subject not in names:
            raise ConfigError(f"the event at {event.at} names no programmer or port of this bench: {event.subject}")
        if event.subject in ports and (event.plug or event.unplug) is not None:
            raise ConfigError(f"the event at {event.at}: a port cannot be plugged, insert and remove boards instead")


def _boards(bench: BenchFile) -> Iterator[BoardTable]:
    tables: list[ProgrammerTable | PortTable | EventTable] = [*bench.programmer, *bench.port, *bench.event]
    yield from (table.board for table in tables if table.board is not None)
