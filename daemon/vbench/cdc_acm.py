"""A serial programmer as a full-speed CDC-ACM device: a communication and a data interface (USB CDC 1.2, PSTN 1.2).

Sans-IO: transfers of the host go in, those that are answered come out, with the time given by the caller.
"""

import math
import struct
from collections import deque
from typing import NamedTuple

from ispd.transport.contract import ControlTransfer, UsbIdentity
from vbench.emulated import SerialEnd
from vbench.usb_descriptors import Descriptors
from vbench.usbip import Submitted

__all__ = ["Answer", "CdcAcm"]

_PACKET_BYTES = 64
_NOTIFY_BYTES = 16
_NOTIFY, _DATA_OUT, _DATA_IN = 1, 2, 3
"""Endpoint numbers; a notification is never sent."""
_COMMUNICATION, _ABSTRACT, _AT_COMMANDS, _DATA = 2, 2, 1, 10
_CLASS_REQUEST = 0x20
_TYPE_MASK = 0x60
_DTR, _RTS = 1, 2
_CODING = struct.Struct("<IBBB")
_EIGHT_BITS = 8
_ROOM_BYTES = 128
"""Two banks of the endpoint on native USB, the ring of the 16U2's firmware: what is more waits on the host's side (NAK)."""
_LOOK_AGAIN_S = 1e-3
"""How often the room is looked at while the host is held back: each frame."""
_VERSION = 0x0100


class Answer(NamedTuple):
    """A transfer that has ended. ``data`` is what an IN transfer brought."""

    asked: Submitted
    data: bytes = b""
    stalled: bool = False


class CdcDescriptors(Descriptors):
    """Descriptors of one serial port behind endpoints 1 (interrupt IN), 2 (bulk OUT) and 3 (bulk IN)."""

    def __init__(self, usb: UsbIdentity, *, version: int) -> None:
        super().__init__(usb, version=version)
        self.device = self.device[:4] + bytes((_COMMUNICATION, 0, 0, _PACKET_BYTES)) + self.device[8:]
        body = b"".join(
            (
                bytes((9, 4, 0, 0, 1, _COMMUNICATION, _ABSTRACT, _AT_COMMANDS, 0)),
                bytes((5, 0x24, 0x00, 0x10, 0x01)),  # header functional descriptor, CDC 1.1
                bytes((4, 0x24, 0x02, 0x06)),  # line coding, line state and break are understood
                bytes((5, 0x24, 0x06, 0, 1)),  # union of interfaces 0 and 1
                bytes((5, 0x24, 0x01, 0, 1)),  # no call management
                struct.pack("<BBBBHB", 7, 5, 0x80 | _NOTIFY, 3, _NOTIFY_BYTES, 64),
                bytes((9, 4, 1, 0, 2, _DATA, 0, 0, 0)),
                struct.pack("<BBBBHB", 7, 5, _DATA_OUT, 2, _PACKET_BYTES, 0),
                struct.pack("<BBBBHB", 7, 5, 0x80 | _DATA_IN, 2, _PACKET_BYTES, 0),
            )
        )
        self.configuration = struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0x80, 50) + body


class CdcAcm:
    """The device's side of one emulated programmer, or of a board's serial port. All times are bench seconds.

    :param version: bcdDevice.

    A transfer of up to 128 bytes that the host reads into ends with what is there; where that is a multiple of a packet a
    device ends it by an empty packet, which is not seen here.
    """

    def __init__(self, programmer: SerialEnd, *, version: int = _VERSION) -> None:
        self._programmer = programmer
        self._descriptors = CdcDescriptors(programmer.usb, version=version)
        self._baud = programmer.baud
        self._format = (0, 0, _EIGHT_BITS)
        self._dtr = self._rts = False
        self._writes: deque[Submitted] = deque()
        self._is_fed = False
        """Whether the programmer has the bytes of the first write, which waits for room only."""
        self._reads: deque[Submitted] = deque()
        self._waiting: list[Submitted] = []
        self._kept = bytearray()

    def submit(self, asked: Submitted, now: float) -> list[Answer]:
        """Take a transfer of the host; return what ends by it."""
        match asked.endpoint:
            case 0:
                data = self._control(asked.control(math.inf), now)
                return [Answer(asked, stalled=True) if data is None else Answer(asked, data[: asked.length])]
            case 2:
                self._writes.append(asked)
            case 3:
                self._reads.append(asked)
            case _:
                self._waiting.append(asked)
        return self.run(now)

    def forget(self, number: int) -> bool:
        """Take a transfer back; tell whether it was still waiting."""
        for queue in (self._writes, self._reads, self._waiting):
            for asked in queue:
                if asked.number == number:
                    self._is_fed = self._is_fed and asked is not self._writes[0]
                    queue.remove(asked)
                    return True
        return False

    def run(self, now: float) -> list[Answer]:
        """Catch up with the clock; return the transfers that have ended."""
        ended: list[Answer] = []
        while self._writes:
            if not self._is_fed:
                self._programmer.feed(self._writes[0].data, now)
                self._is_fed = True
            self._collect(now)
            if self._programmer.held(now) > _ROOM_BYTES:
                break
            ended.append(Answer(self._writes.popleft()))
            self._is_fed = False
        self._collect(now)
        while self._reads and self._kept:
            asked = self._reads.popleft()
            ended.append(Answer(asked, bytes(self._kept[: asked.length])))
            del self._kept[: asked.length]
        return ended

    def next_time(self, now: float) -> float:
        """Return when :meth:`run` should be called next though the host asks nothing, infinity for never."""
        due = self._programmer.next_time()
        return min(due, now + _LOOK_AGAIN_S) if self._writes else due

    def _collect(self, now: float) -> None:
        self._kept += self._programmer.take(now)
        if not self._reads and not (self._dtr or self._rts):
            del self._kept[_ROOM_BYTES:]  # nobody has it open, and the firmware does not wait for that

    def _control(self, transfer: ControlTransfer, now: float) -> bytes | None:
        """Carry out a request; return the data of its answer, None where it is refused."""
        if transfer.request_type & _TYPE_MASK != _CLASS_REQUEST:
            return None if transfer.request_type & _TYPE_MASK else self._descriptors.answer(transfer)
        match transfer.request:
            case 0x20 if len(transfer.data) == _CODING.size:  # SET_LINE_CODING
                baud, *form = _CODING.unpack(transfer.data)
                self._format = (form[0], form[1], form[2])
                self._baud = baud or self._baud
                self._set_line(now)
            case 0x21:  # GET_LINE_CODING
                return _CODING.pack(self._baud, *self._format)
            case 0x22:  # SET_CONTROL_LINE_STATE
                self._dtr, self._rts = bool(transfer.value & _DTR), bool(transfer.value & _RTS)
                self._set_line(now)
            case 0x23:  # SEND_BREAK means nothing to these boards
                pass
            case _:
                return None
        return b""

    def _set_line(self, now: float) -> None:
        self._programmer.opened(now, baud=self._baud, dtr=self._dtr, rts=self._rts)
