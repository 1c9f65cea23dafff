"""An ST-Link with an STM32F1 behind it on the virtual bench, with somebody between it and the driver who listens and meddles."""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum

from ispd.errors import LinkClosedError, LinkTimeoutError, RemoteProtocolError
from ispd.programmers.stlink_probe import StlinkProbe, open_stlink
from ispd.transport.contract import BulkTransfer, BytePort, SerialSettings, UsbIdentity, UsbLink, UsbTransfer
from vbench.bench_port import BenchTime
from vbench.bench_usb import BenchUsbLink
from vbench.cortex_m3 import State
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware
from vbench.stm32f1 import Stm32F1
from vbench.swd import SwdSocket, SwdWiring
from vbench.virtual_time import VirtualClock

__all__ = ["PORT", "PROGRAM", "V2_1", "V3", "Meddle", "Quiet", "Rig", "running_chip"]

PORT = "usb:1-1.4"
V2_1, V3 = 0x374B, 0x374E
PROGRAM = bytes.fromhex("00500020 41000008") + bytes(56) + bytes.fromhex("FEE7")
"""A vector table, and a program that goes round."""


def running_chip(**faults: object) -> Stm32F1:
    """Return a chip with that program."""
    chip = Stm32F1(**faults)  # type: ignore[arg-type]  # what a chip can be given
    chip.chip.flash[: len(PROGRAM)] = PROGRAM
    return chip


class Meddle(Enum):
    """What happens to a transfer on its way. The device has carried it out only where an answer is falsified."""

    STALL = "stall"
    TIMEOUT = "timeout"
    UNPLUG = "unplug"
    SHORT = "short"
    EMPTY = "empty"


Meddler = Callable[[int, BulkTransfer], Meddle | bytes | None]
"""Given the transfer and its number. Bytes are what the driver gets in place of the device's answer, which is dropped."""


class Quiet:
    """A monitor that never stops anything."""

    stop_requested = False

    def __init__(self) -> None:
        self.done = 0

    def advance(self, done_bytes: int) -> None:
        self.done += done_bytes


class _Link:
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
        self._rig.batches += 1
        found: list[bytes] = []
        for transfer in transfers:
            found.append(await self._one(transfer))
            if isinstance(transfer, BulkTransfer) and transfer.ends_batch(found[-1]):
                break
        return found

    async def _one(self, transfer: UsbTransfer) -> bytes:
        assert isinstance(transfer, BulkTransfer), "an ST-Link takes nothing else"
        meddle = self._rig.meddler(len(self._rig.log), transfer)
        self._rig.log.append(transfer)
        match meddle:
            case Meddle.STALL:
                raise RemoteProtocolError(f"{self.name} stalled", is_usb=True)
            case Meddle.TIMEOUT:
                raise LinkTimeoutError(self.name, transfer.timeout_s)
            case Meddle.UNPLUG:
                self._rig.unplug()
                raise LinkClosedError(self.name)
        (reply,) = await self._link.submit([transfer])
        if isinstance(meddle, bytes):
            return meddle
        if meddle is Meddle.EMPTY:
            return b""
        return reply[:-1] if meddle is Meddle.SHORT else reply

    async def aclose(self) -> None:
        self._rig.is_closed = True
        await self._link.aclose()


class Rig:
    """Everything on one bench. ``log`` holds every transfer the driver began, ``commands`` those of them that are commands."""

    def __init__(
        self,
        chip: Stm32F1 | None,
        firmware: StLinkFirmware | None = None,
        *,
        wiring: SwdWiring | None = None,
        serial: str = "0" * 24,
        product_id: int | None = None,
    ) -> None:
        self.chip = chip
        self.device = StLink(firmware, socket=SwdSocket(chip, wiring=wiring), serial=serial)
        self.clock = VirtualClock()
        self.time = BenchTime(1.0)
        self.log: list[BulkTransfer] = []
        self.batches = 0
        self.meddler: Meddler = lambda _index, _transfer: None
        self.is_closed = False
        usb = self.device.usb
        self._identity = UsbIdentity(
            vendor_id=usb.vendor_id,
            product_id=usb.product_id if product_id is None else product_id,
            manufacturer=usb.manufacturer,
            product=usb.product,
            serial=usb.serial,
        )
        self._is_plugged = True
        self._link: BenchUsbLink | None = None

    @property
    def commands(self) -> list[str]:
        """Commands so far in hexadecimal digits, without the zeros behind them."""
        outs = [one.data for one in self.log if not one.endpoint & 0x80 and len(one.data) == 16]
        return [command.rstrip(b"\0").hex(" ").upper() for command in outs]

    async def open_serial(self, settings: SerialSettings) -> BytePort:  # noqa: ARG002 - the contract's signature
        raise AssertionError("an ST-Link is no serial port")

    async def open_usb(self, port: str) -> UsbLink:
        self._link = BenchUsbLink(port, self._identity, self.device, self.time, lambda: None)
        return _Link(self._link, self)

    async def open(self) -> StlinkProbe:
        return await open_stlink(self, PORT, self.clock)

    def unplug(self) -> None:
        if self._is_plugged:
            self._is_plugged = False
            self.device.power_off(self.time.now())
            if self._link is not None:
                self._link.lose()

    def falsify(self, command: str, answers: Iterable[bytes]) -> None:
        """Have a command, by its first bytes, answered with these, one after the other, and then truly."""
        left = iter(answers)
        head = bytes.fromhex(command)

        def meddle(index: int, transfer: BulkTransfer) -> bytes | None:
            is_answer = transfer.is_in and self.log[index - 1].data.startswith(head)
            return next(left, None) if is_answer else None

        self.meddler = meddle

    @property
    def is_free(self) -> bool:
        """Whether nothing holds the chip: no reset, no halt, no program of ours in RAM; what is in its flash may be rubbish."""
        assert self.chip is not None
        self.device.run(self.time.now())
        return not self.device.socket.nrst_low and self.chip.core.state in (State.IN_FLASH, State.LOCKUP)

    @property
    def runs(self) -> bool:
        """Whether the chip is left alone: no reset, no halt, its program runs."""
        assert self.chip is not None
        self.device.run(self.time.now())
        return not self.device.socket.nrst_low and self.chip.core.is_in_flash
