"""USBasp: the stock firmware by its releases, and forks that behave otherwise. ATmega8 at 12 MHz with V-USB.

Source: stefanbeller/USBasp 43bfd5a (firmware/main.c, isp.c, usbdrv), nerdralph/usbasp and dioannidis/usbasp; their traps
are kept. TPI and the SPI capture of one fork are not imitated: such requests raise ``NotImplementedError``.
"""

import math
from collections.abc import Sequence

from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.faults import UsbFault
from vbench.target import AvrTarget
from vbench.usb_device import PACKET_BYTES, TAU_S, HungError, StallError, UsbDevice
from vbench.usbasp_firmware import RELEASES, Release, UsbAspFirmware
from vbench.usbasp_isp import Isp

__all__ = ["UsbAsp", "UsbAspFirmware"]

_FLAG_FIRST, _FLAG_LAST = 0x01, 0x02
_NO_MESSAGE = 0xFF
"""V-USB's length for "ask the firmware for each packet"; as an IN length it can never be answered."""
_TPI_REQUESTS = range(11, 17)


class UsbAsp(UsbDevice):
    """A USBasp with its header. All times are bench seconds.

    :param firmware: which release or fork runs on it.
    :param target: board on the header, or None.
    :param manufacturer: text of a clone; the firmware's own where None. ``product`` and ``serial`` alike.
    :param slow_jumper: "slow SCK" is closed: stock firmware runs SCK at 8 kHz whatever is asked.
    :param buffer_bytes: longest block a clone takes; None where packets are worked off as they come.
    :param tau_s: how long one low-speed transaction takes.
    """

    def __init__(  # noqa: PLR0913 (all but one are options of the hardware)
        self,
        firmware: UsbAspFirmware = UsbAspFirmware.STOCK_2011,
        *,
        target: AvrTarget | None = None,
        manufacturer: str | None = None,
        product: str | None = None,
        serial: str | None = None,
        slow_jumper: bool = False,
        buffer_bytes: int | None = None,
        tau_s: float = TAU_S,
        faults: Sequence[UsbFault] = (),
    ) -> None:
        release = self._release = RELEASES[firmware]
        self._buffer_bytes = math.inf if buffer_bytes is None else buffer_bytes
        self._slow_jumper = slow_jumper
        usb = UsbIdentity(
            vendor_id=release.vendor_id,
            product_id=release.product_id,
            manufacturer=release.manufacturer if manufacturer is None else manufacturer,
            product=release.product if product is None else product,
            serial=release.serial if serial is None else serial,
        )
        super().__init__(usb, version=release.version, target=target, tau_s=tau_s, faults=faults)

    @property
    def release(self) -> Release:
        """What its firmware can do."""
        return self._release

    @property
    def sck_hz(self) -> float:
        """SCK as it is now."""
        return self.isp.sck_hz

    def _start(self) -> None:
        self.isp = Isp(self.socket, self._release, slow_jumper=self._slow_jumper)
        self._keeps_address = False
        self._address = 0
        self._page_bytes = 0
        self._page_counter = 0

    # -- requests --------------------------------------------------------------------------------------------------

    def _request(self, transfer: ControlTransfer) -> bytes:
        """``usbFunctionSetup``; requests a release does not know answer nothing, and data for them is dropped."""
        isp = self.isp
        isp.now = self.now
        try:
            return self._function(transfer)
        finally:
            self.now = max(self.now, isp.now)

    def _function(self, transfer: ControlTransfer) -> bytes:
        release, value, index = self._release, transfer.value, transfer.index
        match transfer.request:
            case 4 | 6 | 7 | 8:
                return self._block(transfer)
            case 1:  # CONNECT
                self._keeps_address = False
                self.isp.connect()
                answer = b""
            case 2:  # DISCONNECT
                self.isp.disconnect()
                answer = b""
            case 3:  # TRANSMIT
                answer = self.isp.transmit(bytes((value & 0xFF, value >> 8, index & 0xFF, index >> 8)))
            case 5:  # ENABLEPROG
                answer = bytes((0 if self.isp.enable() else 1,))
            case 9 if release.has_long_address:  # SETLONGADDRESS
                self._keeps_address = True
                self._address = value | index << 16
                answer = b""
            case 10 if release.has_sck_option:  # SETISPSCK
                self.isp.option = value & 0xFF
                answer = b"\x00"
            case 127 if release.capabilities is not None:  # GETCAPABILITIES
                answer = release.capabilities.to_bytes(4, "little")
            case request if request in _TPI_REQUESTS and release.has_tpi:
                raise NotImplementedError("TPI is not imitated")
            case _:
                answer = b""
        return self._answered(transfer, answer)

    def _answered(self, transfer: ControlTransfer, answer: bytes) -> bytes:
        self.now = self.isp.now
        if transfer.data:
            for _ in self._packets(transfer.data):
                pass  # nobody takes it
        return self._reply(transfer, answer)

    # -- blocks ----------------------------------------------------------------------------------------------------

    def _block(self, transfer: ControlTransfer) -> bytes:
        """READFLASH, WRITEFLASH, READEEPROM and WRITEEEPROM: work is done packet by packet."""
        if not self._keeps_address:
            self._address = transfer.value
        if transfer.request in (4, 7):
            return self._read_block(transfer)
        if transfer.request == 6:
            self._page_bytes = transfer.index & 0xFF | (transfer.index >> 12) << 8
            flags = transfer.index >> 8 & 0x0F
            if flags & _FLAG_FIRST:
                self._page_counter = self._page_bytes & 0xFF  # one byte in the firmware: 256 counts as 0
        else:
            self._page_bytes = flags = 0
        self.isp.begin_block()
        if not transfer.data:
            raise HungError  # it waits for data before it lets the status stage through
        if len(transfer.data) > self._buffer_bytes:
            raise StallError
        self._write_block(transfer, flags)
        return b""

    def _read_block(self, transfer: ControlTransfer) -> bytes:
        length = transfer.length
        if not self._release.has_long_transfers:
            length &= 0xFF
            if length == _NO_MESSAGE:
                raise HungError
        length = int(min(length, self._buffer_bytes))
        self.isp.begin_block()
        read = self.isp.read_flash if transfer.request == 4 else self.isp.read_eeprom
        isp, mask = self.isp, self._release.address_mask
        data = bytearray()
        while len(data) < length:
            for _ in range(min(PACKET_BYTES, length - len(data))):
                data.append(read(self._address))
                self._address = self._address + 1 & mask
            isp.now += self.tau_s
        return bytes(data)

    def _write_block(self, transfer: ControlTransfer, flags: int) -> None:
        isp, mask = self.isp, self._release.address_mask
        left = len(transfer.data)
        for start in range(0, left, PACKET_BYTES):
            isp.now += self.tau_s
            for byte in transfer.data[start : start + PACKET_BYTES]:
                left -= 1
                self._write_byte(transfer.request, byte)
                if left == 0 and flags & _FLAG_LAST and self._page_counter != self._page_bytes:
                    isp.flush_page(
                        self._address, byte
                    )  # of a 256-byte page once more: the counter never equals its size
                self._address = self._address + 1 & mask

    def _write_byte(self, request: int, byte: int) -> None:
        address = self._address
        if request == 8:
            self.isp.write_eeprom(address, byte)
        elif self._page_bytes == 0:
            self.isp.write_unpaged(address, byte)
        else:
            self.isp.load(address, byte)
            self._page_counter = self._page_counter - 1 & 0xFF
            if self._page_counter == 0:
                self.isp.flush_page(address, byte)
                self._page_counter = self._page_bytes & 0xFF
