"""The configuration file: typed, strict, and clear about what is wrong."""

from pathlib import Path

import pytest

from ispd.config import load_config
from ispd.errors import ConfigError
from ispd.station.spec import SlotSpec
from ispd.surfaces.dbus import Bus

FULL = """
[daemon]
socket = "/run/x/ispd.sock"
state_dir = "state"
[hotplug]
udev = false
[[slot]]
name = "A1"
programmer = "stk500v1"
port = "/dev/ttyACM0"
baud = 19200
target_usb = "1-2.1"
[[slot]]
name = "A2"
programmer = "stk500v1"
port = "usb:1-1.4"
[bench]
file = "bench.toml"
[catalog]
parts = "parts.d"
bootloaders = "/srv/bootloaders.d"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "ispd.toml"
    path.write_text(text)
    return path


def test_every_key_arrives(tmp_path):
    config = load_config(write(tmp_path, FULL), is_root=True)
    assert config.socket == Path("/run/x/ispd.sock")
    assert config.state_dir == tmp_path / "state"
    assert config.watch_udev is False
    assert config.bench == tmp_path / "bench.toml"
    assert (config.parts, config.bootloaders) == (tmp_path / "parts.d", Path("/srv/bootloaders.d"))
    assert config.slots == (
        SlotSpec(name="A1", programmer="stk500v1", port="/dev/ttyACM0", baud=19200, target_usb="1-2.1"),
        SlotSpec(name="A2", programmer="stk500v1", path="1-1.4"),
    )


def test_a_slot_may_be_a_usb_port_alone(tmp_path):
    text = BOARDS_ONLY + BOARDS_ONLY.replace("P1", "P2").replace("1-2.1", "1-2.2")
    first, second = load_config(write(tmp_path, text), is_root=True).slots
    assert first == SlotSpec(name="P1", target_usb="1-2.1")
    assert (second.name, second.has_programmer) == ("P2", False)


def test_a_place_in_the_usb_tree_needs_no_kind_of_programmer(tmp_path):
    (slot,) = load_config(write(tmp_path, '[[slot]]\nname = "A1"\nport = "usb:1-4"\n'), is_root=True).slots
    assert slot == SlotSpec(name="A1", path="1-4")


def test_the_shipped_file_is_valid_and_says_the_defaults():
    shipped = load_config(Path("config/ispd.toml"), is_root=True)
    assert shipped.socket == Path("/run/ispd/ispd.sock")
    assert shipped.state_dir == Path("/var/lib/ispd")
    assert shipped.watch_udev is True
    assert shipped.slots == ()
    assert shipped.bench is None
    assert (shipped.parts, shipped.bootloaders) == (None, None)


def test_a_user_without_root_gets_places_of_their_own(tmp_path):
    environ = {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/home/u/.state"}
    config = load_config(write(tmp_path, ""), environ=environ, is_root=False)
    assert config.socket == Path("/run/user/7/ispd.sock")
    assert config.state_dir == Path("/home/u/.state/ispd")


def test_the_service_keeps_its_records_where_its_manager_made_room(tmp_path):
    environ = {"NOTIFY_SOCKET": "/run/systemd/notify", "STATE_DIRECTORY": "/var/lib/ispd:/var/lib/other"}
    config = load_config(write(tmp_path, ""), environ=environ, is_root=False)
    assert (config.socket, config.state_dir) == (Path("/run/ispd/ispd.sock"), Path("/var/lib/ispd"))
    of_user = environ | {"XDG_RUNTIME_DIR": "/run/user/7", "STATE_DIRECTORY": "/home/u/.local/state/ispd"}
    config = load_config(write(tmp_path, ""), environ=of_user, is_root=False)
    assert (config.socket, config.state_dir) == (Path("/run/user/7/ispd.sock"), Path("/home/u/.local/state/ispd"))


@pytest.mark.parametrize(
    ("text", "environ", "is_root", "bus"),
    [
        ("", {}, True, Bus.SYSTEM),
        ("", {"NOTIFY_SOCKET": "/run/systemd/notify"}, False, Bus.SYSTEM),
        ("", {}, False, Bus.OFF),
        ('[bench]\nfile = "b.toml"', {}, True, Bus.OFF),
        ('[dbus]\nbus = "off"', {}, True, Bus.OFF),
        ('[dbus]\nbus = "session"', {}, False, Bus.SESSION),
        ('[dbus]\nbus = "system"\n[bench]\nfile = "b.toml"', {}, False, Bus.SYSTEM),
    ],
)
def test_only_the_service_and_root_take_the_name_on_the_system_bus_unasked(tmp_path, text, environ, is_root, bus):
    assert load_config(write(tmp_path, text), environ=environ, is_root=is_root).bus is bus


SLOT = '[[slot]]\nname = "A1"\nprogrammer = "stk500v1"\nport = "/dev/x"\n'
BOARDS_ONLY = '[[slot]]\nname = "P1"\ntarget_usb = "1-2.1"\n'
OTHER = '[[slot]]\nname = "A2"\nprogrammer = "stk500v1"\nport = "usb:1-4"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("[daemon]\nsokcet = 1", "sokcet", id="unknown-key"),
        pytest.param("[daemon]\nsocket = 1", "socket", id="wrong-type"),
        pytest.param("[daemon", "not TOML", id="broken-toml"),
        pytest.param('[dbus]\nbus = "school"', "school", id="no-such-bus"),
        pytest.param('[catalog]\nfuses = "x"', "fuses", id="unknown-catalog"),
        pytest.param(SLOT + SLOT, "two slots are called A1", id="same-name"),
        pytest.param(SLOT + SLOT.replace("A1", "A2"), "share the port", id="same-port"),
        pytest.param(SLOT.replace("/dev/x", "COM3"), "COM3", id="no-port"),
        pytest.param(SLOT + 'target_usb = "1-2"\n' + OTHER + 'target_usb = "1-2"', "share target_usb", id="same-board"),
        pytest.param(SLOT + 'target_usb = "1-4"\n' + OTHER, "where the board of slot A1", id="board-at-programmer"),
        pytest.param(OTHER + 'target_usb = "1-4"', "where the board of slot A2", id="board-at-itself"),
        pytest.param(SLOT + "baud = 0", "baud 0", id="no-baud"),
        pytest.param(SLOT.replace("A1", "a,b"), "'a,b'", id="no-name"),
        pytest.param('[[slot]]\nname = "A1"', "neither a programmer nor target_usb", id="nothing-at-all"),
        pytest.param('[[slot]]\nname = "A1"\nprogrammer = "usbasp"', "has no port", id="no-place"),
        pytest.param('[[slot]]\nname = "A1"\nport = "/dev/x"', "has no programmer", id="no-kind"),
        pytest.param('[[slot]]\nname = "A1"\nbaud = 9600\ntarget_usb = "1-2"', "has no port", id="baud-of-nothing"),
        pytest.param(SLOT + 'target_usb = "2.1"', "'2.1' is no USB topology path", id="no-path"),
        pytest.param(BOARDS_ONLY + BOARDS_ONLY.replace("P1", "P2"), "share target_usb", id="same-board-only"),
    ],
)
def test_mistakes_are_named(tmp_path, text, named):
    with pytest.raises(ConfigError, match=named):
        load_config(write(tmp_path, text), is_root=True)


def test_a_missing_file_is_only_an_error_when_it_was_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config(tmp_path / "none.toml", is_root=True)
