"""A workstation in the guest whose boards have USB cables of their own, and what is asked of boards and of the kernel there."""

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.vm.inside.station import Workstation

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.hexwriter import write_hex
from ispd.catalog.parts import load_parts
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image
from ispd.model.part import AvrPart
from vbench.board import Board
from vbench.board_faults import BoardFault
from vbench.emulated import EmulatedBoard
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget
from vbench.vhci_board import VhciBoard

__all__ = [
    "BOOTLOADERS",
    "FIRMWARE_USB",
    "PARTS",
    "BoardStation",
    "blank_board",
    "check_board",
    "driver_at",
    "firmware",
    "loaded_board",
    "processes",
    "shown",
]

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
FIRMWARE_USB = "FEED:6060"
_DEVICES = Path("/sys/bus/usb/devices")


def part_of(loader: Bootloader) -> AvrPart:
    """Return the part that boards with this bootloader have here."""
    return PARTS.avr(loader.parts[0])


def firmware(loader: Bootloader, size_bytes: int, *, seed: int) -> Image:
    """Return a firmware like no other."""
    return application_image(part_of(loader), size_bytes, seed=seed, usb=FIRMWARE_USB)


def blank_board(loader: Bootloader, *, faults: Sequence[BoardFault] = ()) -> Board:
    """Return a board as it comes from the factory's line: nothing on it."""
    return Board(AvrTarget(part_of(loader)), faults=faults)


def loaded_board(loader: Bootloader, app: Image | None = None, *, faults: Sequence[BoardFault] = ()) -> Board:
    """Return a board that has its bootloader, the fuses for it, and a firmware where one is given."""
    target = AvrTarget(part_of(loader), fuses=loader.fuses)
    for image in (bootloader_image(loader, target.part), *([] if app is None else [app])):
        target.flash[image.span.start : image.span.stop] = image.bytes_in(image.span)
    return Board(target, faults=faults)


def check_board(board: Board, loader: Bootloader, app: Image) -> None:
    """Look into a board's cells: this firmware, its bootloader, its fuses, and nothing else."""
    whole = app.merged(bootloader_image(loader, board.target.part))
    assert bytes(board.target.flash) == whole.bytes_in(board.target.part.flash.span)
    for fuse, value in loader.fuses.items():
        definition = board.target.part.fuse(fuse)
        assert definition is not None
        assert board.target.fuses[fuse] & definition.mask == value & definition.mask, fuse
    if loader.lock is not None:
        assert board.target.lock == loader.lock & board.target.part.lock_mask
    assert [str(violation) for violation in board.target.violations] == []


def shown(path: str) -> str | None:
    """Return the id of what the kernel sees at a place."""
    try:
        vendor, product = ((_DEVICES / path / name).read_text().strip() for name in ("idVendor", "idProduct"))
    except OSError:
        return None
    return f"{vendor}:{product}".upper()


def driver_at(path: str) -> str | None:
    """Return the kernel's driver on the first interface at a place."""
    driver = _DEVICES / f"{path}:1.0/driver"
    return driver.resolve().name if driver.exists() else None


def processes(name: str) -> list[str]:
    """Return the running processes of a program, zombies too, with their command lines."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "comm").read_text().strip() == name[:15]:
                found.append((place / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has just ended
    return found


class BoardStation(Workstation):
    """A :class:`Workstation` that boards are cabled to."""

    def __init__(self, folder: Path, *, time_scale: float = 1.0) -> None:
        super().__init__(folder, time_scale=time_scale)
        self._cables: dict[int, ExitStack] = {}

    def path(self, port: int) -> str:
        """Return the topology path of a port."""
        return self._bus.path(port)

    def connect(self, board: EmulatedBoard, port: int) -> str:
        """Plug a board's own USB cable in and wait for nothing; return its topology path."""
        self._cables[port] = ExitStack()
        self._cables[port].enter_context(VhciBoard(self._bus, board, port))
        return self.path(port)

    def disconnect(self, port: int) -> None:
        """Pull a board's own USB cable."""
        self._cables.pop(port).close()

    def disconnect_all(self) -> None:
        """Pull all boards' cables."""
        for port in tuple(self._cables):
            self.disconnect(port)

    def wait_for_tty(self, path: str) -> None:
        """Wait until a board's serial port is there and udev is through with it."""
        self.wait_for(lambda: any((_DEVICES / path).glob("*/tty/*")))
        subprocess.run(["udevadm", "settle"], check=True, timeout=60)

    # ------------------------------------------------------------------ jobs

    def files(self, *images: Image, name: str = "board") -> list[str]:
        """Write images as hex files and return their paths."""
        paths = [self.folder / f"{name}-{number}.hex" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(write_hex(image))
        return [str(path) for path in paths]

    def flash(self, loader: Bootloader, images: Sequence[Image], *slots: str, **params: object) -> int:
        """Enqueue images for boards in this bootloader, over the API, and return the job's number."""
        files = [
            {"name": f"{number}.hex", "content": base64.b64encode(write_hex(image)).decode("ascii")}
            for number, image in enumerate(images)
        ]
        wanted: dict[str, Any] = {"plan": "chained", "part": part_of(loader).id, "accept_fuses": True, **params}
        job = self.call("job.enqueue", images=files, slots=list(slots), bootloader=loader.id, **wanted)
        return int(job["id"])

    def flash_raw(self, bootloader: str, content: bytes, slot: str) -> int:
        """Enqueue a plain binary for a board in this bootloader, over USB alone, and return the job's number."""
        image = {"name": "keyboard.bin", "content": base64.b64encode(content).decode("ascii")}
        job = self.call("job.enqueue", images=[image], plan="chain-only", bootloader=bootloader, slots=[slot])
        return int(job["id"])

    def begin(self, *words: str) -> int:
        """Enqueue with ``ispctl`` and return the job's number."""
        done = self.ctl("enqueue", *words)
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["id"])

    def steps(self, unit: Mapping[str, Any], attempt: int = -1) -> dict[str, dict[str, Any]]:
        """Return the steps of one of a unit's attempts by name, the last of each name; the newest attempt where none is said."""
        return {step["name"]: step for step in unit["attempts"][attempt]["steps"]}
