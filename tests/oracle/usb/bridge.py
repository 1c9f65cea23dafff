"""The kernel's part between a USB tool and an emulated device: usbfs ioctls, sysfs and hotplug, by umockdev.

Runs in Debian's own Python (it has ``gi``) under ``umockdev-wrapper``, with nothing of the project on its path. The
devices themselves live in the process that started it: transfers go there over a socket, one JSON document per line.
What to plug and unplug comes over standard input the same way; each command is answered by a line.
"""

import errno
import json
import os
import socket
import struct
import sys
from typing import Any

import gi  # type: ignore[import-not-found]  # Debian's Python has it, the one that checks types has not

gi.require_version("UMockdev", "1.0")
from gi.repository import UMockdev  # type: ignore[import-not-found]  # noqa: E402  # as above, after its version

# <linux/usbdevice_fs.h>, on 64-bit machines
CONTROL, SET_INTERFACE, SET_CONFIGURATION, GET_DRIVER = 0xC0185500, 0x80085504, 0x80045505, 0x41045508
SUBMIT_URB, DISCARD_URB, REAP_URB, REAP_URB_NO_DELAY = 0x8038550A, 0x550B, 0x4008550C, 0x4008550D
CLAIM, RELEASE, CONNECT_INFO, RESET = 0x8004550F, 0x80045510, 0x40085511, 0x5514
CAPABILITIES, DISCONNECT_CLAIM, SPEED = 0x8004551A, 0x8108551B, 0x551F
DONE = frozenset({SET_CONFIGURATION, CLAIM, RELEASE, DISCONNECT_CLAIM})
"""What succeeds without anything to do."""
LOW_SPEED = 1
CONTROL_STRUCT = struct.Struct("<BBHHHI4xQ")
BULK = 3
URB_BYTES, URB_STATUS, URB_BUFFER, URB_LENGTH, URB_ACTUAL = 56, 4, 16, 24, 28
SETUP = struct.Struct("<BBHHH")
UDEV_TEXTS = {"manufacturer": "ID_VENDOR", "product": "ID_MODEL", "serial": "ID_SERIAL_SHORT"}
"""What udev's usb_id makes of a device's texts."""


class Device(UMockdev.IoctlBase):  # type: ignore[misc]  # see above
    """Answers the ioctls of one device node."""

    def __init__(self, path: str, transfers: Any) -> None:
        super().__init__()
        self.path = path
        self.transfers = transfers
        self.is_gone = False
        self.done: list[Any] = []
        self.pending: Any = None

    def do_handle_ioctl(self, client: Any) -> bool:
        """Carry out one ioctl; called by umockdev's thread."""
        request = client.get_request()
        if self.is_gone and not (self.done and request in (REAP_URB, REAP_URB_NO_DELAY)):  # what is over is told still
            client.complete(-1, errno.ENODEV)
        elif request == CONTROL:
            self.control(client)
        elif request == SUBMIT_URB:
            self.submit(client)
        elif request in (REAP_URB, REAP_URB_NO_DELAY):
            self.reap(client)
        elif request == DISCARD_URB:
            self.discard(client)
        elif request in (RESET, SET_INTERFACE):
            self.tell(client, request)
        else:
            self.answer(client, request)
        return True

    def answer(self, client: Any, request: int) -> None:
        """Answer what the device itself has no part in."""
        if request == CAPABILITIES:
            # libusb's first question once a device is open: what a killed program had under way is nobody's any more
            self.done.clear()
            self.pending = None
            client.get_arg().resolve(0, 4).update(0, struct.pack("<I", 0))
        known = {
            CAPABILITIES: (0, 0),
            SPEED: (LOW_SPEED, 0),
            GET_DRIVER: (-1, errno.ENODATA),
            **dict.fromkeys(DONE, (0, 0)),
        }
        client.complete(*known.get(request, (-1, errno.ENOTTY)))

    def control(self, client: Any) -> None:
        """A transfer that the caller waits for: libusb-0.1."""
        call = client.get_arg().resolve(0, CONTROL_STRUCT.size)
        kind, request, value, index, length, timeout_ms, _ = CONTROL_STRUCT.unpack(bytes(call.retrieve()))
        buffer = call.resolve(16, length) if length else None
        is_in = bool(kind & 0x80)
        sent = b"" if is_in or buffer is None else bytes(buffer.retrieve())
        reply = self.transfer((kind, request, value, index, length), sent, timeout_ms)
        if reply["errno"]:
            client.complete(-1, reply["errno"])
            return
        data = bytes.fromhex(reply["data"])
        if data and buffer is not None:
            buffer.update(0, data)
        client.complete(len(data) if is_in else length, 0)

    def submit(self, client: Any) -> None:
        """A transfer whose end is asked for later: libusb-1.0. It is over at once, or never."""
        urb = client.get_arg().resolve(0, URB_BYTES)
        head = bytes(urb.retrieve())
        (size,) = struct.unpack_from("<i", head, URB_LENGTH)
        buffer = urb.resolve(URB_BUFFER, size)
        if head[0] == BULK:
            self.submit_bulk(client, urb, buffer, head[1], size)
            return
        content = bytes(buffer.retrieve())
        setup = SETUP.unpack_from(content)
        reply = self.transfer(setup, b"" if setup[0] & 0x80 else content[SETUP.size :], 0)
        data = bytes.fromhex(reply["data"])
        if data:
            buffer.update(SETUP.size, data)
        self.end(client, urb, reply["errno"], len(data) if setup[0] & 0x80 else size - SETUP.size)

    def submit_bulk(self, client: Any, urb: Any, buffer: Any, endpoint: int, size: int) -> None:
        """A bulk transfer. One without an answer yet waits until it is taken back: hosts here send before they read."""
        is_in = bool(endpoint & 0x80)
        sent = b"" if is_in else bytes(buffer.retrieve())
        reply = self.ask({"path": self.path, "endpoint": endpoint, "length": size, "data": sent.hex()})
        data = bytes.fromhex(reply["data"])
        if data:
            buffer.update(0, data)
        self.end(client, urb, reply["errno"], len(data) if is_in else size)

    def end(self, client: Any, urb: Any, error: int, actual: int) -> None:
        """Note how a transfer ended; one that timed out is still under way for the program."""
        urb.update(URB_STATUS, struct.pack("<i", -error))
        urb.update(URB_ACTUAL, struct.pack("<i", 0 if error else actual))
        if error == errno.ETIMEDOUT:
            self.pending = urb
        else:
            self.done.append(urb)
        client.complete(0, 0)

    def reap(self, client: Any) -> None:
        """Hand back a transfer that is over."""
        if self.done:
            client.get_arg().resolve(0, 8).set_ptr(0, self.done.pop(0))
            client.complete(0, 0)
        else:
            client.complete(-1, errno.EAGAIN)

    def discard(self, client: Any) -> None:
        """Take a transfer back that the device holds up."""
        if self.pending is None:
            client.complete(-1, errno.EINVAL)
            return
        self.pending.update(URB_STATUS, struct.pack("<i", -errno.ENOENT))
        self.done.append(self.pending)
        self.pending = None
        client.complete(0, 0)

    def tell(self, client: Any, request: int) -> None:
        """Tell the device what the kernel tells it for an ioctl: after a reset it looks whether this is still the same one."""
        setup = (0x80, 0x06, 0x0100, 0, 18)
        if request == SET_INTERFACE:
            interface, alternate = struct.unpack("<II", bytes(client.get_arg().resolve(0, 8).retrieve()))
            setup = (0x01, 0x0B, alternate, interface, 0)
        error = self.transfer(setup, b"", 5000)["errno"]
        client.complete(-1 if error else 0, error)

    def transfer(self, setup: tuple[int, ...], data: bytes, timeout_ms: int) -> Any:
        """Let the emulation answer."""
        return self.ask({"path": self.path, "setup": setup, "data": data.hex(), "timeout_ms": timeout_ms})

    def ask(self, request: dict[str, Any]) -> Any:
        """Hand a transfer over and wait for its end."""
        self.transfers.write(json.dumps(request) + "\n")
        self.transfers.flush()
        reply = json.loads(self.transfers.readline())
        self.is_gone = reply["errno"] == errno.ENODEV
        return reply


def plug(testbed: Any, device: dict[str, Any], handler: Device | None) -> None:
    """Make a device's node and its place in sysfs, and tell udev's listeners."""
    node = f"/dev/bus/usb/001/{device['number']:03d}"
    if handler is not None:
        testbed.attach_ioctl(node, handler)
    content = bytes.fromhex(device["descriptors"])
    product = struct.unpack_from("<HHH", content, 8)
    lines = [
        f"P: {device['sysfs']}",
        f"N: {node.removeprefix('/dev/')}={content.hex().upper()}",
        "E: SUBSYSTEM=usb",
        "E: DEVTYPE=usb_device",
        f"E: DEVNAME={node}",
        "E: BUSNUM=001",
        f"E: DEVNUM={device['number']:03d}",
        "E: PRODUCT=" + "/".join(f"{word:x}" for word in product),
        f"E: ID_VENDOR_ID={product[0]:04x}",
        f"E: ID_MODEL_ID={product[1]:04x}",
        *(f"E: {UDEV_TEXTS[name]}={text}" for name, text in device["texts"].items()),
        "A: busnum=1\\n",
        f"A: devnum={device['number']}\\n",
        f"A: speed={device['speed']}\\n",
        "A: bConfigurationValue=1\\n",
        f"A: idVendor={product[0]:04x}\\n",
        f"A: idProduct={product[1]:04x}\\n",
        f"A: bcdDevice={product[2]:04x}\\n",
        *(f"A: {name}={text}\\n" for name, text in device["texts"].items()),
        f"H: descriptors={content.hex().upper()}",
        "",
    ]
    testbed.add_from_string("\n".join(lines))
    testbed.uevent("/sys" + device["sysfs"], "add")


def main() -> None:
    """Serve until standard input ends."""
    transfers = socket.socket(fileno=int(sys.argv[1])).makefile("rw", encoding="ascii")
    testbed = UMockdev.Testbed.new()
    handlers: dict[str, Device] = {}
    print(json.dumps({"root": testbed.get_root_dir()}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "plug" in command:
            device = command["plug"]
            handler = None
            if device["is_served"]:
                handler = handlers[device["path"]] = Device(device["path"], transfers)
            plug(testbed, device, handler)
        else:
            device = command["unplug"]
            handlers[device["path"]].is_gone = True
            testbed.uevent("/sys" + device["sysfs"], "remove")
            testbed.remove_device("/sys" + device["sysfs"])
        print("{}", flush=True)
    del testbed  # removes its folder
    os._exit(0)  # umockdev's threads may still wait for clients


if __name__ == "__main__":
    main()
