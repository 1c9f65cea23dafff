"""``org.ispd.Station1`` on D-Bus: the API's methods on objects, with properties that tell of their changes."""

from ispd.surfaces.dbus.server import serve_dbus
from ispd.surfaces.dbus.wiring import Bus

__all__ = ["Bus", "serve_dbus"]
