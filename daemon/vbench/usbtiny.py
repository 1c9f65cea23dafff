"""USBtinyISP: the firmware of Adafruit's programmer, SparkFun's Pocket AVR and the Arduino ISP.

Source: jwatte/usbtiny 0ae0511, usbtinyisp/main.c and usbtiny/usb.c (ATtiny2313 at 12 MHz); its traps are kept. Pins moved
one by one (requests 2 to 4, 13) move the reset line, but SCK moved by hand clocks nothing here.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.faults import UsbFault
from vbench.target import AvrTarget
from vbench.usb_device import PACKET_BYTES, TAU_S, UsbDevice

__all__ = ["STRETCH", "UsbTiny", "UsbTinyModel"]

STRETCH = 2.2
"""How much longer the bit-bang loop takes because polls of the host interrupt it. 1.0 is undisturbed; 2.2 explains the
only public measurement (23,032 bytes read in 20 s at period 10)."""
_BIT_OVERHEAD_US = 1.875
"""A bit takes the period and this much more, counted in the instructions of the 12 MHz firmware."""
_BYTE_OVERHEAD_US = 9.0
"""Making an instruction and storing its result."""
_BITS = 32
_PERIOD_0 = 256
"""The delay loop counts down before it looks: 0 is 256 rounds. (No host asks for it; 1 to 250 are the periods.)"""
_READ_LIMIT = 255
"""usb.c keeps the length of an answer in a byte."""

_LED, _RESET, _MOSI, _MISO, _SCK = 0x01, 0x10, 0x20, 0x40, 0x80
_OUTPUTS = _LED | _RESET | _MOSI | _SCK
_FLASH_READ, _FLASH_WRITE, _EEPROM_READ, _EEPROM_WRITE = 0x20, 0x40, 0xA0, 0xC0
"""First instruction byte that requests 9 to 12 start from."""
_HIGH_BYTE = 0x08
_WRITE_TO_READ = 0x60


class UsbTinyModel(StrEnum):
    """Who sold it. All speak the same protocol; none has a serial number, except LittleWire, whose is always 512."""

    USBTINYISP = "usbtinyisp"
    USBTINY_SPI = "usbtiny-spi"
    """Firmware before version 2 of the hardware: no requests 13 and 14."""
    LITTLE_WIRE = "little-wire"
    ARDUINO_ISP = "arduino-isp"
    ARDUINO_ORG_ISP = "arduino-org-isp"


_IDENTITY = {
    UsbTinyModel.USBTINYISP: UsbIdentity(vendor_id=0x1781, product_id=0x0C9F, product="USBtinyISP"),
    UsbTinyModel.USBTINY_SPI: UsbIdentity(vendor_id=0x1781, product_id=0x0C9F, product="USBtiny SPI"),
    UsbTinyModel.LITTLE_WIRE: UsbIdentity(vendor_id=0x1781, product_id=0x0C9F, product="USBtinySPI", serial="512"),
    UsbTinyModel.ARDUINO_ISP: UsbIdentity(vendor_id=0x2341, product_id=0x0049, product="USBtinyISP"),
    UsbTinyModel.ARDUINO_ORG_ISP: UsbIdentity(vendor_id=0x2A03, product_id=0x0049, product="USBtinyISP"),
}
_VERSION = {UsbTinyModel.USBTINY_SPI: 0x0106, UsbTinyModel.LITTLE_WIRE: 0x0104}
_NEWEST_VERSION = 0x0107


class UsbTiny(UsbDevice):
    """A USBtinyISP with its header. All times are bench seconds.

    :param model: who sold it.
    :param target: board on the header, or None.
    :param tau_s: how long one low-speed transaction takes.
    :param stretch: factor on the time of the bit-bang loop, see ``STRETCH``.
    """

    def __init__(
        self,
        model: UsbTinyModel = UsbTinyModel.USBTINYISP,
        *,
        target: AvrTarget | None = None,
        tau_s: float = TAU_S,
        stretch: float = STRETCH,
        faults: Sequence[UsbFault] = (),
    ) -> None:
        self.stretch = stretch
        self._has_new_requests = model is not UsbTinyModel.USBTINY_SPI
        super().__init__(
            _IDENTITY[model],
            version=_VERSION.get(model, _NEWEST_VERSION),
            target=target,
            tau_s=tau_s,
            faults=faults,
        )

    def _start(self) -> None:
        self._port = self._direction = 0
        self._is_buffer_on = False
        self._address = self._timeout_us = 0
        self._poll_values = (0, 0)
        self._first_byte = self._data_byte = 0
        self._set_period(0)

    def _set_period(self, period: int) -> None:
        self._period = period
        bit_us = (period or _PERIOD_0) + _BIT_OVERHEAD_US
        self.sck_hz = 1e6 / bit_us
        self._bit_s = bit_us * 1e-6 * self.stretch
        self._instruction_s = (_BITS * bit_us + _BYTE_OVERHEAD_US) * 1e-6 * self.stretch

    # -- requests --------------------------------------------------------------------------------------------------

    def _request(self, transfer: ControlTransfer) -> bytes:
        """``usb_setup``, then the data stage through ``usb_in`` or ``usb_out``; unknown requests answer nothing."""
        answer = self._setup(transfer)
        if answer is None:
            return self._read(min(transfer.length, _READ_LIMIT))
        for packet in self._packets(transfer.data):
            for byte in packet:
                self._write(byte)
        return self._reply(transfer, answer)

    def _setup(self, transfer: ControlTransfer) -> bytes | None:
        """Carry out a SETUP packet; None: what is asked for is read while it is sent."""
        value, index = transfer.value, transfer.index
        match transfer.request:
            case 0:  # ECHO
                return self._setup_packet(transfer)
            case 1:  # READ: inputs float high
                return bytes((self._port & self._direction | _MISO,))
            case 2:  # WRITE
                self._drive(value & 0xFF, self._direction)
            case 3:  # CLR
                self._drive(self._port & ~(1 << (value & 7)), self._direction)
            case 4:  # SET
                self._drive(self._port | 1 << (value & 7), self._direction)
            case 5:  # POWERUP
                self._set_period(value & 0xFF)
                self._is_buffer_on = True
                self._drive(_LED | (_RESET if index & 0xFF else 0), _OUTPUTS)
            case 6:  # POWERDOWN
                self._is_buffer_on = False
                self._drive(0, 0)
            case 13 if self._has_new_requests:  # DDRWRITE
                self._drive(self._port, value & 0xFF)
            case _ if self._port != 0:
                return self._programming_setup(transfer)
        return b""

    def _programming_setup(self, transfer: ControlTransfer) -> bytes | None:
        """Requests that the firmware ignores while its port is all zero, which is its sign of being powered down."""
        value, index = transfer.value, transfer.index
        match transfer.request:
            case 7:  # SPI
                return self._exchange(bytes((value & 0xFF, value >> 8, index & 0xFF, index >> 8)))
            case 14 if self._has_new_requests:  # SPI1
                return self._exchange(bytes((value & 0xFF,)))
            case 8:  # POLL_BYTES
                self._poll_values = value & 0xFF, value >> 8
                return b""
        self._address = index
        match transfer.request:
            case 9:
                self._first_byte = _FLASH_READ
                return None
            case 11:
                self._first_byte = _EEPROM_READ
                return None
            case 10:
                self._first_byte, self._timeout_us = _FLASH_WRITE, value
            case 12:
                self._first_byte, self._timeout_us = _EEPROM_WRITE, value
            case _:
                self._timeout_us = value
        return b""

    @staticmethod
    def _setup_packet(transfer: ControlTransfer) -> bytes:
        length = transfer.length if transfer.is_in else len(transfer.data)
        words = (transfer.value, transfer.index, length)
        return bytes((transfer.request_type, transfer.request)) + b"".join(word.to_bytes(2, "little") for word in words)

    # -- pins ------------------------------------------------------------------------------------------------------

    @property
    def _reaches_target(self) -> bool:
        return self._is_buffer_on and self._direction & (_SCK | _MOSI) == _SCK | _MOSI

    def _drive(self, port: int, direction: int) -> None:
        """Set port and direction; released pins and a buffer that is off leave reset to the target's pull-up."""
        self._port, self._direction = port & 0xFF, direction
        active = self._is_buffer_on and bool(direction & _RESET) and not port & _RESET
        if active != self.socket.reset_active:
            self.socket.set_reset(active, self.now)

    def _exchange(self, sent: bytes) -> bytes:
        """Clock bytes as they are: the ``spi`` function."""
        reply = b"\xff" * len(sent)
        if self._reaches_target:
            reply = self.socket.exchange(sent, self.now, self.sck_hz)
        self.now += 8 * len(sent) * self._bit_s + _BYTE_OVERHEAD_US * 1e-6 * self.stretch
        return reply

    # -- memories --------------------------------------------------------------------------------------------------

    def _next_instruction(self) -> tuple[int, int, int]:
        """Take one byte address and make the instruction's first three bytes: the ``spi_rw`` function.

        Addresses have 16 bits: flash wraps at 64 KiB, EEPROM (doubled, so that it comes out undivided) at 32 KiB.
        """
        address, self._address = self._address, self._address + 1 & 0xFFFF
        if self._first_byte & 0x80:
            address = address << 1 & 0xFFFF
        return self._first_byte | (_HIGH_BYTE if address & 1 else 0), address >> 9, address >> 1 & 0xFF

    def _instruction(self, b1: int, b2: int, b3: int) -> int:
        value = 0xFF
        if self._reaches_target:
            value = self.socket.instruction(b1, b2, b3, self._data_byte, self.now, self.sck_hz)
        self.now += self._instruction_s
        return value

    def _read(self, length: int) -> bytes:
        data = bytearray()
        for _ in range(math.ceil(length / PACKET_BYTES)):
            for _ in range(min(PACKET_BYTES, length - len(data))):
                data.append(self._instruction(*self._next_instruction()))
            self.now += self.tau_s
        return bytes(data)

    def _write(self, byte: int) -> None:
        """Write one byte; with a timeout, read it until it is what was written and no poll value.

        The firmware counts a poll as 32 periods, which is less than it takes.
        """
        self._data_byte = byte
        b1, b2, b3 = self._next_instruction()
        self._instruction(b1, b2, b3)
        waited_us = 0
        while waited_us < self._timeout_us:
            if self._instruction(b1 ^ _WRITE_TO_READ, b2, b3) == byte and byte not in self._poll_values:
                return
            waited_us += _BITS * (self._period or _PERIOD_0)
