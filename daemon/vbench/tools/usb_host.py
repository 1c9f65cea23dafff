"""USB as programs see it through libusb: devices by bus and address, transfers that end with a number or data."""

from enum import IntEnum

from ispd.errors import LinkClosedError, LinkTimeoutError, RemoteProtocolError, TransportError
from ispd.transport.contract import USB_PORT_PREFIX, ControlTransfer, UsbDeviceAt, UsbLink
from vbench.tools.machine import ToolBench

__all__ = ["UsbError", "UsbFailureError", "UsbHandle", "open_device"]


class UsbError(IntEnum):
    """libusb's error numbers (``enum libusb_error``)."""

    IO = -1
    ACCESS = -3
    NO_DEVICE = -4
    NOT_FOUND = -5
    BUSY = -6
    TIMEOUT = -7
    PIPE = -9


class UsbFailureError(Exception):
    """A call of libusb that failed."""

    def __init__(self, code: UsbError) -> None:
        super().__init__(f"LIBUSB_ERROR_{code.name}")
        self.code = code


class UsbHandle:
    """An open device; ``close`` it whatever happens."""

    def __init__(self, bench: ToolBench, device: UsbDeviceAt, link: UsbLink) -> None:
        self.device = device
        self._bench = bench
        self._link = link

    @property
    def is_there(self) -> bool:
        """Whether this very device, not another one at the same place, is still on the bus."""
        here = (self.device.bus, self.device.address)
        return any((device.bus, device.address) == here for device in self._bench.devices())

    async def read(self, kind: int, request: int, value: int, index: int, length: int, timeout_s: float) -> bytes:
        """Carry out a transfer that brings data. Raises ``UsbFailureError``."""
        transfer = ControlTransfer(
            request_type=kind, request=request, value=value, index=index, length=length, timeout_s=timeout_s
        )
        return await self._submit(transfer)

    async def write(self, kind: int, request: int, value: int, index: int, data: bytes, timeout_s: float) -> None:
        """Carry out a transfer that sends data. Raises ``UsbFailureError``."""
        transfer = ControlTransfer(
            request_type=kind, request=request, value=value & 0xFFFF, index=index, data=data, timeout_s=timeout_s
        )
        await self._submit(transfer)

    async def close(self) -> None:
        """Close the device."""
        await self._link.aclose()

    async def _submit(self, transfer: ControlTransfer) -> bytes:
        try:
            return (await self._link.submit([transfer]))[0]
        except LinkClosedError:
            raise UsbFailureError(UsbError.NO_DEVICE) from None
        except LinkTimeoutError:
            raise UsbFailureError(UsbError.TIMEOUT) from None
        except RemoteProtocolError:
            raise UsbFailureError(UsbError.PIPE) from None


async def open_device(bench: ToolBench, device: UsbDeviceAt) -> UsbHandle:
    """Open a device and claim its interface, as programs do right after another. Raises ``UsbFailureError``.

    A device of another user is busy from the start here; to libusb it is when its interface is claimed.
    """
    try:
        link = await bench.open_usb(USB_PORT_PREFIX + device.path)
    except TransportError as error:
        codes = {"port-not-found": UsbError.NO_DEVICE, "permission-denied": UsbError.ACCESS, "port-busy": UsbError.BUSY}
        raise UsbFailureError(codes.get(error.code, UsbError.IO)) from None
    return UsbHandle(bench, device, link)
