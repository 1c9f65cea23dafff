"""Boards with an STM32 and a USB cable. A Bluepill has an SWD header too (``swd``), for a debug probe.

What starts on a Bluepill follows ``main`` of the STM32duino bootloader: DR10 decides, then whether an application is there. On a
board whose chip has USB in its ROM the BOOT0 pin decides.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from vbench.application import Keyboard
from vbench.board_face import Exit, Program
from vbench.board_faults import NeverEnumerates, Stalls, Vanishes, WrongIdentity
from vbench.board_presence import ENUMERATION_S, JUMP_S, BoardPresence, usb_identity
from vbench.board_shown import ShownUsb
from vbench.dfuse import ROM_USB, DfuSe
from vbench.faults import LostPage
from vbench.stm32 import (
    APPLICATION,
    LEGACY_APPLICATION,
    Stm32Chip,
    find_application,
    find_habit,
    has_loader,
    stm32_loader,
)
from vbench.stm32duino import JUMP_NOW, STAY, USB, Stm32duino
from vbench.stm32f1 import UID, Stm32F1, Stm32F1Fault, Stm32F1Model

__all__ = ["DfuSeBoard", "Stm32Board", "Stm32Fault"]

_F303_BYTES = 0x4_0000
_HIGH_DENSITY, _HIGH_DENSITY_ID = 0x2_0000, 0x1003_6414
"""Above this size a chip is another device with pages of 2 KiB."""

_HABIT_S = 2e-3
"""A program waits for its crystal before it looks at pins: t_SU(HSE) of the data sheet (DS5319, "HSE oscillator characteristics")."""

Stm32Fault = LostPage | Vanishes | Stalls | WrongIdentity | NeverEnumerates
"""What can be wrong with such a board; the address of a lost page counts from the start of flash."""


class _UsbBoard(BoardPresence):
    """What all have in common: cable, reset button, faults, and who is on the port. All times are bench seconds."""

    target: None = None

    def __init__(self, chip: Stm32Chip, *, faults: Sequence[Stm32Fault], enumeration_s: float) -> None:
        super().__init__(faults=faults, enumeration_s=enumeration_s)
        self.chip = chip

    # -- cable and reset ---------------------------------------------------------------------------------------------

    def attach(self, at: float) -> None:
        """Plug its USB cable in: its only supply."""
        self.catch_up(at)
        self._has_cable = True
        self._start(at)
        self._notify()

    def detach(self, at: float) -> None:
        """Pull its USB cable."""
        self.catch_up(at)
        self._has_cable = False
        self.chip.dr10 = 0
        self._stop(at)
        self._notify()

    def reset(self, at: float) -> None:
        """Press its reset button; the backup register stays."""
        self.catch_up(at)
        if self._has_cable:
            self._stop(at)
            self._start(at)
        self._notify()

    def bus_reset(self, at: float) -> None:
        """The host resets its port."""
        self.catch_up(at)
        if isinstance(self._program, Stm32duino):
            self._program.bus_reset(at)
        self._notify()

    # -- what is on its port -----------------------------------------------------------------------------------------

    def next_change(self) -> float:
        """Return when :meth:`face` should be asked next, infinity for never."""
        return self._next_of_program()

    def catch_up(self, now: float) -> None:
        """Let everything happen that is due by ``now``, in its order."""
        while (due := self.next_change()) <= now:
            if self._shown_at <= due:
                self._enumerate()
            else:
                self._depart()

    def acted(self, program: Program) -> None:
        """The program did something; part of :class:`~vbench.board_shown.Stage`."""
        if program is self._program:
            self._notify()

    def _depart(self) -> None:
        leaves = None if self._program is None else self._program.departure
        if leaves is None:
            return
        self._stop(leaves.at)
        match leaves.exit:
            case Exit.APPLICATION:
                self._run(leaves.at + JUMP_S)
            case Exit.RESET:
                self._start(leaves.at)
            case Exit.HANG:
                pass

    # -- what runs ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _start(self, at: float) -> None:
        """Begin as after a reset."""

    @abstractmethod
    def _run(self, at: float) -> None:
        """Jump to where the program that left meant to."""

    def _begin(self, program: Program, at: float) -> None:
        self._hide(at)
        self._program = program
        self._shown_at = at + self._enumeration_s

    def _run_application(self, place: int, at: float) -> None:
        """Run what is at a place of flash, as far as it runs."""
        found = find_application(self.chip, place)
        if found is not None:
            self._begin(Keyboard(self._identity(usb_identity(found)), at=at), at)


class Stm32Board(_UsbBoard):
    """A Bluepill; see :class:`~vbench.emulated.EmulatedBoard`. Its flash is what a probe on ``swd`` writes.

    The program on USB stops while the core is halted or held in reset, and begins anew when it runs again; it begins anew too
    when the cable is put into a board that a probe supplies already. Its D+ pull-up is a resistor (Blue Pill schematic: 10 kOhm
    from PA12 to 3.3 V): the host believes that the device is there and gets no answers, until the next program on USB begins and
    pulls the line low for a moment (``setupUSB`` of the STM32duino bootloader, and any firmware for such boards).

    :param flash_bytes: 64 KiB, or the 128 that most parts have.
    :param has_loader: whether it comes with the bootloader.
    :param application: what was at 0x0800_2000 before.
    :param model: another chip than a genuine one of that size.
    :param is_protected: it comes read-protected.
    :param uid: its unique id, 12 bytes; the same on each board where None.
    :param fixed_pull_up: as above; where not, the program switches it and the board leaves the bus when that stops.
    """

    def __init__(  # noqa: PLR0913 - all are keywords that seldom occur
        self,
        *,
        flash_bytes: int = 0x1_0000,
        has_loader: bool = True,
        application: bytes = b"",
        model: Stm32F1Model | None = None,
        is_protected: bool = False,
        uid: bytes | None = None,
        fixed_pull_up: bool = True,
        faults: Sequence[Stm32Fault | Stm32F1Fault] = (),
        enumeration_s: float = ENUMERATION_S,
    ) -> None:
        model = model or _model_of(flash_bytes)
        chip = Stm32Chip(flash_bytes=model.flash_bytes, bad_pages=_lost(faults), page_bytes=model.page_bytes)
        if has_loader:
            loader = stm32_loader()
            chip.flash[: len(loader)] = loader
        chip.flash[APPLICATION : APPLICATION + len(application)] = application
        super().__init__(
            chip, faults=[fault for fault in faults if isinstance(fault, Stm32Fault)], enumeration_s=enumeration_s
        )
        of_chip = [fault for fault in faults if isinstance(fault, Stm32F1Fault)]
        self.swd = Stm32F1(model, chip=chip, uid=uid or UID, is_protected=is_protected, faults=of_chip)
        """The chip as a probe sees it: what goes into a :class:`~vbench.swd.SwdSocket`."""
        self.swd.on_run = self._core_runs
        self.swd.on_access = self.catch_up
        self._fixed_pull_up = fixed_pull_up

    def attach(self, at: float) -> None:
        """Plug its USB cable in: a supply."""
        self.catch_up(at)
        self._has_cable = True
        was_running = self.swd.core.is_in_flash
        self.swd.set_supply("usb", True, at)
        if was_running:
            self._start(at)
        self._notify()

    def detach(self, at: float) -> None:
        """Pull its USB cable; a probe may go on supplying it."""
        self.catch_up(at)
        self._has_cable = False
        self.swd.set_supply("usb", False, at)
        self._stop(at)
        self._notify()

    def reset(self, at: float) -> None:
        """Press its reset button; the backup register stays."""
        self.swd.press_reset(at)
        self._notify()

    def _core_runs(self, runs: bool, at: float) -> None:
        self.catch_up(at)
        if self._fixed_pull_up and self._has_cable:
            self._fall_silent()
        else:
            self._stop(at)
        if runs and self._has_cable:
            self._start(at)
        self._notify()

    def _fall_silent(self) -> None:
        """Stop the program, and leave on the bus who is there."""
        self._program = None
        self._shown_at = math.inf
        if isinstance(self._shown, ShownUsb):
            self._shown.is_silent = True

    def _run_application(self, place: int, at: float) -> None:
        super()._run_application(place, at)
        if self._program is not None:
            self.swd.habit = find_habit(self.chip, place)
            self.swd.habit_from = at + _HABIT_S

    def _start(self, at: float) -> None:
        if not has_loader(self.chip):
            self._run_application(0, at)
            return
        magic, self.chip.dr10 = self.chip.dr10, 0
        has_application = any(self.chip.has_application(place) for place in (APPLICATION, LEGACY_APPLICATION))
        if magic == JUMP_NOW and has_application:
            self._run(at + JUMP_S)
            return
        stays = magic == STAY or not has_application
        self._begin(Stm32duino(self.chip, at=at, stays=stays, usb=self._identity(USB)), at)

    def _run(self, at: float) -> None:
        place = APPLICATION if self.chip.has_application(APPLICATION) else LEGACY_APPLICATION
        self._run_application(place, at)


def _model_of(flash_bytes: int) -> Stm32F1Model:
    """Return a genuine chip of a size."""
    if flash_bytes > _HIGH_DENSITY:
        return Stm32F1Model(
            flash_bytes=flash_bytes, size_kib=flash_bytes // 1024, ram_bytes=64 * 1024, idcode=_HIGH_DENSITY_ID
        )
    return Stm32F1Model(flash_bytes=flash_bytes, size_kib=flash_bytes // 1024)


class DfuSeBoard(_UsbBoard):
    """A board with an STM32F303; see :class:`~vbench.emulated.EmulatedBoard`. No probe of the bench reaches it.

    :param boot0_high: whether each reset enters the ROM; the operator's button.
    :param application: what was at 0x0800_0000 before.
    :param serial: the ROM shows a serial number made of the chip's unique id.
    """

    swd: None = None

    def __init__(
        self,
        *,
        boot0_high: bool = True,
        application: bytes = b"",
        serial: str = "FFFFFFFEFFFF",
        faults: Sequence[Stm32Fault] = (),
        enumeration_s: float = ENUMERATION_S,
    ) -> None:
        chip = Stm32Chip(flash_bytes=_F303_BYTES, bad_pages=_lost(faults))
        chip.flash[: len(application)] = application
        self.boot0_high = boot0_high
        self._serial = serial
        super().__init__(chip, faults=faults, enumeration_s=enumeration_s)

    def _start(self, at: float) -> None:
        if self.boot0_high:
            usb = self._identity(replace(ROM_USB, serial=self._serial))
            self._begin(DfuSe(self.chip, usb, at=at), at)
        else:
            self._run_application(0, at)

    def _run(self, at: float) -> None:
        self._run_application(0, at)


def _lost(faults: Sequence[Stm32Fault | Stm32F1Fault]) -> frozenset[int]:
    return frozenset(fault.address for fault in faults if isinstance(fault, LostPage))
