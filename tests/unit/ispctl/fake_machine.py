"""A machine made of a folder: devices, processes and tools as a test wants them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ispctl.doctor import Finding, Machine, examine

RULES = Path(__file__).parents[3] / "systemd/ispd.rules"
USER, USER_GROUP = 12345, 12345


@dataclass
class FakeMachine:
    """Builds what :class:`ispctl.doctor.Machine` looks at. At first nothing is wrong with it, and nothing plugged in."""

    root: Path
    uid: int = USER
    groups: frozenset[int] = frozenset({USER_GROUP})
    database: dict[int, frozenset[int]] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)
    tools: dict[str, str] = field(
        default_factory=lambda: {
            "avrdude": "Usage: avrdude [options]\n\navrdude version 7.3, URL: <https://github.com/avrdudes/avrdude>\n",
            "dfu-programmer": "dfu-programmer 1.1.0\n",
            "dfu-util": "dfu-util 0.11\n\nCopyright 2005-2009 Weston Schmidt\n",
            "teensy_loader_cli": "Teensy Loader, Command Line, Version 2.2\n",
        }
    )
    numbers: int = 0

    def __post_init__(self) -> None:
        for folder in ("dev", "proc", "run/udev/data", "sys/bus/usb/devices"):
            (self.root / folder).mkdir(parents=True)
        self.file("etc/udev/rules.d/70-ispd.rules", RULES.read_text())
        self.file("usr/lib/x86_64-linux-gnu/libusb-1.0.so.0", "")

    def file(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def systemd(self, **state: str) -> None:
        """Let systemd run, with the service in this state."""
        (self.root / "run/systemd/system").mkdir(parents=True)
        self.tools["systemctl"] = "".join(f"{name}={value}\n" for name, value in state.items())

    def node(self, name: str, mode: int = 0o666) -> Path:
        path = self.file(f"dev/{name}", "")
        path.chmod(mode)
        return path

    def process(self, number: int, name: str, *opened: Path, command: str = "", status: str = "") -> None:
        self.file(f"proc/{number}/comm", f"{name}\n")
        self.file(f"proc/{number}/cmdline", command.replace(" ", "\0"))
        self.file(f"proc/{number}/status", status)
        folder = self.root / f"proc/{number}/fd"
        folder.mkdir()
        for index, path in enumerate(opened):
            (folder / str(index)).symlink_to(path)

    def udev(self, number: str, *notes: str) -> None:
        """Let udev have seen a device."""
        self.file(f"run/udev/data/c{number}", "".join(f"E:{note}\n" for note in ("ID_BUS=usb", *notes)))

    def usb(
        self,
        name: str,
        usb_id: str,
        *,
        speed: str = "12",
        kind: str = "00",
        protocol: str = "00",
        interface: tuple[str, str, str] = ("ff", "00", ""),
        port: str = "",
        notes: Sequence[str] | None = ("ISPD_DEVICE=1",),
        mode: int = 0o666,
    ) -> Path:
        """Plug a device in; return its node. ``interface`` is class, subclass and driver; no notes: unseen by udev."""
        self.numbers += 1
        vendor, product = usb_id.split(":")
        folder = f"sys/bus/usb/devices/{name}"
        facts = {
            "idVendor": vendor, "idProduct": product, "speed": speed, "bDeviceClass": kind, "bDeviceProtocol": protocol,
            "busnum": "1", "devnum": str(self.numbers), "dev": f"189:{self.numbers}", "product": f"thing {self.numbers}",
        }  # fmt: skip
        for fact, value in facts.items():
            self.file(f"{folder}/{fact}", f"{value}\n")
        interface_class, subclass, driver = interface
        self.file(f"{folder}/{name}:1.0/bInterfaceClass", f"{interface_class}\n")
        self.file(f"{folder}/{name}:1.0/bInterfaceSubClass", f"{subclass}\n")
        if driver:
            (self.root / folder / f"{name}:1.0/driver").symlink_to(f"../../../bus/usb/drivers/{driver}")
        if port:
            number = f"166:{self.numbers}"
            below = f"tty/{port}" if port.startswith("ttyACM") else port
            (self.root / folder / f"{name}:1.0" / below).mkdir(parents=True)
            self.file(f"sys/class/tty/{port}/dev", f"{number}\n")
            if notes is not None:
                self.udev(number, *notes)
        if notes is not None:
            self.udev(f"189:{self.numbers}", *notes)
        return self.node(f"bus/usb/001/{self.numbers:03}", mode)

    def hub(self, name: str, *, translators: str = "01", speed: str = "480") -> None:
        self.usb(
            name, "05e3:0608", speed=speed, kind="09", protocol=translators, interface=("09", "00", "hub"), notes=()
        )

    def machine(self) -> Machine:
        return Machine(
            root=self.root,
            uid=self.uid,
            groups=self.groups,
            which=lambda tool: f"/usr/bin/{tool}" if tool in self.tools else None,
            run=lambda command: self.tools.get(Path(command[0]).name, ""),
            groups_of=lambda uid: self.database.get(uid, frozenset()),
            uid_of=self.users.get,
        )

    def examine(self, socket: Path) -> list[Finding]:
        return examine(self.machine(), socket)
