"""Bench files: a workstation described in TOML. Strict: unknown keys, names and parts are refused before anything runs.

::

    time_scale = 2.0                       # bench seconds per real second; the daemon tells a slow USBasp by its own clock,
                                           # so benches far from 1 make it misjudge targets below 1 MHz

    [[programmer]]
    name = "P1"                            # how events name it, and its port where it is a tty
    flavour = "uno"                        # uart | uno | leonardo | teensyduino
    baud = 19200
    path = "1-1.1"                         # USB topology path; slots in ispd.toml name it: port = "usb:1-1.1"
    fault = [{ kind = "power-loss", bytes = 20000 }]
    [programmer.board]                     # what sits on it at the start; leave out for an empty socket
    part = "atmega32u4"
    state = "used"                         # blank | used (another firmware in it) | locked (the same, lock bits set)
    fuses = { lfuse = 0x5E }
    fault = [{ kind = "stuck-bits", memory = "flash", address = 0x1234, mask = 0x01, level = 1 }]

    [[programmer]]
    name = "P2"
    kind = "usbasp"                        # stk500v1 (the default) | usbasp | usbtiny | buspirate | usbasp-loader
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

    [[event]]
    at = 12.0                              # bench seconds after the start
    unplug = "P1"                          # or plug, remove; or insert together with a board table
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ispd.catalog.parts import Parts
from ispd.errors import ConfigError, ErrorCode, IspdError
from ispd.model.part import MemoryKind, Part
from vbench.bus_pirate import BusPirate, BusPirateHardware, BusPirateWiring
from vbench.emulated import EmulatedSerial, EmulatedUsb
from vbench.faults import Fault, ProgrammerFault, UsbFault
from vbench.line import Flavour
from vbench.serial_programmer import SerialProgrammer
from vbench.target import AvrTarget, Circuit
from vbench.usbasp import UsbAsp, UsbAspFirmware
from vbench.usbasp_loader import UsbAspLoader
from vbench.usbtiny import UsbTiny, UsbTinyModel

__all__ = ["BenchFile", "BoardState", "BoardTable", "EventTable", "ProgrammerKind", "ProgrammerTable", "read_bench"]

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_USED_SHARE = 4
"""A used board has three quarters of its flash filled."""
_FACTORY_LOCK = 0xEC
"""LB and BLB0 programmed: what many factory-fresh USB AVRs are reported to carry."""


class BoardState(StrEnum):
    """What was done to a board before it came to the bench."""

    BLANK = "blank"
    USED = "used"
    LOCKED = "locked"


class BoardTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A board. ``crystal_hz`` 0 means that no crystal is fitted."""

    part: str
    state: BoardState = BoardState.BLANK
    fuses: dict[MemoryKind, int] = {}
    lock: int | None = None
    crystal_hz: float = 16e6
    supply_mv: int = 5000
    unimplemented: int = 0xFF
    seed: int = 0
    fault: list[dict[str, Any]] = []

    def build(self, parts: Parts) -> AvrTarget:
        """Make the target. Raises ``ConfigError`` for an unknown part or fault."""
        part = _part(parts, self.part)
        unknown = [memory for memory in self.fuses if part.fuse(memory) is None]
        if unknown:
            raise ConfigError(f"{part.name} has no {unknown[0]}")
        locked = self.state is BoardState.LOCKED
        try:
            target = AvrTarget(
                part,
                fuses=self.fuses,
                lock=self.lock if self.lock is not None else _FACTORY_LOCK if locked else 0xFF,
                circuit=Circuit(crystal_hz=self.crystal_hz or None, supply_mv=self.supply_mv),
                unimplemented=self.unimplemented,
                faults=_faults(self.fault, Fault),
                seed=self.seed,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.state is not BoardState.BLANK:
            filled = len(target.flash) - len(target.flash) // _USED_SHARE
            target.flash[:filled] = bytes(address * 7 + (address >> 8) & 0xFF for address in range(filled))
            target.eeprom[:] = bytes(address & 0xFF for address in range(len(target.eeprom)))
        return target


class ProgrammerKind(StrEnum):
    """What a programmer is."""

    STK500V1 = "stk500v1"
    USBASP = "usbasp"
    USBTINY = "usbtiny"
    BUSPIRATE = "buspirate"
    USBASP_LOADER = "usbasp-loader"


class ProgrammerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A programmer and its port; ``plugged`` false keeps it in the drawer until an event plugs it in.

    The options below ``fault`` belong to some kinds only, see ``_KINDS``; they keep their default where not given.
    """

    name: str
    kind: ProgrammerKind = ProgrammerKind.STK500V1
    path: str | None = None
    plugged: bool = True
    refusal: ErrorCode | None = None
    board: BoardTable | None = None
    fault: list[dict[str, Any]] = []

    flavour: Flavour | UnsetType = UNSET
    baud: int | UnsetType = UNSET
    auto_reset: bool | UnsetType = UNSET
    stuck_in_bootloader: bool | UnsetType = UNSET
    firmware: str | UnsetType = UNSET
    manufacturer: str | UnsetType = UNSET
    product: str | UnsetType = UNSET
    serial: str | UnsetType = UNSET
    slow_jumper: bool | UnsetType = UNSET
    buffer_bytes: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    tau_s: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    model: UsbTinyModel | UnsetType = UNSET
    stretch: Annotated[float, Meta(ge=1)] | UnsetType = UNSET
    part: str | UnsetType = UNSET
    hardware: BusPirateHardware | UnsetType = UNSET
    own_supply: bool | UnsetType = UNSET
    aux_on_xtal1: bool | UnsetType = UNSET
    latency_s: Annotated[float, Meta(gt=0)] | UnsetType = UNSET

    def build(self, parts: Parts) -> EmulatedSerial | EmulatedUsb:
        """Make the programmer, with its board. Raises ``ConfigError`` for an option that is not its kind's."""
        kind = _KINDS[self.kind]
        given = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not UNSET}
        for name in given.keys() - kind.options:
            raise ConfigError(f"programmer {self.name}: a {self.kind} has no {name}")
        return kind.build(
            parts,
            target=self.board.build(parts) if self.board else None,
            faults=_faults(self.fault, kind.faults),
            **given,
        )


def _stk500v1(_parts: Parts, *, flavour: Flavour = Flavour.UNO, **options: Any) -> SerialProgrammer:
    return SerialProgrammer(flavour, **options)


def _usbasp(_parts: Parts, *, firmware: str = UsbAspFirmware.STOCK_2011, **options: Any) -> UsbAsp:
    return UsbAsp(_choice(UsbAspFirmware, firmware), **options)


def _usbtiny(_parts: Parts, **options: Any) -> UsbTiny:
    return UsbTiny(**options)


def _buspirate(_parts: Parts, *, own_supply: bool = False, aux_on_xtal1: bool = True, **options: Any) -> BusPirate:
    wiring = BusPirateWiring(own_supply=own_supply, aux_on_xtal1=aux_on_xtal1)
    try:
        return BusPirate(wiring=wiring, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _usbasp_loader(parts: Parts, *, target: AvrTarget | None, part: str = "", **options: Any) -> UsbAspLoader:
    if target is not None:
        raise ConfigError("a usbasp-loader has no header for a board: name its own part")
    return UsbAspLoader(_part(parts, part), **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """How a kind of programmer is made, and the options and faults that it has."""

    build: Callable[..., EmulatedSerial | EmulatedUsb]
    options: frozenset[str]
    faults: UnionType


_KINDS = {
    ProgrammerKind.STK500V1: _Kind(
        build=_stk500v1,
        options=frozenset({"flavour", "baud", "auto_reset", "stuck_in_bootloader"}),
        faults=ProgrammerFault,
    ),
    ProgrammerKind.USBASP: _Kind(
        build=_usbasp,
        options=frozenset({"firmware", "manufacturer", "product", "serial", "slow_jumper", "buffer_bytes", "tau_s"}),
        faults=UsbFault,
    ),
    ProgrammerKind.USBTINY: _Kind(build=_usbtiny, options=frozenset({"model", "tau_s", "stretch"}), faults=UsbFault),
    ProgrammerKind.BUSPIRATE: _Kind(
        build=_buspirate,
        options=frozenset({"hardware", "firmware", "own_supply", "aux_on_xtal1", "latency_s"}),
        faults=ProgrammerFault,
    ),
    ProgrammerKind.USBASP_LOADER: _Kind(build=_usbasp_loader, options=frozenset({"part", "tau_s"}), faults=UsbFault),
}
_OPTIONS = sorted(frozenset[str]().union(*(kind.options for kind in _KINDS.values())))


class EventTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that happens ``at`` bench seconds: exactly one of the four verbs, naming a programmer."""

    at: float
    plug: str | None = None
    unplug: str | None = None
    remove: str | None = None
    insert: str | None = None
    board: BoardTable | None = None

    @property
    def subject(self) -> str:
        """Name of the programmer it happens to."""
        return next(name for name in (self.plug, self.unplug, self.remove, self.insert) if name is not None)


class BenchFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole bench."""

    time_scale: float = 1.0
    programmer: list[ProgrammerTable] = []
    event: list[EventTable] = []


def read_bench(file: Path, parts: Parts) -> BenchFile:
    """Read a bench file and check that all of it can be built. Raises ``ConfigError`` naming the file and what is wrong in it."""
    try:
        bench = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), BenchFile)
        _check(bench)
        for board in _boards(bench):
            board.build(parts)
        for programmer in bench.programmer:
            programmer.build(parts)
    except OSError as error:
        raise ConfigError(f"bench file {file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"bench file {file}: {error}") from error
    return bench


def _check(bench: BenchFile) -> None:
    if bench.time_scale <= 0:
        raise ConfigError("time_scale must be above 0")
    names = [programmer.name for programmer in bench.programmer]
    for twin in (name for name in names if names.count(name) > 1):
        raise ConfigError(f"two programmers are called {twin}")
    paths = [programmer.path for programmer in bench.programmer if programmer.path is not None]
    for path in (path for path in paths if paths.count(path) > 1):
        raise ConfigError(f"two programmers have the path {path}")
    for event in bench.event:
        verbs = [name for name in (event.plug, event.unplug, event.remove, event.insert) if name is not None]
        if len(verbs) != 1:
            raise ConfigError(f"the event at {event.at} needs exactly one of plug, unplug, remove, insert")
        if (event.insert is None) != (event.board is None):
            raise ConfigError(f"the event at {event.at}: insert and board belong together")
        if event.at < 0 or event.subject not in names:
            raise ConfigError(f"the event at {event.at} names no programmer of this bench: {event.subject}")


def _boards(bench: BenchFile) -> Iterator[BoardTable]:
    """Boards that events insert; those on programmers are built with them."""
    yield from (event.board for event in bench.event if event.board is not None)


def _part(parts: Parts, name: str) -> Part:
    try:
        return parts.get(name)
    except IspdError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def _choice(kind: type[E], value: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"unknown firmware {value!r}; known are {', '.join(kind)}") from None


def _faults(tables: Sequence[dict[str, Any]], union: UnionType) -> tuple[Any, ...]:
    kinds = {re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(): kind for kind in get_args(union)}
    return tuple(_fault(table, kinds) for table in tables)


def _fault(table: dict[str, Any], kinds: dict[str, type[T]]) -> T:
    values = dict(table)
    name = values.pop("kind", None)
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"unknown fault {name!r}; known are {', '.join(sorted(kinds))}")
    known = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]  # every member of the union is a dataclass
    if not values.keys() <= known.keys():
        raise ConfigError(f"fault {name} has no {', '.join(sorted(values.keys() - known.keys()))}")
    try:
        for key, value in values.items():
            if known[key] is bytes and isinstance(value, str):
                values[key] = bytes.fromhex(value)
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"fault {name}: {error}") from error
