"""An open USB device of the virtual bench."""

import math
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel

from ispd.errors import LinkClosedError, LinkTimeoutError, LocalProtocolError, RemoteProtocolError
from ispd.transport.contract import BulkTransfer, ControlTransfer, UsbIdentity, UsbTransfer
from vbench.bench_port import BenchTime
from vbench.emulated import BulkEnd, BulkReply, ControlReply, UsbEnd

__all__ = ["BenchUsbLink", "clear_halt"]


def clear_halt(endpoint: int) -> ControlTransfer:
    """Return the request that lets a stalled endpoint be used again (USB 2.0, 9.4.1: CLEAR_FEATURE, ENDPOINT_HALT)."""
    return ControlTransfer(request_type=0x02, request=0x01, value=0, index=endpoint)


class BenchUsbLink:
    """An open USB device of the bench; see ``UsbLink`` in :mod:`ispd.transport.contract`.

    A transfer's effects happen when it is begun, at the times the emulation says; the caller then waits until it is over.

    :param on_end: called once when the device is closed, or was found to have lost its supply.
    """

    def __init__(
        self,
        name: str,
        identity: UsbIdentity,
        programmer: UsbEnd,
        time: BenchTime,
        on_end: Callable[[], object],
    ) -> None:
        self._name = name
        self._identity = identity
        self._programmer = programmer
        self._time = time
        self._on_end = on_end
        self._is_open = True
        self._gone = anyio.Event()
        self._guard = anyio.ResourceGuard("using this device")

    @property
    def name(self) -> str:
        """Port of the device."""
        return self._name

    @property
    def identity(self) -> UsbIdentity:
        """How the device presents itself."""
        return self._identity

    async def submit(self, transfers: Sequence[UsbTransfer]) -> list[bytes]:
        """Carry out transfers back to back; see the contract."""
        with self._guard:
            found: list[bytes] = []
            for transfer in transfers:
                await anyio.lowlevel.checkpoint_if_cancelled()
                with anyio.CancelScope(shield=True):
                    found.append(await self._transfer(transfer))
                if isinstance(transfer, BulkTransfer) and transfer.ends_batch(found[-1]):
                    break
            await anyio.lowlevel.checkpoint_if_cancelled()
            return found

    async def aclose(self) -> None:
        """Close the device."""
        self._end()

    def lose(self) -> None:
        """The plug was pulled: whoever waits gets ``LinkClosedError``."""
        self._end()

    async def _transfer(self, transfer: UsbTransfer) -> bytes:
        self._check()
        begun = self._time.now()
        self._programmer.run(begun)
        reply = self._reply(transfer, begun)
        is_late = reply.ends_at - begun > transfer.timeout_s
        await self._wait_until(begun + transfer.timeout_s if is_late else reply.ends_at)
        if self._programmer.power_lost_at is not None:
            self._end()
        self._check()
        if is_late:
            raise LinkTimeoutError(self._name, transfer.timeout_s)
        return self._data(transfer, reply)

    def _reply(self, transfer: UsbTransfer, begun: float) -> ControlReply | BulkReply:
        if not isinstance(transfer, BulkTransfer):
            return self._programmer.control(transfer, begun)
        if not isinstance(self._programmer, BulkEnd):
            raise LocalProtocolError(f"{self._name} has no bulk endpoint 0x{transfer.endpoint:02X}")
        if not transfer.is_in:
            return self._programmer.bulk_out(transfer.endpoint, transfer.data, begun)
        reply = self._programmer.bulk_in(transfer.endpoint, transfer.length, begun)
        return BulkReply(ends_at=math.inf) if reply is None else reply

    def _data(self, transfer: UsbTransfer, reply: ControlReply | BulkReply) -> bytes:
        if reply.stalled:
            if isinstance(transfer, BulkTransfer):
                self._programmer.control(clear_halt(transfer.endpoint), self._time.now())
            what = (
                f"endpoint 0x{transfer.endpoint:02X}"
                if isinstance(transfer, BulkTransfer)
                else f"request {transfer.request}"
            )
            raise RemoteProtocolError(f"{self._name} refused {what} (stall)", is_usb=True)
        return reply.data[: transfer.length] if transfer.is_in else b""

    async def _wait_until(self, at: float) -> None:
        """Wait until a bench time, or until the plug is pulled."""
        with anyio.move_on_after(max(0.0, at - self._time.now()) / self._time.scale):
            await self._gone.wait()

    def _check(self) -> None:
        if not self._is_open:
            raise LinkClosedError(self._name)

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._gone.set()
            self._on_end()
