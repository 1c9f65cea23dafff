"""From a programmer's driver to the target behind an open programmer."""

from ispd.flashing.interface import TargetInterface
from ispd.flashing.isp_interface import IspInterface
from ispd.programmers.contract import IspDriver
from ispd.transport.contract import Opener, UsbIdentity

__all__ = ["open_target"]


async def open_target(
    driver: IspDriver, hardware: Opener, port: str, *, baud: int | None, usb: UsbIdentity | None
) -> TargetInterface:
    """Open the programmer on a port; raises what its driver raises."""
    return IspInterface(await driver.open(hardware, port, baud=baud, usb=usb))
