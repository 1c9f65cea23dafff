"""The daemon's configuration: one TOML file of station facts, read once, unknown keys refused by name."""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ispd.errors import ConfigError
from ispd.station.spec import SlotSpec
from ispd.surfaces.dbus import Bus

__all__ = ["Config", "default_config_path", "load_config"]

_USB_PREFIX = "usb:"
_USB_PATH = re.compile(r"[0-9]+-[0-9]+(\.[0-9]+)*")


class _Daemon(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    socket: str | None = None
    state_dir: str | None = None


class _Hotplug(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    udev: bool = True


class _Dbus(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    bus: Bus | None = None


class _Slot(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    programmer: str | None = None
    port: str | None = None
    baud: int | None = None
    target_usb: str | None = None


class _Catalog(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    parts: str | None = None
    bootloaders: str | None = None


class _Bench(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    file: str


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    daemon: _Daemon = msgspec.field(default_factory=_Daemon)
    hotplug: _Hotplug = msgspec.field(default_factory=_Hotplug)
    dbus: _Dbus = msgspec.field(default_factory=_Dbus)
    slot: list[_Slot] = msgspec.field(default_factory=list)
    catalog: _Catalog = msgspec.field(default_factory=_Catalog)
    bench: _Bench | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon runs with. ``bench`` is the file describing virtual hardware, None for the machine's own.

    ``parts`` and ``bootloaders`` are folders of files that join the shipped catalog; None where there are none.
    """

    socket: Path
    state_dir: Path
    watch_udev: bool
    slots: tuple[SlotSpec, ...]
    bench: Path | None
    parts: Path | None = None
    bootloaders: Path | None = None
    bus: Bus = Bus.OFF


def default_config_path() -> Path:
    """Return the file read when none is named."""
    return Path("/etc/ispd/ispd.toml")


def load_config(path: Path | None, *, environ: Mapping[str, str] = os.environ, is_root: bool | None = None) -> Config:
    """Read a configuration file.

    :param path: None reads ``/etc/ispd/ispd.toml``, or does without where that does not exist.
    :param is_root: decides the default places; None asks the system.
    :raises ConfigError: the file cannot be read, or names something impossible.
    """
    file = _read(path)
    root = os.geteuid() == 0 if is_root is None else is_root
    base = path.parent if path is not None else Path("/etc/ispd")
    return Config(
        socket=_place(file.daemon.socket, base) or _default_socket(environ, is_root=root),
        state_dir=_place(file.daemon.state_dir, base) or _default_state_dir(environ, is_root=root),
        watch_udev=file.hotplug.udev,
        slots=_slots(file.slot),
        bench=_place(file.bench.file, base) if file.bench is not None else None,
        parts=_place(file.catalog.parts, base),
        bootloaders=_place(file.catalog.bootloaders, base),
        bus=_default_bus(file, environ, is_root=root) if file.dbus.bus is None else file.dbus.bus,
    )


def _read(path: Path | None) -> _File:
    actual = path if path is not None else default_config_path()
    try:
        text = actual.read_text(encoding="utf-8")
    except FileNotFoundError:
        if path is None:
            return _File()
        raise ConfigError(f"there is no configuration file {path}", hint="check the path after --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{actual} cannot be read: {error}", hint="check its permissions and encoding") from error
    try:
        return msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{actual} is not TOML: {error}", hint="correct that line") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{actual}: {error}", hint="see the commented config/ispd.toml for all keys") from error


def _place(text: str | None, base: Path) -> Path | None:
    return None if text is None else (base / Path(text).expanduser()).absolute()


def _default_socket(environ: Mapping[str, str], *, is_root: bool) -> Path:
    if is_root:
        return Path("/run/ispd/ispd.sock")
    if "NOTIFY_SOCKET" in environ and "XDG_RUNTIME_DIR" not in environ:
        return Path("/run/ispd/ispd.sock")  # the system's service, not one of a user's own manager
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return Path(runtime) / "ispd.sock"


def _default_state_dir(environ: Mapping[str, str], *, is_root: bool) -> Path:
    if is_root:
        return Path("/var/lib/ispd")
    if "STATE_DIRECTORY" in environ:
        return Path(
            environ["STATE_DIRECTORY"].partition(":")[0]
        )  # what the service manager made for us (systemd.exec(5))
    state = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(state) / "ispd"


def _default_bus(file: _File, environ: Mapping[str, str], *, is_root: bool) -> Bus:
    """Return the system's bus for the service of a workstation: nobody else may have the name there."""
    is_service = is_root or "NOTIFY_SOCKET" in environ
    return Bus.SYSTEM if is_service and file.bench is None else Bus.OFF


def _slots(slots: list[_Slot]) -> tuple[SlotSpec, ...]:
    specs: list[SlotSpec] = []
    for slot in slots:
        spec = _slot(slot)
        for other in specs:
            if other.name == spec.name:
                raise ConfigError(f"two slots are called {spec.name}", hint="give each slot a name of its own")
            if spec.has_programmer and (other.port, other.path) == (spec.port, spec.path):
                raise ConfigError(
                    f"slots {other.name} and {spec.name} share the port {slot.port}", hint="one slot a port"
                )
            _check_boards_place(spec, other)
        _check_boards_place(spec, spec)
        specs.append(spec)
    return tuple(specs)


def _check_boards_place(one: SlotSpec, other: SlotSpec) -> None:
    """Raise where a place is both a programmer's and a board's, or the board's of two slots: what shows up there?"""
    if one is not other and one.target_usb is not None and one.target_usb == other.target_usb:
        raise ConfigError(
            f"slots {other.name} and {one.name} share target_usb {one.target_usb}", hint="each board has a USB port"
        )
    for slot, boards in ((one, other), (other, one)):
        if slot.path is not None and slot.path == boards.target_usb:
            raise ConfigError(
                f"slot {slot.name} is at {slot.path}, where the board of slot {boards.name} shows up (target_usb)",
                hint="a programmer and a board cannot share a USB port",
            )


def _slot(slot: _Slot) -> SlotSpec:
    if not slot.name or not slot.name.isprintable() or any(c in slot.name for c in " ,/"):
        raise ConfigError(f"slot name {slot.name!r} cannot be used", hint="use letters, digits, dots and dashes")
    if slot.baud is not None and slot.baud <= 0:
        raise ConfigError(
            f"slot {slot.name}: baud {slot.baud} is not a speed", hint="19200 suits the shipped ArduinoISP"
        )
    if slot.target_usb is not None and not _USB_PATH.fullmatch(slot.target_usb):
        raise ConfigError(
            f"slot {slot.name}: target_usb {slot.target_usb!r} is no USB topology path", hint='write "1-2.1"'
        )
    if slot.port is None:
        return _without_programmer(slot)
    is_usb = slot.port.startswith(_USB_PREFIX)
    if slot.programmer is None and not is_usb:
        raise ConfigError(
            f"slot {slot.name} has no programmer",
            hint="a device node does not tell what is behind it: name the programmer's kind",
        )
    if not is_usb and not slot.port.startswith("/"):
        raise ConfigError(
            f"slot {slot.name}: port {slot.port!r} is neither a device path nor a USB path",
            hint='write "/dev/ttyACM0", or "usb:1-1.4" for a USB topology path',
        )
    return SlotSpec(
        name=slot.name,
        programmer=slot.programmer,
        port=None if is_usb else slot.port,
        path=slot.port.removeprefix(_USB_PREFIX) if is_usb else None,
        baud=slot.baud,
        target_usb=slot.target_usb,
    )


def _without_programmer(slot: _Slot) -> SlotSpec:
    """Return a slot that is only the USB port of its boards."""
    if slot.programmer is not None or slot.baud is not None:
        raise ConfigError(
            f"slot {slot.name} has no port",
            hint="name the programmer's port; a slot without programmer has target_usb alone",
        )
    if slot.target_usb is None:
        raise ConfigError(
            f"slot {slot.name} has neither a programmer nor target_usb",
            hint='name its programmer and port, or the USB port of its boards: target_usb = "1-2.1"',
        )
    return SlotSpec(name=slot.name, target_usb=slot.target_usb)
