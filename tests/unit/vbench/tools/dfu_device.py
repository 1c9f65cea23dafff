"""A DFU device as small as it goes, plain or DfuSe: only what programs are compared on."""

import struct

from ispd.transport.contract import ControlTransfer, PortKind, UsbIdentity
from vbench.emulated import ControlReply
from vbench.usb_descriptors import Descriptors

__all__ = ["DfuDevice"]

IDLE, SYNC, BUSY, DNLOAD_IDLE, MANIFEST_SYNC, MANIFEST, WAIT_RESET, UPLOAD_IDLE, ERROR = 2, 3, 4, 5, 6, 7, 8, 9, 10
_STAGE_S = 0.0002
_BASE = 0x08000000


class DfuDevice:
    """One device.

    :param is_dfuse: speaks DfuSe, with 1 KiB pages from 08000000 on, of which the first cannot be written.
    :param names: of its alternate settings.
    :param protocol: 2 in DFU mode, 1 in run-time mode.
    :param has_functional: whether it has a functional descriptor.
    :param ends_in: state after manifestation.
    :param resets_away: a bus reset makes another device of it; else it stays.
    :param leaves_at: "status" or "download": when it is gone as it leaves; empty where it stays.
    :param fails_at: number of the block that it finds fault with.
    :param first: state it is found in.
    """

    port_kind = PortKind.USB

    def __init__(
        self,
        *,
        vendor_id: int = 0x1EAF,
        product_id: int = 0x0003,
        is_dfuse: bool = False,
        names: tuple[str, ...] = ("RAM", "Flash"),
        serial: str = "LLM 003",
        protocol: int = 2,
        has_functional: bool = True,
        transfer_bytes: int = 1024,
        ends_in: int = WAIT_RESET,
        resets_away: bool = False,
        leaves_at: str = "",
        fails_at: int | None = None,
        poll_ms: int = 0,
        first: int = IDLE,
        content: bytes = b"",
        has_names: bool = True,
    ) -> None:
        self.usb = UsbIdentity(
            vendor_id=vendor_id, product_id=product_id, manufacturer="LeafLabs", product="Maple 003", serial=serial
        )
        self.version = 0x0201
        version = 0x011A if is_dfuse else 0x0110
        functional = struct.pack("<BBBHHH", 9, 0x21, 0x0B, 255, transfer_bytes, version) if has_functional else b""
        settings = b"".join(
            struct.pack("<9B", 9, 4, 0, number, 0, 0xFE, 1, protocol, 4 + number if has_names else 0)
            for number in range(len(names))
        )
        self.descriptors = Descriptors(
            self.usb, version=self.version, packet_bytes=64, interfaces=settings + functional
        )
        self.power_lost_at: float | None = None
        self.heard: list[ControlTransfer] = []
        """Requests of its class so far."""
        self.content = bytearray(content)
        self.erased: list[int] = []
        self.alternate = 0
        self._names = names
        self._is_dfuse = is_dfuse
        self._ends_in = ends_in
        self._resets_away = resets_away
        self._leaves_at = leaves_at
        self._fails_at = fails_at
        self._poll_ms = poll_ms
        self._status, self._state = 0, first
        self._transfer_bytes = transfer_bytes
        self._pointer = _BASE
        self._blocks = 0
        self._is_leaving = False
        self._is_reset = False

    def run(self, now: float) -> None:
        """Nothing happens between transfers."""

    def power_off(self, at: float) -> None:
        """The plug is pulled."""
        self.power_lost_at = at

    def control(self, transfer: ControlTransfer, at: float) -> ControlReply:
        """Carry out one transfer."""
        if transfer.request_type & 0x60:
            self.heard.append(transfer)
        ends_at = at + _STAGE_S * (2 + max(len(transfer.data), transfer.length) // 64)
        answer = self._request if transfer.request_type & 0x60 else self._standard
        data = answer(transfer, at)
        if data is None:
            return ControlReply(ends_at=ends_at, stalled=True)
        return ControlReply(ends_at=ends_at, data=data)

    def _standard(self, transfer: ControlTransfer, at: float) -> bytes | None:
        if (transfer.request, transfer.value) == (6, 0x0100) and self._state == WAIT_RESET and self._resets_away:
            self.power_lost_at = at
        if transfer.request == 0x0B:
            self.alternate = transfer.value
        index = (transfer.value & 0xFF) - 4
        if transfer.request == 6 and transfer.value >> 8 == 3 and 0 <= index < len(self._names):
            text = self._names[index].encode("utf-16-le")
            return bytes((2 + len(text), 3)) + text
        return self.descriptors.answer(transfer)

    def _request(self, transfer: ControlTransfer, at: float) -> bytes | None:
        match transfer.request:
            case 1:
                return self._download(transfer, at)
            case 2:
                return self._upload(transfer)
            case 3:
                return self._report(at)
            case 4 | 6 if self._state != WAIT_RESET:
                self._status, self._state = 0, IDLE
                return b""
            case 0 if self._state < IDLE:
                self._state = 1
                return b""
            case _:
                return self._refuse(15)

    def _refuse(self, status: int) -> bytes | None:
        self._status, self._state = status, ERROR
        return None

    def _download(self, transfer: ControlTransfer, at: float) -> bytes | None:
        if self._state not in (IDLE, DNLOAD_IDLE):
            return self._refuse(15)
        if not transfer.data:
            self._is_leaving = True
            if self._leaves_at == "download":
                self.power_lost_at = at
            self._state = MANIFEST_SYNC
            return b""
        if self._blocks == self._fails_at:
            self._status, self._state = 3, ERROR
            return b""
        self._blocks += 1
        if self._is_dfuse:
            self._dfuse(transfer)
            return b""
        self.content += transfer.data
        self._state = SYNC
        return b""

    def _dfuse(self, transfer: ControlTransfer) -> None:
        self._state = SYNC
        if transfer.value:
            at = self._pointer - _BASE + (transfer.value - 2) * self._transfer_bytes
            self.content = self.content.ljust(at, b"\xff")
            self.content[at : at + len(transfer.data)] = transfer.data
            return
        address = int.from_bytes(transfer.data[1:], "little")
        if transfer.data[0] == 0x41:
            self.erased.append(address)
        else:
            self._pointer = address

    def _upload(self, transfer: ControlTransfer) -> bytes | None:
        if self._state not in (IDLE, UPLOAD_IDLE):
            return self._refuse(15)
        if self._blocks == self._fails_at:
            return self._refuse(2)
        self._blocks += 1
        base = self._pointer - _BASE - 2 * self._transfer_bytes if self._is_dfuse else 0
        at = base + transfer.value * self._transfer_bytes
        data = bytes(self.content[at : at + transfer.length])
        self._state = UPLOAD_IDLE if len(data) == transfer.length else IDLE
        return data

    def _report(self, at: float) -> bytes:
        if self._state == SYNC:
            self._state = BUSY if self._is_dfuse else DNLOAD_IDLE
        elif self._state == BUSY:
            self._state = DNLOAD_IDLE
        elif self._state == MANIFEST_SYNC:
            self._state = MANIFEST if self._is_dfuse else self._ends_in
            if self._leaves_at == "status":
                self.power_lost_at = at
        return bytes((self._status,)) + self._poll_ms.to_bytes(3, "little") + bytes((self._state, 0))
