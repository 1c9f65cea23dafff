"""A board with a USB port of its own: what it shows there follows its flash, its fuses, its supply and its reset line.

The chip is the :class:`~vbench.target.AvrTarget` that the programmer's header sees, so a bootloader written by ISP is there
after the reset is released, and what it writes is read back by ISP. Source of the start rules: data sheet of
ATmega16U4/32U4 (7766), chapters "Boot Loader Support" (BOOTRST, BOOTSZ) and "Hardware boot" (HWBE: the pin counts at
external resets only); cells that read FFFF are skipped like NOPs, so a part with a blank application runs into its loader.
"""

import math
from collections.abc import Iterable, Sequence

from ispd.catalog.avr_image import boot_starts, has_jump
from ispd.catalog.fuses import boot_span
from ispd.catalog.usb_descriptor import usb_id_in
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.span import Span
from ispd.transport.contract import UsbIdentity
from vbench.application import Keyboard, Sketch
from vbench.board_chip import Chip, EraseDisease
from vbench.board_face import FAMILIES, Exit, LoaderStart, Program, ResetFlag, start_loader
from vbench.board_faults import BoardFault, EraseLeaves
from vbench.board_presence import ENUMERATION_S, JUMP_S, BoardPresence, usb_identity
from vbench.firmware_image import FirmwareFacts, FirmwareKind, find_firmware
from vbench.target import AvrTarget

__all__ = ["ENUMERATION_S", "Board"]

_ANY_FIRMWARE = "FEED:0000"
"""What a firmware shows in which no USB id can be found: the id of many keyboards that never got one."""


class Board(BoardPresence):
    """One board with an AVR; see :class:`~vbench.emulated.EmulatedBoard`. All times are bench seconds.

    :param target: its chip.
    :param loader: which bootloader an image in the boot section is that carries no marker.
    :param bootloaders: those that are recognised by the USB id in such an image.
    :param hwb_low: the HWB pin is tied low, as on boards that enter an Atmel loader by their reset button.
    :param faults: see :mod:`vbench.board_faults`.
    :param enumeration_s: from the start of a program until the host knows the device.
    """

    swd: None = None

    def __init__(
        self,
        target: AvrTarget,
        *,
        loader: Bootloader | None = None,
        bootloaders: Iterable[Bootloader] = (),
        hwb_low: bool = True,
        faults: Sequence[BoardFault] = (),
        enumeration_s: float = ENUMERATION_S,
    ) -> None:
        super().__init__(faults=faults, enumeration_s=enumeration_s)
        self.target: AvrTarget = target
        self._loader = loader
        self._known = tuple(bootloaders)
        self._hwb_low = hwb_low
        diseases = [EraseDisease(fault, target) for fault in faults if isinstance(fault, EraseLeaves)]
        self._disease = diseases[0] if diseases else None
        self._ram: dict[int, int] = {}
        self._is_running = False
        self._flags = ResetFlag.NONE
        self._untold: list[tuple[float, bool, bool]] = []
        """What happened to supply and reset line and has not had its effect: when, supplied, in reset."""
        target.follower = self
        if target.powered:
            self.target_changed(0.0)

    # -- cable, supply and reset -------------------------------------------------------------------------------------

    def attach(self, at: float) -> None:
        """Plug its USB cable in; a board that is supplied by a programmer already only becomes visible by that."""
        self.catch_up(at)
        self._has_cable = True
        self._shown_at = at + self._enumeration_s if self._program is not None else math.inf
        self.target.plug_cable(at)

    def detach(self, at: float) -> None:
        """Pull its USB cable."""
        self.catch_up(at)
        self._has_cable = False
        self._hide(at)
        self.target.pull_cable(at)

    def target_changed(self, at: float) -> None:
        """Take note of its chip's supply and reset line; part of :class:`~vbench.target.Follower`."""
        self._untold.append((at, self.target.powered, self.target.in_reset))
        self._notify()

    # -- what is on its port -----------------------------------------------------------------------------------------

    def next_change(self) -> float:
        """Return when :meth:`face` should be asked next, infinity for never."""
        return min(self._untold[0][0] if self._untold else math.inf, self._next_of_program())

    def catch_up(self, now: float) -> None:
        """Let everything happen that is due by ``now``, in its order."""
        while (due := self.next_change()) <= now:
            if self._untold and self._untold[0][0] <= due:
                self._supply_or_reset(*self._untold.pop(0))
            elif self._shown_at <= due:
                self._enumerate()
            else:
                self._depart()

    def acted(self, program: Program) -> None:
        """The program did something; part of :class:`~vbench.board_shown.Stage`."""
        if program is self._program and program.departure is not None:
            self._notify()

    def _supply_or_reset(self, at: float, is_powered: bool, in_reset: bool) -> None:
        if not is_powered:
            self._ram.clear()
            self._flags = ResetFlag.NONE
        elif self._flags is ResetFlag.NONE and not self._is_running:
            self._flags = ResetFlag.POWER_ON
        if in_reset:
            self._flags |= ResetFlag.EXTERNAL
        was_running, self._is_running = self._is_running, is_powered and not in_reset
        if not self._is_running:
            self._stop(at)
        elif not was_running:
            flags, self._flags = self._flags, ResetFlag.NONE
            self._start(at, flags)

    def _depart(self) -> None:
        leaves = None if self._program is None else self._program.departure
        if leaves is None:
            return
        self._stop(leaves.at)
        match leaves.exit:
            case Exit.APPLICATION:
                self._run(self._slide(0), leaves.at + JUMP_S, ResetFlag.NONE)
            case Exit.RESET:
                self._start(leaves.at, ResetFlag.WATCHDOG)
            case Exit.HANG:
                pass

    # -- what runs ---------------------------------------------------------------------------------------------------

    @property
    def _section(self) -> Span:
        """The boot section; empty behind the flash where the part has none."""
        end = self.target.part.flash.size_bytes
        return boot_span(self.target.part, self.target.fuses) or Span(end, end)

    def _start(self, at: float, flags: ResetFlag) -> None:
        """Begin where the fuses say, after a reset."""
        if not self.target.has_crystal_clock():
            return  # it runs, but not on USB
        core, section = self.target.core, self._section
        starts_there = core.is_programmed("bootrst", core.fuses)
        by_pin = self._hwb_low and ResetFlag.EXTERNAL in flags and core.is_programmed("hwbe", core.fuses)
        self._run(self._slide(section.start if len(section) and (starts_there or by_pin) else 0), at, flags)

    def _slide(self, start: int) -> int | None:
        """Return the first address from ``start`` on, and then from 0 on, that is not blank; None where none is."""
        flash = self.target.flash
        size = len(flash)
        for first, stop in ((start, size), (0, start)):
            left = flash[first:stop].lstrip(b"\xff")
            if left:
                return stop - len(left) & ~1
        return None

    def _run(self, address: int | None, at: float, flags: ResetFlag) -> None:
        """Begin to run what is at an address."""
        self._program = None if address is None else self._program_at(address, at, flags)
        if self._program is not None and self._has_cable:
            self._shown_at = at + self._enumeration_s

    def _program_at(self, address: int, at: float, flags: ResetFlag) -> Program | None:
        facts = find_firmware(self.target.flash, address)
        chip = Chip(
            self.target, section=self._section, start=address, ram=self._ram, disease=self._disease
        )  # fmt: skip
        if facts is not None:
            return self._marked(facts, chip, at, flags) if facts.is_whole else None
        image = Image.of([Segment(0, bytes(self.target.flash))])
        held = usb_id_in(image, Span(address, image.span.stop))
        loader = self._unmarked_loader(address, held)
        if loader is not None:
            usb = self._identity(usb_identity(held if held is not None and held in loader.usb else loader.usb[0]))
            names = (loader.id, loader.family, loader.qmk)
            return self._loader_program(chip, usb, names, at, flags)
        if address or not has_jump(image, 0):
            return None
        usb_text = usb_id_in(image, Span(0, self._section.start)) or _ANY_FIRMWARE
        return Keyboard(self._identity(usb_identity(usb_text)), at=at)

    def _marked(self, facts: FirmwareFacts, chip: Chip, at: float, flags: ResetFlag) -> Program | None:
        usb = self._identity(UsbIdentity(vendor_id=facts.vendor_id, product_id=facts.product_id))
        if facts.kind is FirmwareKind.BOOTLOADER:
            return self._loader_program(chip, usb, (facts.name, facts.family, facts.variant), at, flags)
        return Sketch(usb, chip=chip) if facts.has_serial_port else Keyboard(usb, at=at)

    @staticmethod
    def _loader_program(
        chip: Chip, usb: UsbIdentity, names: tuple[str, str, str], at: float, flags: ResetFlag
    ) -> Program | None:
        name, family, variant = names
        if family not in FAMILIES:
            return None
        return start_loader(chip, LoaderStart(at=at, flags=flags, usb=usb, name=name, family=family, variant=variant))

    def _unmarked_loader(self, address: int, usb: str | None) -> Bootloader | None:
        """Return the bootloader at an address: as declared, or known by the USB id that it holds."""
        starts = boot_starts(self.target.part)
        if not starts or address < starts[0]:
            return None
        return self._loader or next((bootloader for bootloader in self._known if usb in bootloader.usb), None)
