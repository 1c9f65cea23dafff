"""Finds the drivers: every module of this package that holds a ``DRIVER`` is one. There is no list to edit."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

import ispd.programmers
from ispd.errors import LocalProtocolError
from ispd.programmers.contract import IspDriver
from ispd.programmers.swd_contract import SwdDriver
from ispd.transport.contract import PortKind, UsbIdentity

__all__ = ["Driver", "claimant", "load_drivers"]

Driver = IspDriver | SwdDriver
"""What it drives is told by ``interface``."""


def load_drivers() -> Mapping[str, Driver]:
    """Import every module of the package and return the drivers by kind, in alphabetical order.

    Raises ``LocalProtocolError`` where two modules claim the same kind.
    """
    drivers: dict[str, Driver] = {}
    for module in pkgutil.iter_modules(ispd.programmers.__path__, f"{ispd.programmers.__name__}."):
        driver: Driver | None = getattr(importlib.import_module(module.name), "DRIVER", None)
        if driver is None:
            continue
        if driver.kind in drivers:
            raise LocalProtocolError(f"two drivers are called {driver.kind}")
        drivers[driver.kind] = driver
    return MappingProxyType(dict(sorted(drivers.items())))


def claimant(drivers: Mapping[str, Driver], kind: PortKind, usb: UsbIdentity) -> Driver | None:
    """Return the driver that claims a hotplugged port, None where it is no programmer for certain."""
    return next((driver for driver in drivers.values() if driver.port_kind is kind and driver.claims(usb)), None)
