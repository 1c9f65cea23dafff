"""ArduinoISP on a board: the microcontroller with its bootloader and sketch, seen from the host's port."""

from collections.abc import Sequence

from ispd.transport.contract import UsbIdentity
from vbench.arduino_isp import ArduinoIsp
from vbench.faults import ProgrammerFault
from vbench.isp_socket import IspSocket
from vbench.line import Flavour
from vbench.mcu import Mcu, Program
from vbench.optiboot import Optiboot
from vbench.serial_board import SerialBoard
from vbench.target import AvrTarget

__all__ = ["SerialProgrammer", "usb_identity_of"]


_USB = {
    Flavour.UART: UsbIdentity(vendor_id=0x1A86, product_id=0x7523, product="USB Serial"),
    Flavour.UNO: UsbIdentity(vendor_id=0x2341, product_id=0x0043, manufacturer="Arduino (www.arduino.cc)"),
    Flavour.LEONARDO: UsbIdentity(
        vendor_id=0x2341, product_id=0x8036, manufacturer="Arduino LLC", product="Arduino Leonardo"
    ),
    # QMK's ISP flasher images: one serial number for all of them
    Flavour.TEENSYDUINO: UsbIdentity(
        vendor_id=0x16C0, product_id=0x0483, manufacturer="Teensyduino", product="USB Serial", serial="12345"
    ),
}


def usb_identity_of(flavour: Flavour) -> UsbIdentity:
    """Return how a board of this flavour presents itself on USB."""
    return _USB[flavour]


class SerialProgrammer(SerialBoard):
    """ArduinoISP on a board, seen from the host's port. All times are bench seconds.

    :param flavour: what the line looks like.
    :param baud: rate the sketch was built for; of no importance on native USB.
    :param target: board on the header, or None.
    :param auto_reset: an Uno resets when DTR is asserted (a capacitor on RESET prevents it).
    :param stuck_in_bootloader: an Uno without a sketch: only Optiboot answers.
    :param booted: the board was on long before the bench starts; otherwise it boots at time 0.
    """

    def __init__(
        self,
        flavour: Flavour = Flavour.UART,
        *,
        baud: int = 19200,
        target: AvrTarget | None = None,
        auto_reset: bool = True,
        stuck_in_bootloader: bool = False,
        booted: bool = True,
        faults: Sequence[ProgrammerFault] = (),
    ) -> None:
        super().__init__(flavour, usb=usb_identity_of(flavour), baud=baud, socket=IspSocket(target), faults=faults)
        self.flavour = flavour
        self.optiboot = Optiboot(stuck=stuck_in_bootloader)
        self._auto_reset = auto_reset and flavour is Flavour.UNO
        self._stuck_in_bootloader = stuck_in_bootloader
        self._resets_into_bootloader = stuck_in_bootloader
        self._booted = booted and not stuck_in_bootloader
        self._dtr = False
        self.resets = 0
        """How often a rising DTR has reset it."""
        self.sketch = self._new_sketch()
        self.power_on(0.0)
        self._booted = False

    def power_off(self, at: float) -> None:
        """Unplug the programmer."""
        super().power_off(at)
        self._dtr = False

    def opened(self, at: float, *, baud: int, dtr: bool = True, rts: bool = True) -> None:
        """The host opened the port. A rising DTR resets an Uno, into its bootloader first."""
        rising, self._dtr = dtr and not self._dtr, dtr
        super().opened(at, baud=baud, dtr=dtr, rts=rts)
        if rising and self._auto_reset and self.mcu.powered:
            self.resets += 1
            self._resets_into_bootloader = True
            self.socket.set_reset(False, at)
            self.mcu.restart(at)

    def _firmware(self, mcu: Mcu) -> Program:
        through_bootloader = self._resets_into_bootloader
        self._resets_into_bootloader = self._stuck_in_bootloader
        return self._run_firmware(mcu, through_bootloader=through_bootloader, booted=self._booted)

    def _run_firmware(self, mcu: Mcu, *, through_bootloader: bool, booted: bool) -> Program:
        if through_bootloader:
            yield from self.optiboot.main(mcu)
        self.sketch = self._new_sketch()
        yield from self.sketch.main(booted=booted)

    def _new_sketch(self) -> ArduinoIsp:
        return ArduinoIsp(self.mcu, self.socket, baud=self.baud)
