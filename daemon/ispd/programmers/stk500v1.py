"""STK500v1 programmers: ArduinoISP on an Uno, on USB-native boards, and QMK's "ISP flasher" builds of the same sketch.

Facts of the sketch: ``ArduinoISP.ino`` 1.18 (arduino-examples). Its SPI clock is fixed at compile time: 166.7 kHz asked,
125 kHz from a 16 MHz board. ``P`` never tells whether a target is there, and does nothing when programming mode is
already on, so that every entering leaves first.
"""

from collections.abc import Sequence
from typing import Final, Literal

import anyio

from ispd.errors import LocalProtocolError
from ispd.model.image import Segment
from ispd.model.part import AvrPart, Interface, MemoryKind
from ispd.model.span import Span
from ispd.programmers.contract import Capabilities, IspProgrammer, Monitor, ProgrammerIdentity
from ispd.programmers.stk500v1_memory import TargetMemory
from ispd.programmers.stk500v1_pace import Pace
from ispd.programmers.stk500v1_sketch import Sketch
from ispd.transport.contract import Opener, PortKind, SerialSettings, UsbIdentity
from ispd.transport.link import SerialLink
from ispd.wire.engine import Request
from ispd.wire.stk500v1 import EnterProgmode, LeaveProgmode, SetDevice, SetDeviceExtended
from ispd.wire.window import UART_AHEAD_BYTES, Window

__all__ = ["DRIVER", "SCK_HZ", "Stk500v1Driver", "Stk500v1Programmer", "window_of"]

KIND: Final = "stk500v1"

SCK_HZ: Final = 125_000
"""16 MHz / 128, the divider next below the 166.7 kHz that the sketch asks for."""

_DEFAULT_BAUD: Final = 19200
_ENTER_S: Final = 3.0
"""Deadline for leaving and entering: 70 ms for the reset sequence, 25 ms on the line."""

_USB_NATIVE: Final = frozenset(
    {
        (0x2341, 0x8036),  # Arduino Leonardo
        (0x2341, 0x8037),  # Arduino Micro
        (0x2A03, 0x8036),  # the same, arduino.org
        (0x2A03, 0x8037),
        (0x1B4F, 0x9204),  # SparkFun Pro Micro 3.3 V
        (0x1B4F, 0x9206),  # SparkFun Pro Micro 5 V
        (0x1B4F, 0x9208),  # LilyPad USB
        (0x16C0, 0x0483),  # Teensyduino serial: QMK's ISP flasher for Teensy 2.0 and Pro Micro, and much else
    }
)
"""Boards whose USB controller holds the host back by itself (NAK), so that nothing is lost however much is sent."""

_TEENSYDUINO: Final = (0x16C0, 0x0483)
_ISP_FLASHER_TEXTS: Final = ("Teensyduino", "USB Serial", "12345")
"""Manufacturer, product and serial number of every unit with QMK's ``pro_micro_ISP_B6_10.hex`` or
``teensy_2.0_ISP_B0.hex``. Any Teensy with a serial port has the same ids; only these texts are claimed."""

_UART: Final = frozenset(
    {
        (0x2341, 0x0043),  # Arduino Uno R3
        (0x2341, 0x0001),  # Arduino Uno
        (0x2341, 0x0243),  # Arduino Uno R3 (genuine, later)
        (0x2A03, 0x0043),  # the same, arduino.org
    }
)
"""Boards that are ISP programmers if they are on a flashing station at all, behind a USB to UART converter."""


def window_of(usb: UsbIdentity | None) -> Window:
    """Return how far a board with this identity lets us run ahead; an unknown one is taken for an Uno."""
    is_native = usb is not None and (usb.vendor_id, usb.product_id) in _USB_NATIVE
    return Window(ahead_bytes=None if is_native else UART_AHEAD_BYTES)


class Stk500v1Programmer:
    """An open ArduinoISP; see :class:`~ispd.programmers.contract.IspProgrammer`. Made by :class:`Stk500v1Driver`."""

    def __init__(self, sketch: Sketch, firmware: str) -> None:
        self._sketch = sketch
        self._pace = Pace()
        self._identity = ProgrammerIdentity(kind=KIND, port=sketch.name, firmware=firmware)
        self._part: AvrPart | None = None
        self._memory: TargetMemory | None = None

    @property
    def identity(self) -> ProgrammerIdentity:
        """Who answered when the port was opened."""
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        """Flash of any size, one fixed clock, flash and EEPROM in bulk."""
        return Capabilities(
            max_flash_bytes=None, sck_hz=(SCK_HZ,), bulk=frozenset({MemoryKind.FLASH, MemoryKind.EEPROM})
        )

    async def enter(self, part: AvrPart | None, sck_hz: int | None) -> int:  # noqa: ARG002 - the sketch's clock is fixed
        """Take the target into programming mode with a reset pulse; returns 125000 whatever was asked."""
        self._memory = None
        await self._sketch.ensure(ask_again=True)
        self._part = part
        self._memory = await self._enter()
        return SCK_HZ

    async def leave(self) -> None:
        """Release reset; shielded, so that a cancelled task does it too. Harmless at any time."""
        with anyio.CancelScope(shield=True):
            self._memory = None
            await self._sketch.ensure()
            await self._sketch.command([LeaveProgmode()], deadline_s=_ENTER_S)

    async def transfer(self, instructions: Sequence[bytes]) -> bytes:
        """Send SPI instructions back to back and return the fourth reply byte of each."""
        memory = await self._entered()
        return await memory.transfer(instructions)

    async def read(self, memory: MemoryKind, span: Span, monitor: Monitor) -> bytes:
        """Read flash or EEPROM."""
        target = await self._entered()
        return await target.read(memory, span, monitor)

    async def write(self, part: AvrPart, memory: MemoryKind, pages: Sequence[Segment], monitor: Monitor) -> int:
        """Write whole flash pages or EEPROM bytes; ``part`` must be the one programming mode was entered with."""
        if part != self._part:
            raise LocalProtocolError(f"programming mode was not entered for {part.id}")
        target = await self._entered()
        match memory:
            case MemoryKind.FLASH:
                return await target.write_flash(pages, monitor)
            case MemoryKind.EEPROM:
                return await target.write_eeprom(pages, monitor)
            case _:
                raise LocalProtocolError(f"{memory} is not written in blocks")

    async def aclose(self) -> None:
        """Close the port; never raises."""
        await self._sketch.aclose()

    async def _entered(self) -> TargetMemory:
        """Return the target in programming mode; enters again where the framing was lost since."""
        if self._memory is None:
            # without programming mode the sketch would wait for its SPI unit for ever
            raise LocalProtocolError("programming mode was not entered")
        if self._memory.is_stale:
            await self._sketch.ensure()
            self._memory = await self._enter()
        return self._memory

    async def _enter(self) -> TargetMemory:
        """Leave, tell the part, enter: one batch, sent only to a sketch that was just recognised."""
        device = SetDevice.unknown() if self._part is None else SetDevice.of(self._part)
        extended = SetDeviceExtended(0 if self._part is None else self._part.eeprom.page_bytes)
        batch: list[Request[None]] = [LeaveProgmode(), device, extended, EnterProgmode()]
        await self._sketch.command(batch, deadline_s=_ENTER_S)
        return TargetMemory(self._sketch, self._part, self._pace)


class Stk500v1Driver:
    """See :class:`~ispd.programmers.contract.Driver`."""

    kind: str = KIND
    interface: Literal[Interface.ISP] = Interface.ISP
    port_kind: PortKind = PortKind.SERIAL
    default_baud: int | None = _DEFAULT_BAUD

    def claims(self, usb: UsbIdentity) -> bool:
        """Claim boards that run ArduinoISP on a flashing station; bare USB to UART converters may be anything."""
        ids = (usb.vendor_id, usb.product_id)
        if ids == _TEENSYDUINO:
            return (usb.manufacturer, usb.product, usb.serial) == _ISP_FLASHER_TEXTS
        return ids in _USB_NATIVE | _UART

    async def open(
        self, hardware: Opener, port: str, *, baud: int | None = None, usb: UsbIdentity | None = None
    ) -> IspProgrammer:
        """Open the port, wait for the sketch, and release a target that an earlier run may have left in reset."""
        settings = SerialSettings(port=port, baud=_DEFAULT_BAUD if baud is None else baud)
        sketch = Sketch(SerialLink(await hardware.open_serial(settings)), window_of(usb))
        is_ready = False
        try:
            await sketch.ensure()
            programmer = Stk500v1Programmer(sketch, await sketch.firmware())
            await programmer.leave()
            is_ready = True
        finally:
            if not is_ready:
                await sketch.aclose()
        return programmer


DRIVER: Final = Stk500v1Driver()
