"""The target side of the USBasp firmware: isp.c, with its own waits and polls."""

from collections.abc import Iterator
from contextlib import contextmanager

from vbench.isp_socket import IspSocket
from vbench.usb_device import CrashedError
from vbench.usbasp_firmware import Release

__all__ = ["Isp"]

_TICK_S = 64 / 12e6
"""Timer 0 behind a prescaler of 64."""
_WAIT_S = 60 * _TICK_S
"""One unit of ``clockWait``."""
_FIXED_DELAY_S = 12 * _TICK_S
_FLUSH_WAITS = 15
"""4.8 ms where the last byte of a page is FF and cannot be polled."""
_POLL_ROUNDS = 30
"""Rounds of 61 ticks after which a poll is given up."""
_POLL_ROUND_S = 61 * _TICK_S
_EEPROM_WAITS = 30
"""9.6 ms, for every byte."""
_STOCK_TRIES = 32
_FORK_TRIES = 3
_FORK_ENTRY_WAIT_S = 20e-3
"""62 waits and their loops: a hair less on the real thing, which chips take and the bench's targets would not."""
_AT89_WAITS = 5

_DEFAULT_STOCK, _DEFAULT_FORK = 10, 12
_FIRST_HARDWARE, _SLOW_JUMPER = 8, 5
_3_MHZ = 13
_SOFTWARE_SCK_HZ = (500.0, 1e3, 2e3, 4e3, 8e3, 16e3, 32e3)
_HARDWARE_SCK_HZ = (93.75e3, 187.5e3, 375e3, 750e3, 1.5e6, 3e6)
_SCK_HZ = dict(enumerate(_SOFTWARE_SCK_HZ + _HARDWARE_SCK_HZ, start=1))
_INSTRUCTION_OVERHEAD_S = 29e-6
"""What an instruction of a block costs beside its 32 bits, counted in the instructions of the firmware."""
_TRANSMIT_OVERHEAD_S = 10e-6


class Isp:
    """Pins, SCK and target of one USBasp; ``now`` is how far its firmware has got.

    ``option`` is the SCK option the host asked for, 0 for the firmware's own choice; it acts at CONNECT.
    """

    def __init__(self, socket: IspSocket, release: Release, *, slow_jumper: bool) -> None:
        self.now = 0.0
        self.option = 0
        self.sck_hz = _SCK_HZ[_DEFAULT_STOCK]
        self._socket = socket
        self._release = release
        self._slow_jumper = slow_jumper
        self._pulse_s = _TICK_S
        self._extended = 0
        self._has_pins = False
        self._is_hardware_on = False
        """The SPI unit is switched on; without it hardware SCK waits for ever."""
        self._reset_level = False
        """What the latch of the reset pin holds, also while the pin is an input."""
        self._set_sck(0)

    def _set_sck(self, option: int) -> None:
        """``ispSetSCKOption``: 0 and unknown options are the firmware's default."""
        default = _DEFAULT_FORK if self._release.lowers_sck else _DEFAULT_STOCK
        if option == 0 or option not in _SCK_HZ or (option == _3_MHZ and not self._release.has_3_mhz):
            option = default
        self.sck_hz = _SCK_HZ[option]
        self._is_hardware_sck = option >= _FIRST_HARDWARE
        self._pulse_s = self._delay_s()
        self._instruction_s = 32 / self.sck_hz + _INSTRUCTION_OVERHEAD_S

    def _delay_s(self) -> float:
        """``ispDelay``: half a period of software SPI, or a single tick of the timer; before 2009 always 12 ticks."""
        if not self._release.has_sck_option:
            return _FIXED_DELAY_S
        return _TICK_S if self._is_hardware_sck else 0.5 / self.sck_hz

    # -- connect and enter -----------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Take the pins, pulse reset (most firmware) and leave it low."""
        if self._release.lowers_sck:
            self._connect_fork()
            return
        self._set_sck(_SLOW_JUMPER if self._slow_jumper else self.option)
        self._has_pins = self._is_hardware_on = True
        self._extended = 0
        self._reset(high=False)
        self.now += self._pulse_s
        self._reset(high=True)
        self.now += self._pulse_s
        self._reset(high=False)

    def _connect_fork(self) -> None:
        """As forks do it: the SPI unit stays off until ENABLEPROG, and the extended address is unknown even for 0."""
        self._set_sck(self.option)
        self._has_pins, self._is_hardware_on = True, False
        self._extended = 0xFF
        if self._release.pulses_at_connect:
            self._reset(high=True)
            self.now += _WAIT_S
            self._reset(high=False)
        else:
            self._reset(high=self._reset_level)

    def disconnect(self) -> None:
        """Release the pins; the target's pull-up lifts reset."""
        self._has_pins = self._is_hardware_on = False
        self._socket.set_reset(False, self.now)
        if self._release.lowers_sck:
            self.option = 0
        else:
            self._reset_level = False

    def enable(self) -> bool:
        """``ispEnterProgrammingMode``: tell whether a target answered."""
        if self._release.lowers_sck:
            return self._enable_ever_slower()
        if self._synchronise():
            return True
        with self._own_doing():
            for _ in range(_STOCK_TRIES - 1):
                self._pulse_between_tries()
                if self._synchronise():
                    return True
            self._pulse_between_tries()
        return False

    def _pulse_between_tries(self) -> None:
        """Pulse reset, without the 20 ms that a target may ask for. Before 2011 SCK was pulsed, to shift a target that had
        missed an edge back into step; the bench's targets that cannot follow SCK are beyond that help.
        """
        if not self._release.retries_with_reset:
            self.now += 2 * self._pulse_s
            return
        self.now += self._pulse_s
        self._reset(high=True)
        self.now += self._pulse_s
        self._reset(high=False)
        self.now += self._pulse_s

    def _enable_ever_slower(self) -> bool:
        """Three tries at each SCK from the one asked for down to 500 Hz; after that the SPI unit is off."""
        option = self.option or _DEFAULT_FORK
        while option > 0:
            self._is_hardware_on = self._is_hardware_sck
            for _ in range(_FORK_TRIES):
                self._reset(high=True)
                self.now += _WAIT_S
                self._reset(high=False)
                self.now += _FORK_ENTRY_WAIT_S
                if self._synchronise():
                    self.option = option
                    return True
                if self._release.probes_at89:
                    self._reset(high=True)
                    self.now += _AT89_WAITS * _WAIT_S
                    self._synchronise()
            self._is_hardware_on = False
            option -= 1
            self._set_sck(option)
        self.option = 0
        return False

    def _synchronise(self) -> bool:
        """Send Program Enable; tell whether its second byte came back with the third."""
        return self.transmit(b"\xac\x53\x00\x00")[2] == 0x53

    def _reset(self, *, high: bool) -> None:
        self._reset_level = high
        if self._socket.reset_active == high:
            self._socket.set_reset(not high, self.now)

    @contextmanager
    def _own_doing(self) -> Iterator[None]:
        """Do something of the firmware's own accord: rules that it breaks are not held against the host."""
        target = self._socket.target
        known = 0 if target is None else len(target.violations)
        yield
        if target is not None:
            del target.violations[known:]

    # -- SPI -------------------------------------------------------------------------------------------------------

    def transmit(self, sent: bytes) -> bytes:
        """Clock four bytes and return all replies. Raises ``CrashedError`` where the firmware waits for ever."""
        self._check_spi()
        reply = self._socket.exchange(sent, self.now, self.sck_hz) if self._has_pins else b"\xff" * len(sent)
        self.now += 8 * len(sent) / self.sck_hz + _TRANSMIT_OVERHEAD_S
        return reply

    def _check_spi(self) -> None:
        """Without a CONNECT, and in forks without an ENABLEPROG that succeeded, the SPI unit is off and never done."""
        if self._is_hardware_sck and not self._is_hardware_on:
            raise CrashedError

    def _instruction(self, b1: int, b2: int, b3: int, b4: int) -> int:
        value = self._socket.instruction(b1, b2, b3, b4, self.now, self.sck_hz) if self._has_pins else 0xFF
        self.now += self._instruction_s
        return value

    def _at(self, address: int, first: int, last: int) -> int:
        """Clock a flash instruction for a byte address; says the extended address first where it changed."""
        extended = address >> 17 & 0xFF
        if extended != self._extended and self._release.has_extended_address:
            self._extended = extended
            with self._own_doing():  # forks say it to parts that have no such instruction, too
                self._instruction(0x4D, 0x00, extended, 0x00)
        return self._instruction(first, address >> 9 & 0xFF, address >> 1 & 0xFF, last)

    # -- memories --------------------------------------------------------------------------------------------------

    def begin_block(self) -> None:
        """Check what a block of memory needs. Raises ``CrashedError`` where the firmware waits for ever."""
        self._check_spi()

    def read_flash(self, address: int) -> int:
        """``ispReadFlash``."""
        return self._at(address, 0x28 if address & 1 else 0x20, 0x00)

    def load(self, address: int, data: int) -> None:
        """``ispWriteFlash`` for paged parts: load one byte of the page buffer."""
        self._at(address, 0x48 if address & 1 else 0x40, data)

    def write_unpaged(self, address: int, data: int) -> None:
        """``ispWriteFlash`` for parts without pages, whose cells read 7F while they are written."""
        self.load(address, data)
        self._wait_or_poll(address, data, erased=0x7F)

    def flush_page(self, address: int, last: int) -> None:
        """``ispFlushPage``: write the page, and poll its last byte unless that is FF."""
        self._at(address, 0x4C, 0x00)
        self._wait_or_poll(address, last, erased=0xFF)

    def _wait_or_poll(self, address: int, data: int, *, erased: int) -> None:
        if data == erased:
            self.now += _FLUSH_WAITS * _WAIT_S
            return
        rounds, begun = _POLL_ROUNDS, self.now
        while rounds > 0:
            if self.read_flash(address) != erased:
                return
            if self.now - begun >= _POLL_ROUND_S:
                begun = self.now
                rounds -= 1

    def read_eeprom(self, address: int) -> int:
        """``ispReadEEPROM``; addresses have 16 bits."""
        return self._instruction(0xA0, address >> 8 & 0xFF, address & 0xFF, 0x00)

    def write_eeprom(self, address: int, data: int) -> None:
        """``ispWriteEEPROM``: no poll, always the same wait."""
        self._instruction(0xC0, address >> 8 & 0xFF, address & 0xFF, data)
        self.now += _EEPROM_WAITS * _WAIT_S
