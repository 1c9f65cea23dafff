"""How dfu-util 0.11 finds devices: DFU interfaces in descriptors, one entry for each of their alternate settings."""

import struct
from dataclasses import dataclass

from ispd.transport.contract import UsbDeviceAt
from vbench.tools.dfu_util_words import ANY, Words
from vbench.tools.machine import Process
from vbench.tools.usb_host import UsbFailureError, UsbHandle, listed, open_device

__all__ = ["DfuInterface", "probe"]

_CONFIGURATION, _STRING, _INTERFACE, _DFU = 2, 3, 4, 0x21
_GET_DESCRIPTOR = 6
_APPLICATION_SPECIFIC, _DFU_SUBCLASS, _DFU_MODE_PROTOCOL = 0xFE, 1, 2
_DFUSE = 0x011A
_TIMEOUT_S = 1.0
_MAPLE_OLD = (0x1EAF, 0x0003, 0x0200)
"""Calls itself DFU 1.0 and is 1.1."""
_LPC = (0x1FC9, 0x000C)


@dataclass(frozen=True, slots=True, kw_only=True)
class DfuInterface:
    """An alternate setting of a DFU interface.

    :param dfu_version: bcdDFUVersion, as mended.
    :param transfer_bytes: wTransferSize, 0 where the device does not say.
    """

    device: UsbDeviceAt
    configuration: int
    interface: int
    alternate: int
    name: str
    serial: str
    is_dfu_mode: bool
    attributes: int
    transfer_bytes: int
    dfu_version: int

    def line(self) -> str:
        """Return how the program lists it."""
        usb = self.device.usb
        return (
            f"Found {'DFU' if self.is_dfu_mode else 'Runtime'}: [{usb.vendor_id:04x}:{usb.product_id:04x}] "
            f"ver={self.device.version:04x}, devnum={self.device.address}, cfg={self.configuration}, "
            f'intf={self.interface}, path="{place(self.device)}", alt={self.alternate}, '
            f'name="{self.name}", serial="{self.serial}"\n'
        )


@dataclass(frozen=True, slots=True)
class _Setting:
    """An alternate setting as its descriptor says, with the functional descriptor among its extra ones, if any."""

    number: int
    alternate: int
    protocol: int
    name_index: int
    functional: bytes


def place(device: UsbDeviceAt) -> str:
    """Return where a device is, as the program writes it: bus, dash, ports."""
    return f"{device.bus}-{device.path.partition('-')[2]}"


async def probe(process: Process, words: Words) -> list[DfuInterface]:
    """Return what fits, the last found first."""
    found: list[DfuInterface] = []
    for device in listed(process.bench):
        if words.path is None or place(device) == words.path:
            for interface in await _Probe(process, words, device).interfaces():
                found.insert(0, interface)
    return found


class _Probe:
    """One device, looked at."""

    def __init__(self, process: Process, words: Words, device: UsbDeviceAt) -> None:
        self._process = process
        self._words = words
        self._device = device

    async def interfaces(self) -> list[DfuInterface]:
        """Return the interfaces that fit."""
        try:
            handle = await open_device(self._process.bench, self._device)
        except UsbFailureError:
            return []  # someone has it; to libusb that shows only when its interface is claimed
        try:
            configuration = await _descriptor(handle, _CONFIGURATION, 0, 4096)
            return await self._configuration(handle, configuration)
        except UsbFailureError:
            return []
        finally:
            await handle.close()

    async def _configuration(self, handle: UsbHandle, content: bytes) -> list[DfuInterface]:
        value = content[5]
        if self._words.configuration not in (ANY, value):
            return []
        settings = _settings(content)
        if not settings:
            return []
        functional = next((setting.functional for setting in settings if setting.functional), b"")
        if not functional:
            functional = await self._functional_asked_for(handle)
        attributes, transfer_bytes, version = self._read_functional(functional)
        usb = self._device.usb
        found = []
        for setting in settings:
            if self._words.interface not in (ANY, setting.number):
                continue
            is_dfu_mode = setting.protocol == _DFU_MODE_PROTOCOL
            is_dfu_mode |= version == _DFUSE and setting.protocol == 0
            is_dfu_mode |= (usb.vendor_id, usb.product_id) == _LPC and setting.protocol == 1
            if not self._fits(setting, is_dfu_mode=is_dfu_mode):
                continue
            name = await _text(self._process, handle, setting.name_index)
            if not self._fits_texts(name, is_dfu_mode=is_dfu_mode):
                continue
            interface = DfuInterface(
                device=self._device,
                configuration=value,
                interface=setting.number,
                alternate=setting.alternate,
                name=name,
                serial=usb.serial or "UNKNOWN",
                is_dfu_mode=is_dfu_mode,
                attributes=attributes,
                transfer_bytes=transfer_bytes,
                dfu_version=0x0110 if (usb.vendor_id, usb.product_id, self._device.version) == _MAPLE_OLD else version,
            )
            found.append(interface)
        return found

    async def _functional_asked_for(self, handle: UsbHandle) -> bytes:
        """Return the functional descriptor the device gives when asked for it; one of DFU 1.0 where it gives none."""
        try:
            return await _descriptor(handle, _DFU, 0, 9)
        except UsbFailureError:
            self._process.err("dfu-util: Device has DFU interface, but has no DFU functional descriptor\n")
            return bytes((7,)).ljust(9, b"\x00")

    def _read_functional(self, functional: bytes) -> tuple[int, int, int]:
        """Return attributes, transfer size and DFU version."""
        attributes, _, transfer_bytes, version = struct.unpack_from("<BHHH", functional.ljust(9, b"\x00"), 2)
        if functional[0] == 7:
            self._process.out("Deducing device DFU version from functional descriptor length\n")
            version = 0x0100
        elif functional[0] < 9:
            self._process.out(
                "Error obtaining DFU functional descriptor\nPlease report this as a bug!\n"
                "Warning: Assuming DFU version 1.0\nWarning: Transfer size can not be detected\n"
            )
            version, transfer_bytes = 0x0100, 0
        return attributes, transfer_bytes, version

    def _fits(self, setting: _Setting, *, is_dfu_mode: bool) -> bool:
        words, usb = self._words, self._device.usb
        if is_dfu_mode and words.alternate not in (ANY, setting.alternate):
            return False
        ids = words.dfu if is_dfu_mode else words.runtime
        return ids.fit(usb.vendor_id, usb.product_id) and words.device_number in (ANY, self._device.address)

    def _fits_texts(self, name: str, *, is_dfu_mode: bool) -> bool:
        words = self._words
        serial = self._device.usb.serial or "UNKNOWN"
        if is_dfu_mode and words.alternate_name not in (None, name):
            return False
        return (words.serial_dfu if is_dfu_mode else words.serial) in (None, serial)


def _settings(content: bytes) -> list[_Setting]:
    """Return the DFU settings of a configuration; descriptors that follow an interface's are its own."""
    found: list[_Setting] = []
    is_dfu = False
    at = content[0]
    while at + 1 < len(content) and content[at]:
        item = content[at : at + content[at]]
        if item[1] == _INTERFACE:
            is_dfu = (item[5], item[6]) == (_APPLICATION_SPECIFIC, _DFU_SUBCLASS)
            if is_dfu:
                found.append(_Setting(item[2], item[3], item[7], item[8], b""))
        elif item[1] == _DFU and is_dfu:
            last = found[-1]
            found[-1] = _Setting(last.number, last.alternate, last.protocol, last.name_index, item)
        at += content[at]
    return found


async def _descriptor(handle: UsbHandle, kind: int, index: int, length: int, language: int = 0) -> bytes:
    return await handle.read(0x80, _GET_DESCRIPTOR, kind << 8 | index, language, length, _TIMEOUT_S)


async def _text(process: Process, handle: UsbHandle, index: int) -> str:
    """Return a text of the device; UNKNOWN where it has none."""
    if index == 0:
        return "UNKNOWN"
    try:
        languages = await _descriptor(handle, _STRING, 0, 255)
    except UsbFailureError:
        process.err("dfu-util: Failed to retrieve language identifiers\n")
        return "UNKNOWN"
    if len(languages) < 4:
        process.err("dfu-util: Broken LANGID string descriptor\n")
        return "UNKNOWN"
    try:
        found = await _descriptor(handle, _STRING, index, 255, int.from_bytes(languages[2:4], "little"))
    except UsbFailureError:
        process.err(f"dfu-util: Failed to retrieve string descriptor {index}\n")
        return "UNKNOWN"
    units = found[2 : found[0]]
    pairs = zip(units[::2], units[1::2], strict=False)
    return "".join("?" if high else chr(low) for low, high in pairs) or "UNKNOWN"
