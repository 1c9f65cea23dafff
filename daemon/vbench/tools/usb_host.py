"""USB as programs see it through libusb: devices by bus and address, transfers that end with a number or data."""

from enum import IntEnum

from ispd.errors import LinkClosedError, LinkTimeoutError, RemoteProtocolError, TransportError
from ispd.transport.contract import USB_PORT_PREFIX, ControlTransfer, UsbDeviceAt, UsbLink
from vbench.tools.machine import ToolBench

__all__ = ["UsbError", "UsbFailureError", "UsbHandle", "listed", "open_device"]

_GET_DESCRIPTOR, _DEVICE = 6, 1
_DESCRIPTOR_S = 5.0
_RESET_S, _RECOVERY_S = 0.05, 0.01
"""USB 2.0, chapter 7.1.7.5: a root port is reset for 50 ms, and left alone for 10 ms."""


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
    """A call of libusb that failed; its text is what ``libusb_error_name`` says."""

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

    async def reset(self) -> None:
        """Reset the device. Raises ``UsbFailureError`` (NOT_FOUND) where it is not the same afterwards.

        The kernel reads the device descriptor anew then; by that a device of the bench knows of the reset.
        """
        try:
            await self._bench.sleep(_RESET_S)
            await self.read(0x80, _GET_DESCRIPTOR, _DEVICE << 8, 0, 18, _DESCRIPTOR_S)
            await self._bench.sleep(_RECOVERY_S)
        except UsbFailureError:
            raise UsbFailureError(UsbError.NOT_FOUND) from None
        if not self.is_there:
            raise UsbFailureError(UsbError.NOT_FOUND)

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


def listed(bench: ToolBench) -> list[UsbDeviceAt]:
    """Return the devices as libusb 1.0 lists them: udev's order, by their places, the wrong way round."""
    return sorted(bench.devices(), key=lambda device: (device.bus, device.path), reverse=True)


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
