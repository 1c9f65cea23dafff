"""From a programmer's driver to the target behind an open programmer."""

from ispd.flashing.interface import TargetInterface
from ispd.flashing.isp_interface import IspInterface
from ispd.flashing.swd_interface import SwdInterface
from ispd.model.part import Interface
from ispd.programmers.registry import Driver
from ispd.transport.contract import Opener, UsbIdentity

__all__ = ["open_target"]


async def open_target(
    driver: Driver, hardware: Opener, port: str, *, baud: int | None, usb: UsbIdentity | None
) -> TargetInterface:
    """Open the programmer on a port; raises what its driver raises."""
    if driver.interface is Interface.ISP:
        return IspInterface(await driver.open(hardware, port, baud=baud, usb=usb))
    return SwdInterface(await driver.open(hardware, port, baud=baud, usb=usb))
