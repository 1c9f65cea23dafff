"""Real USB devices: each open one has a worker thread of its own, which finds, opens, uses and closes it.

A batch of transfers costs one hop to the thread and back. Threads are daemonic: a device that never comes back keeps neither
its caller nor the end of the process waiting.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from ispd.errors import ErrorCode, IspdError, LinkClosedError, LinkTimeoutError, TransportError
from ispd.transport.contract import BulkTransfer, UsbIdentity, UsbTransfer
from ispd.transport.usb_device import BlockingUsbDevice, UsbPlace, load_libusb

__all__ = ["UsbBus", "UsbDevice"]

_OPEN_S = 30.0
"""Longest an open may take: a configuration and four texts, each held up by the device as long as it is allowed to (7 s in all),
and at a place's first open libusb's look at all devices, which takes some ms for each on an idle machine."""

_GRACE_S = 2.0
"""How much longer than its timeout a transfer may take before the device counts as wedged. libusb takes a late transfer
back from the kernel, which answers within milliseconds unless the host controller hangs."""

_MAX_STUCK = 4
"""So many threads may hang at one place before no further one is started: a device that comes back after a re-plug is served at
once, one that never does is tried every ten seconds for days."""


@dataclass(slots=True)
class _Batch:
    """Transfers on their way to the worker, and what came of them."""

    transfers: tuple[UsbTransfer, ...]
    done: anyio.Event = field(default_factory=anyio.Event)
    replies: list[bytes] = field(default_factory=list)
    error: IspdError | None = None
    stopped: bool = False
    """No further transfer is to be begun; set by the event loop, read by the worker."""

    @property
    def longest_s(self) -> float:
        """Return how long a single transfer may take."""
        return max((transfer.timeout_s for transfer in self.transfers), default=0.0)

    @property
    def total_s(self) -> float:
        """Return how long all transfers together may take."""
        return sum(transfer.timeout_s for transfer in self.transfers)


class UsbBus:
    """The USB devices of this machine.

    :param backend: pyusb's way to the devices; None for libusb-1.0, one for each place, loaded when a device is first opened.
    """

    def __init__(self, backend: Any = None) -> None:
        self._backend = backend
        self._backends: dict[str, Any] = {}
        """Kept for good: pyusb's objects may outlive a device, and libusb must outlive them."""
        self._workers: dict[str, list[_Worker]] = {}
        """Threads by place that have not ended, as far as is known."""

    async def open(self, port: str) -> "UsbDevice":
        """Open the device at a place in the USB tree (``usb:1-1.4``) for this process alone.

        Raises ``TransportError`` with ``port-not-found``, ``permission-denied`` or ``port-busy``, ``LinkClosedError`` where
        the device leaves meanwhile, ``LinkTimeoutError`` where it does not let itself be opened.
        """
        worker = _Worker(UsbPlace(port), partial(self._load, port))
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._admit(worker)
        worker.start()
        device = UsbDevice(worker)
        is_open = False
        try:
            with anyio.move_on_after(_OPEN_S):
                await worker.opened.wait()
            is_open = worker.identity is not None
        finally:
            if not is_open:
                await device.aclose()
        if not is_open:
            raise worker.error or LinkTimeoutError(port, _OPEN_S)
        return device

    def _admit(self, worker: "_Worker") -> None:
        """Take note of a thread that is to be started; raises ``TransportError`` (port-busy) where too many hang."""
        stuck = [other for other in self._workers.get(worker.port, ()) if not other.ended.is_set()]
        if len(stuck) >= _MAX_STUCK:
            raise TransportError(
                ErrorCode.PORT_BUSY,
                f"{worker.port} hangs: {len(stuck)} earlier attempts at it have not come back",
                hint="unplug the programmer; if that does not free it, restart the computer",
            )
        self._workers[worker.port] = [*stuck, worker]

    def _load(self, port: str) -> Any:
        """Return the backend for a place; called by workers, any number at a time."""
        if self._backend is not None:
            return self._backend
        if port not in self._backends:
            self._backends.setdefault(port, load_libusb())
        return self._backends[port]


class UsbDevice:
    """An open device; see ``UsbLink`` in :mod:`ispd.transport.contract`. Made by :meth:`UsbBus.open`."""

    def __init__(self, worker: "_Worker") -> None:
        self._worker = worker
        self._batch: _Batch | None = None
        self._guard = anyio.ResourceGuard("using this device")

    @property
    def name(self) -> str:
        """Port of the device."""
        return self._worker.port

    @property
    def identity(self) -> UsbIdentity:
        """How the device presents itself. Raises ``LinkClosedError`` on a device that was never open."""
        if self._worker.identity is None:
            raise LinkClosedError(self.name)
        return self._worker.identity

    async def submit(self, transfers: Sequence[UsbTransfer]) -> list[bytes]:
        """Carry out transfers back to back; see the contract."""
        with self._guard:
            await anyio.lowlevel.checkpoint_if_cancelled()
            batch = _Batch(tuple(transfers))
            if not self._worker.take(batch):
                raise LinkClosedError(self.name)
            self._batch = batch
            try:
                with anyio.move_on_after(batch.total_s + _GRACE_S):
                    await batch.done.wait()
            finally:
                await self._finish(batch)
                self._batch = None
            if batch.error is not None:
                raise batch.error
            return batch.replies

    async def aclose(self) -> None:
        """Close the device. Waits for the transfer under way, but not for a wedged device: its thread ends when it can."""
        longest_s = 0.0
        if self._batch is not None:
            self._batch.stopped = True
            longest_s = self._batch.longest_s
        self._worker.dismiss()
        with anyio.move_on_after(longest_s + _GRACE_S, shield=True):
            await self._worker.ended.wait()
            self._worker.join()

    async def _finish(self, batch: _Batch) -> None:
        """Let the transfer under way end, whatever happened to the caller; begin no other."""
        if batch.done.is_set():
            return
        batch.stopped = True
        with anyio.move_on_after(batch.longest_s + _GRACE_S, shield=True):
            await batch.done.wait()
        if not batch.done.is_set():
            self._worker.dismiss()
            batch.error = LinkTimeoutError(self.name, batch.longest_s + _GRACE_S)


class _Worker(threading.Thread):
    """The thread that owns one device, from open to close."""

    def __init__(self, place: UsbPlace, load_backend: Callable[[], Any]) -> None:
        super().__init__(name=place.port, daemon=True)
        self.port = place.port
        self.identity: UsbIdentity | None = None
        self.error: TransportError | None = None
        """Why there is no open device."""
        self.opened = anyio.Event()
        """Set when the device is open, or never will be."""
        self.ended = anyio.Event()
        """Set when the device is closed and the thread is about to end."""
        self._place = place
        self._load_backend = load_backend
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._waiting: _Batch | None = None
        self._dismissed = False

    # -- called by the event loop ----------------------------------------------------------------------------------

    def take(self, batch: _Batch) -> bool:
        """Queue a batch; false once the device is closed. One at a time."""
        if self._dismissed or self.ended.is_set():
            return False
        self._waiting = batch
        self._batches.put(batch)
        return True

    def dismiss(self) -> None:
        """Ask the thread to close the device and to end."""
        self._dismissed = True
        self._batches.put(None)

    def _on_end(self) -> None:
        """Wake whoever still waits: nothing more will come."""
        self.opened.set()
        self.ended.set()
        if self._waiting is not None and not self._waiting.done.is_set():
            self._waiting.error = LinkClosedError(self.port)
            self._waiting.done.set()

    # -- the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Own the device."""
        try:
            self._own(BlockingUsbDevice(self._load_backend(), self._place))
        except TransportError as error:
            self.error = error
        finally:
            self._tell(self._on_end)

    def _own(self, device: BlockingUsbDevice) -> None:
        try:
            self.identity = device.identity
            self._tell(self.opened.set)
            while (batch := self._batches.get()) is not None:
                self._carry_out(device, batch)
                self._tell(batch.done.set)
        finally:
            device.close()

    def _carry_out(self, device: BlockingUsbDevice, batch: _Batch) -> None:
        """Run the batch, until an error, an answer that ends it, or until it is stopped."""
        try:
            for transfer in batch.transfers:
                if batch.stopped or self._dismissed:
                    raise LinkClosedError(self.port)
                reply = device.transfer(transfer)
                batch.replies.append(reply)
                if isinstance(transfer, BulkTransfer) and transfer.ends_batch(reply):
                    return
        except IspdError as error:
            batch.error = error

    def _tell(self, news: Callable[[], object]) -> None:
        """Call something on the event loop, unless that has ended before us."""
        try:
            self._loop.call_soon_threadsafe(news)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
