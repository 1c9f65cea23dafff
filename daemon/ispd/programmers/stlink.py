"""ST-Links as hotplugged programmers: V2 dongles and their clones, V2-1, V3; V1 and a V3's loader to say why they cannot be used.

A V2-1 and a V3 are composite devices with a serial port and a disk of their own: only their debug interface is used, and the
serial port is nobody's programmer.
"""

from typing import Final, Literal

from ispd.model.part import Interface
from ispd.programmers.stlink_probe import KIND, open_stlink
from ispd.programmers.swd_contract import SwdProgrammer
from ispd.transport.clock import SystemClock
from ispd.transport.contract import Opener, PortKind, UsbIdentity
from ispd.wire.stlink_firmware import MODELS, VENDOR_ID

__all__ = ["DRIVER", "StlinkDriver"]


class StlinkDriver:
    """See :class:`~ispd.programmers.swd_contract.SwdDriver`."""

    kind: str = KIND
    interface: Literal[Interface.SWD] = Interface.SWD
    port_kind: PortKind = PortKind.USB
    default_baud: int | None = None

    def claims(self, usb: UsbIdentity) -> bool:
        """Claim every model by its ids, which are ST's own; those that cannot be used as well, so that their slot says why."""
        return usb.vendor_id == VENDOR_ID and usb.product_id in MODELS

    async def open(
        self,
        hardware: Opener,
        port: str,
        *,
        baud: int | None = None,  # noqa: ARG002 - not a serial port
        usb: UsbIdentity | None = None,  # noqa: ARG002 - the open device tells better
    ) -> SwdProgrammer:
        """Open the device, and see that it can do SWD. The target is left alone."""
        return await open_stlink(hardware, port, SystemClock())


DRIVER: Final = StlinkDriver()
