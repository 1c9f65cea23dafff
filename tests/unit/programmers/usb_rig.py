"""A USB programmer on the virtual bench, with somebody between it and the driver who listens and meddles."""

from collections.abc import Callable, Sequence
from enum import Enum

import anyio

from ispd.errors import LinkTimeoutError, RemoteProtocolError
from ispd.programmers.contract import IspDriver, IspProgrammer
from ispd.transport.contract import ControlTransfer, UsbIdentity, UsbLink, UsbTransfer
from vbench.emulated import EmulatedUsb
from vbench.hardware import BenchHardware
from vbench.target import AvrTarget

__all__ = ["Meddle", "Rig"]

PORT = "A1"


class Meddle(Enum):
    """What happens to a transfer on its way. The device has carried it out only where an answer is falsified."""

    STALL = "stall"
    TIMEOUT = "timeout"
    EMPTY = "empty"
    SHORT = "short"


Meddler = Callable[[int, ControlTransfer], Meddle | None]


def leave_alone(_index: int, _transfer: ControlTransfer) -> Meddle | None:
    """Let everything pass."""
    return None


class MeddledLink:
    """Passes transfers on one by one, unless the meddler has something for them."""

    def __init__(self, link: UsbLink, rig: "Rig") -> None:
        self._link = link
        self._rig = rig

    @property
    def name(self) -> str:
        return self._link.name

    @property
    def identity(self) -> UsbIdentity:
        return self._link.identity

    async def submit(self, transfers: Sequence[UsbTransfer]) -> list[bytes]:
        await anyio.sleep(self._rig.lag())
        return [await self._one(transfer) for transfer in transfers]

    async def _one(self, transfer: UsbTransfer) -> bytes:
        assert isinstance(transfer, ControlTransfer)
        meddle = self._rig.meddler(len(self._rig.log), transfer)
        self._rig.log.append(transfer)
        if meddle is Meddle.STALL:
            raise RemoteProtocolError(f"{self.name} refused request {transfer.request} (stall)")
        if meddle is Meddle.TIMEOUT:
            raise LinkTimeoutError(self.name, transfer.timeout_s)
        (reply,) = await self._link.submit([transfer])
        match meddle:
            case Meddle.EMPTY:
                return b""
            case Meddle.SHORT:
                return reply[:-1]
            case _:
                return reply

    async def aclose(self) -> None:
        await self._link.aclose()


class _MeddledBench(BenchHardware):
    def __init__(self, rig: "Rig") -> None:
        super().__init__()
        self._rig = rig

    async def open_usb(self, port: str) -> UsbLink:  # type: ignore[override]  # a wrapped link is a link, too
        return MeddledLink(await super().open_usb(port), self._rig)


class Rig:
    """A bench with one USB programmer, not yet opened. ``log`` holds every transfer the driver began."""

    def __init__(
        self, driver: IspDriver, board: EmulatedUsb, target: AvrTarget, usb: UsbIdentity | None = None
    ) -> None:
        self.log: list[ControlTransfer] = []
        self.meddler: Meddler = leave_alone
        self.lag: Callable[[], float] = float
        """How long a busy machine takes to get to each batch."""
        self.board = board
        self.target = target
        self.kind = driver.kind
        self.bench = _MeddledBench(self)
        self.bench.add(PORT, board, usb=usb)
        self._driver = driver

    async def open(self) -> IspProgrammer:
        return await self._driver.open(self.bench, PORT)

    def unplug(self) -> None:
        self.bench.unplug(PORT)

    def check(self) -> None:
        """Fail on anything a data sheet forbids and on a target left in reset."""
        self.bench.target(PORT)
        assert [str(violation) for violation in self.target.violations] == []
        assert not self.target.in_reset
