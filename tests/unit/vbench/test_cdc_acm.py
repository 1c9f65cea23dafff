"""A serial programmer as a CDC-ACM device: requests, bytes both ways, a host that is held back, lines."""

import struct

from vbench.cdc_acm import Answer, CdcAcm
from vbench.line import Flavour
from vbench.mcu import LOOKAHEAD_S
from vbench.serial_programmer import SerialProgrammer
from vbench.usbip import Submitted

SETUP = struct.Struct("<BBHHH")
GET_SYNC, IN_SYNC = b"0 ", b"\x14\x10"


class Host:
    """Numbers transfers and hands them in."""

    def __init__(self, flavour: Flavour) -> None:
        self.programmer = SerialProgrammer(flavour)
        self.device = CdcAcm(self.programmer)
        self.number = 0

    def ask(
        self, endpoint: int, now: float, *, data: bytes = b"", length: int = 0, setup: bytes = bytes(8)
    ) -> list[Answer]:
        self.number += 1
        return self.device.submit(Submitted(self.number, endpoint, length > 0, length, data, setup), now)

    def request(self, kind: int, request: int, value: int, length: int, data: bytes = b"") -> Answer:
        setup = SETUP.pack(kind, request, value, 0, length)
        (answer,) = self.ask(0, 0.0, data=data, length=length if kind & 0x80 else 0, setup=setup)
        return answer

    def opened(self, lines: int = 3, baud: int = 19200) -> None:
        self.request(0x21, 0x20, 0, 7, struct.pack("<IBBB", baud, 0, 0, 8))
        self.request(0x21, 0x22, lines, 0)

    def until_next(self, now: float) -> tuple[float, list[Answer]]:
        """Run until something ends, for at most 2 s."""
        end = now + 2
        while now < end:
            ended = self.device.run(now)
            if ended:
                return now, ended
            now = max(now + 1e-4, min(self.device.next_time(now), end))
        return now, []


def test_descriptors_name_a_serial_port_and_its_identity() -> None:
    host = Host(Flavour.TEENSYDUINO)
    device = host.request(0x80, 6, 0x0100, 18).data
    assert (device[4], device[7], device[8:12]) == (2, 64, bytes.fromhex("c0168304"))
    configuration = host.request(0x80, 6, 0x0200, 255).data
    assert struct.unpack_from("<H", configuration, 2)[0] == len(configuration)
    kinds, at = [], 0
    while at < len(configuration):
        kinds.append((configuration[at + 1], configuration[at + 2]))
        at += configuration[at]
    assert [which for kind, which in kinds if kind == 5] == [0x81, 0x02, 0x83]
    assert host.request(0x80, 6, 0x0303, 255).data[2:].decode("utf-16-le") == "12345"
    assert host.request(0xC0, 1, 0, 8).stalled, "it has no requests of a vendor's"
    assert host.request(0x21, 0x55, 0, 0).stalled


def test_line_coding_is_kept_and_the_sketch_answers_into_the_read_that_waits() -> None:
    host = Host(Flavour.LEONARDO)
    host.opened(baud=57600)
    assert host.request(0xA1, 0x21, 0, 7).data == struct.pack("<IBBB", 57600, 0, 0, 8)
    assert host.ask(1, 1.0, length=16) == []
    assert host.ask(3, 1.0, length=128) == []
    written = host.ask(2, 1.0, data=GET_SYNC)
    assert [answer.asked.endpoint for answer in written] == [2]
    _, (read,) = host.until_next(1.0)
    assert (read.asked.endpoint, read.data) == (3, IN_SYNC)


def test_the_host_is_held_back_while_there_is_no_room_and_may_take_a_write_back() -> None:
    host = Host(Flavour.UNO)
    host.opened()
    big = bytes(1280)
    begun = 5.0
    assert host.ask(2, begun, data=big) == []
    assert host.ask(2, begun, data=b"later") == []
    assert host.device.forget(host.number)
    assert not host.device.forget(host.number)
    at, ended = host.until_next(begun)
    assert [answer.asked.data for answer in ended] == [big]
    assert abs(at - begun - (1280 - 128) * 10 / 19200) <= LOOKAHEAD_S + 1e-3, (
        "what does not fit into the bridge has gone out"
    )


def test_only_a_rising_dtr_resets_an_uno() -> None:
    host = Host(Flavour.UNO)
    for lines, expected in ((0, 0), (3, 1), (3, 1), (2, 1), (3, 2)):
        host.opened(lines)
        assert host.programmer.resets == expected, lines


def test_a_slow_host_that_has_the_port_open_misses_nothing() -> None:
    host = Host(Flavour.LEONARDO)
    host.opened()
    count = 100
    for _ in range(count):
        host.ask(2, 1.0, data=GET_SYNC)
    host.until_next(3.0)
    heard = b""
    while len(heard) < count * len(IN_SYNC):
        (read,) = host.ask(3, 5.0, length=128)
        heard += read.data
    assert heard == IN_SYNC * count
