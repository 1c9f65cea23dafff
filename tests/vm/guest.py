"""A virtual machine that boots in seconds: Debian's kernel, this machine's files under a throw-away overlay, real udev and USB.

Nothing in it is installed and nothing it does lasts: the root file system is this machine's own, shared read-only (9p), and
every change goes to memory. Without KVM, so it runs in a container too. The kernel comes from Debian's package, unpacked by
``scripts/test`` (see ``want_guest`` in scripts/lib.sh).
"""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome", "boot", "missing"]

_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "cpio": "cpio",
    "udevadm": "udev",
    "systemctl": "systemd",
}
_UNITS_OF = {"/lib/systemd/system/dbus.socket": "dbus"}
_INITRAMFS_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
_MEMORY_MB = 3072
_BOOTS = 3
"""On a very busy machine the kernel may find no timer in time and stop; such a guest never came up, and is started again."""
_BOOT_S = 120.0
_UP = "guest-up"
_RESULT = re.compile(r"^guest-exit (\d+)$", re.MULTILINE)

_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules); do $b insmod /lib/modules/$module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose host /host
$b mount -t tmpfs changes /changes
$b mkdir /changes/upper /changes/work
$b mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work root /root
$b mount -t cgroup2 cgroup /sys/fs/cgroup
for place in dev proc sys; do $b mount --move /$place /root/$place; done
$b mount -t tmpfs run /root/run
$b rm -rf /root/lib/modules /root/.dockerenv
$b ln -s {kernel}/lib/modules /root/lib/modules
$b cp -r /units/. /root/etc/systemd/system/
$b cat /script >/root/run-in-guest
exec $b switch_root /root /lib/systemd/systemd --unit=guest.target --show-status=no
"""

_SCRIPT = """
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
ip link set lo up 2>/dev/null
echo {up}
cd {folder}
( {command} )
code=$?
echo
echo guest-exit $code
{busybox} poweroff -f
"""

_UNITS = {
    "guest.target": "[Unit]\nRequires=guest.service\nAfter=guest.service\nAllowIsolate=yes\n",
    "guest.service": """[Unit]
Requires=sysinit.target dbus.socket systemd-udevd.service
After=sysinit.target dbus.socket systemd-udevd.service
Wants=modprobe@vhci_hcd.service modprobe@cdc_acm.service
After=modprobe@vhci_hcd.service modprobe@cdc_acm.service
[Service]
Type=oneshot
ExecStart=/bin/sh /run-in-guest
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
""",
}
_MASKED = (
    *("systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-clean.timer"),
    *("systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "systemd-update-done.service"),
    *("systemd-firstboot.service", "systemd-random-seed.service", "systemd-udev-trigger.service", "ldconfig.service"),
    *("systemd-machine-id-commit.service", "systemd-timesyncd.service", "systemd-binfmt.service", "tmp.mount"),
)
"""What a machine that lives for minutes has no use for, or what would empty the folders it shares."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command in the guest ended; ``exit_code`` None where the guest died first."""

    exit_code: int | None
    console: str


def kernel_folder() -> Path:
    """Return where the kernel package is unpacked."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ISPD_GUEST_KERNEL") or cache / "ispd-guest")


def missing() -> str | None:
    """Return why there can be no guest here, None where there can."""
    absent = [package for file, package in _UNITS_OF.items() if not Path(file).exists()]
    absent += [package for tool, package in _TOOLS.items() if shutil.which(tool, path=_search_path()) is None]
    if absent:
        return f"the guest needs Debian's {', '.join(absent)}"
    if not (kernel_folder() / "boot").is_dir():
        return f"there is no kernel for the guest in {kernel_folder()}: scripts/test unpacks it"
    return None


def boot(folder: Path, command: str, *, work: Path, timeout_s: float) -> Outcome:
    """Boot, run a shell command as root in ``folder``, power off, and return how it ended.

    :param work: an empty folder for the boot image.
    """
    kernel = kernel_folder()
    version = next((kernel / "lib/modules").iterdir()).name
    script = _SCRIPT.format(up=_UP, folder=folder, command=command, busybox=_which("busybox"))
    machine = [
        *("qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", "2", "-m", str(_MEMORY_MB), "-display", "none", "-monitor", "none", "-serial", "stdio"),
        *("-no-reboot", "-nic", "none"),
        *("-kernel", str(kernel / f"boot/vmlinuz-{version}")),
        *("-initrd", str(_initramfs(work, kernel, version, script))),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check"),
        *("-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"),
    ]
    console = ""
    for _ in range(_BOOTS):
        console = _console(machine, work / "console", timeout_s)
        if _UP in console:
            break
    ended = _RESULT.findall(console)
    return Outcome(int(ended[-1]) if ended else None, console)


def _console(machine: Sequence[str], log: Path, timeout_s: float) -> str:
    """Run a guest to its end, or as long as it may take to come up and to work, and return what it printed."""
    with (
        log.open("wb") as output,
        subprocess.Popen(machine, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT) as guest,
    ):
        if not _ends_within(guest, _BOOT_S):
            is_up = _UP in _text(log)
            if not is_up or not _ends_within(guest, timeout_s - _BOOT_S):
                guest.kill()
    return _text(log)


def _ends_within(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").replace("\r", "")


def _initramfs(work: Path, kernel: Path, version: str, script: str) -> Path:
    """Pack what mounts this machine's files, and the script to run on them."""
    root = work / "initramfs"
    for place in ("bin", "dev", "proc", "sys", "lib/modules", "host", "changes", "root", "units"):
        (root / place).mkdir(parents=True)
    shutil.copy(_which("busybox"), root / "bin/busybox")
    files = _module_files(kernel, version)
    for file in files:
        shutil.copy(file, root / "lib/modules")
    (root / "modules").write_text("\n".join(file.name for file in files) + "\n")
    (root / "script").write_text(script)
    for unit, text in _UNITS.items():
        (root / "units" / unit).write_text(text)
    for unit in _MASKED:
        (root / "units" / unit).symlink_to("/dev/null")
    (root / "init").write_text(_INIT.replace("{kernel}", str(kernel)))
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc"], cwd=root, input=names.encode(), capture_output=True, check=True
    ).stdout
    image = work / "initramfs.gz"
    image.write_bytes(gzip.compress(packed, compresslevel=1))
    return image


def _module_files(kernel: Path, version: str) -> list[Path]:
    """Return the files of the first modules, in the order in which they load."""
    if not (kernel / f"lib/modules/{version}/modules.dep").exists():
        subprocess.run([_which("depmod"), "-b", kernel, version], check=True)
    found: dict[Path, None] = {}
    for module in _INITRAMFS_MODULES:
        command = [_which("modprobe"), "-d", str(kernel), "-S", version, "--show-depends", module]
        for line in subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines():
            if line.startswith("insmod "):
                found[Path(line.split()[1])] = None
    return list(found)


def _search_path() -> str:
    """System tools live in sbin, which a user's PATH may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _which(tool: str) -> str:
    path = shutil.which(tool, path=_search_path())
    if path is None:
        raise FileNotFoundError(tool)
    return path
