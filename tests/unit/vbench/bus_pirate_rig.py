"""A host at the far end of an emulated Bus Pirate, and targets for it."""

from tests.unit.vbench.serial_end import SerialEnd

from ispd.catalog.parts import load_parts
from vbench.bus_pirate import BusPirate, BusPirateHardware
from vbench.target import AvrTarget

__all__ = [
    "AVR_FORMAT",
    "PARTS",
    "POWER_RESET",
    "POWER_RUN",
    "SIGNATURE",
    "SPEED_125_KHZ",
    "V3",
    "V4",
    "Pirate",
    "make_pirate",
    "make_target",
]

PARTS = load_parts()
V3, V4 = BusPirateHardware.V3, BusPirateHardware.V4
SPEED_125_KHZ, AVR_FORMAT = 0x61, 0x8A
POWER_RESET, POWER_RUN = 0x48, 0x49
SIGNATURE = bytes.fromhex("1E9587")


class Pirate(SerialEnd[BusPirate]):
    """A host that knows the way into the binary modes."""

    @property
    def target(self) -> AvrTarget:
        target = self.programmer.socket.target
        assert target is not None
        return target

    def state(self) -> str:
        """What the target is doing."""
        if not self.target.powered:
            return "off"
        return "in reset" if self.target.in_reset else "running"

    def text(self, keys: str, *, seconds: float = 0.2) -> str:
        """Type, wait, and return the screen."""
        self.send(keys.encode())
        return self.wait(seconds).decode("ascii")

    def binary(self) -> None:
        assert self.ask(b"\0" * 20, 5) == b"BBIO1"

    def spi(self, *setup: int) -> None:
        """Enter SPI mode and send single-byte commands that must succeed."""
        self.binary()
        assert self.ask(b"\x01", 4) == b"SPI1"
        self.do(*setup)

    def do(self, *commands: int) -> None:
        for command in commands:
            assert self.ask(bytes([command]), 1) == b"\x01", f"{command:02X}"

    def enter(self, *setup: int) -> None:
        """Power the target, take it into reset and enable programming."""
        self.spi(*(setup or (SPEED_125_KHZ, AVR_FORMAT)), POWER_RUN, POWER_RESET)
        self.wait(20e-3)
        assert self.instruct("AC530000")[2] == 0x53

    def instruct(self, text: str) -> bytes:
        """Send one SPI instruction with 13."""
        reply = self.ask(b"\x13" + bytes.fromhex(text), 5)
        assert reply[0] == 0x01
        return reply[1:]

    def signature(self) -> bytes:
        return bytes(self.instruct(f"3000{index:02X}00")[3] for index in range(3))


def make_target(part: str = "atmega32u4", **options: object) -> AvrTarget:
    """Return a factory-fresh target."""
    return AvrTarget(PARTS.avr(part), **options)  # type: ignore[arg-type]  # passed through


def make_pirate(hardware: BusPirateHardware = V3, firmware: str | None = None, **options: object) -> Pirate:
    """Return a host in front of a Bus Pirate that was on long before."""
    options.setdefault("target", make_target())
    pirate = Pirate(BusPirate(hardware, firmware, **options))  # type: ignore[arg-type]  # passed through
    assert pirate.wait(0.1) == b"HiZ>"
    return pirate
