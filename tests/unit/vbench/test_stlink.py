"""ST-Link: commands and answers, what releases can do, wiring, faults of USB."""

import math
import struct

import pytest
from tests.unit.vbench.swd_host import DHCSR, FLASH, RAM

from ispd.transport.contract import ControlTransfer
from vbench.emulated import EmulatedBulk
from vbench.faults import Mute, PowerLoss, ShortReply, StalledTransfer, UnpluggedAt
from vbench.stlink import StLink
from vbench.stlink_firmware import StLinkFirmware, odd_serial
from vbench.stm32f1 import ApWait, Stm32F1
from vbench.swd import SwdSocket, SwdWiring

OK, NO_IDCODE, AP_WAIT, AP_FAULT, AP_ERROR, UNKNOWN, FAULT = 0x80, 0x09, 0x10, 0x11, 0x12, 0x08, 0x81


class Host:
    def __init__(self, probe: StLink) -> None:
        self.probe: EmulatedBulk = probe
        self.out = probe.firmware.out_endpoint
        self.now = 1.0

    def send(self, data: bytes) -> None:
        reply = self.probe.bulk_out(self.out, data, self.now)
        assert not reply.stalled
        assert reply.ends_at < math.inf
        self.now = reply.ends_at

    def receive(self, length: int) -> bytes:
        reply = self.probe.bulk_in(0x81, length, self.now)
        assert reply is not None
        assert not reply.stalled
        self.now = reply.ends_at
        return reply.data

    def ask(self, command: str, length: int) -> bytes:
        self.send(bytes.fromhex(command).ljust(16, b"\0"))
        return self.receive(length)

    def status(self) -> int:
        return self.ask("F23E", 12)[0]

    def enter(self) -> int:
        return self.ask("F230A3", 2)[0]

    def read(self, code: int, address: int, length: int) -> bytes:
        return self.ask(struct.pack("<BBIH", 0xF2, code, address, length).hex(), length)

    def write(self, code: int, address: int, data: bytes) -> int:
        self.send(struct.pack("<BBIH", 0xF2, code, address, len(data)).ljust(16, b"\0"))
        self.send(data)
        return self.status()

    def debug_word(self, address: int) -> tuple[int, int]:
        status, value = struct.unpack("<II", self.ask(f"F236{address.to_bytes(4, 'little').hex()}", 8))
        return status, value

    def set_debug_word(self, address: int, value: int) -> int:
        return self.ask("F235" + struct.pack("<II", address, value).hex(), 2)[0]


def host_of(chip: Stm32F1 | None = None, *, wiring: SwdWiring | None = None, **options: int) -> Host:
    return Host(StLink(StLinkFirmware(**options), socket=SwdSocket(chip or Stm32F1(), wiring=wiring)))


def test_names_its_release_and_mode_and_the_target_s_supply() -> None:
    host = host_of()
    assert host.ask("F1", 6) == bytes.fromhex("2947 8304 4837")
    assert host.ask("F5", 2)[0] == 0
    host.send(bytes.fromhex("F307").ljust(16, b"\0"))
    assert host.probe.bulk_in(0x81, 2, host.now) is None, "no answer to this one"
    assert host.ask("F5", 2)[0] == 1
    reference, value = struct.unpack("<II", host.ask("F7", 8))
    assert 2400 * value / reference == pytest.approx(3240, abs=5)
    assert host.enter() == OK
    assert host.ask("F5", 2)[0] == 2
    assert struct.unpack("<III", host.ask("F231", 12)) == (OK, 0x1BA0_1477, 0)
    assert host.ask("F222", 4) == bytes.fromhex("7714A01B")


@pytest.mark.parametrize(
    ("product_id", "jtag", "third", "version", "endpoint"),
    [
        (0x3744, 0, 0, "1000 8304 4437", 0x02),
        (0x374B, 28, 18, "2712 8304 4B37", 0x01),
        (0x374F, 7, 1, "3000 8304 4F37", 0x01),
    ],
)
def test_its_kinds(product_id: int, jtag: int, third: int, version: str, endpoint: int) -> None:
    firmware = StLinkFirmware(product_id=product_id, jtag=jtag, third=third)
    assert firmware.version == bytes.fromhex(version)
    assert firmware.out_endpoint == endpoint
    with pytest.raises(ValueError, match="1234"):
        StLinkFirmware(product_id=0x1234)


def test_a_v3_tells_its_release_and_clocks_elsewhere() -> None:
    host = host_of(product_id=0x374F, jtag=7, third=1)
    assert host.ask("FB", 12)[:5] == bytes((3, 0, 7, 1, 0)), "SWIM, JTAG, mass storage, bridge"
    assert host_of(product_id=0x3754, jtag=7, third=1).ask("FB", 12)[:5] == bytes((3, 1, 7, 0, 0))
    clocks = host.ask("F262", 52)
    count = struct.unpack_from("<I", clocks, 8)[0]
    assert struct.unpack_from(f"<{count}I", clocks, 12) == (24000, 8000, 3300, 1000, 200, 50, 5)
    assert struct.unpack("<HHI", host.ask("F2610000" + struct.pack("<I", 900).hex(), 8)) == (OK, 0, 200)
    assert host.ask("F24301", 2)[0] == UNKNOWN


@pytest.mark.parametrize(
    ("command", "jtag"), [("F7", 13), ("F23E", 15), ("F2430100", 22), ("F245FFFF", 24), ("F247", 26), ("F24B", 28)]
)
def test_a_release_knows_what_came_with_it(command: str, jtag: int) -> None:
    def answers(number: int) -> bool:
        host = host_of(jtag=number)
        host.send(bytes.fromhex(command).ljust(16, b"\0"))
        reply = host.probe.bulk_in(0x81, 64, host.now)
        return reply is None or reply.data[:2] != bytes((UNKNOWN, 0))

    assert [answers(number) for number in (jtag - 1, jtag)] == [False, True]


def test_memory_in_all_units() -> None:
    host = host_of()
    data = bytes(range(256)) * 24
    assert host.write(0x08, RAM, data) == OK
    assert host.read(0x07, RAM, 6144) == data
    assert host.status() == OK
    assert host.read(0x47, RAM + 2, 6) == data[2:8]
    assert host.read(0x0C, RAM + 5, 1) == b"\x05", "two bytes are sent, the host asked for one"
    assert host.ask("F20C" + struct.pack("<IH", RAM + 5, 1).hex(), 64) == b"\x05\x00"
    assert host.write(0x0D, RAM + 1, b"abc") == OK
    assert host.write(0x48, RAM + 8, b"AB") == OK
    assert host.read(0x07, RAM, 12) == b"\x00abc" + data[4:8] + b"AB" + data[10:12]
    assert host.read(0x54, RAM, 8) == b"\x00abc" * 2
    assert host.write(0x50, RAM, b"12345678") == OK
    assert host.read(0x07, RAM, 8) == b"5678" + data[4:8]


@pytest.mark.parametrize(
    ("code", "address", "length"), [(0x07, RAM + 2, 4), (0x07, RAM, 6148), (0x0C, RAM, 65), (0x47, RAM + 1, 2)]
)
def test_refuses_what_it_cannot_carry(code: int, address: int, length: int) -> None:
    host = host_of()
    assert host.read(code, address, length) == bytes(length)
    assert host.status() == FAULT


def test_core_registers_and_the_private_bus_by_memory_commands() -> None:
    host = host_of()
    assert host.enter() == OK
    assert host.read(0x07, 0xE000_ED00, 4) == (0x411F_C231).to_bytes(4, "little")
    assert host.read(0x47, 0xE004_2000, 2) == b"\x10\x64"
    assert host.set_debug_word(DHCSR, 0xA05F_0003) == OK
    assert host.debug_word(DHCSR)[1] & 1 << 17
    assert host.ask("F23403" + "78563412", 2)[0] == OK
    assert struct.unpack("<II", host.ask("F23303", 8)) == (OK, 0x1234_5678)
    every = struct.unpack("<22I", host.ask("F23A", 88))
    assert (every[0], every[4]) == (OK, 0x1234_5678)


def test_statuses_of_the_bus() -> None:
    host = host_of(Stm32F1(is_protected=True, faults=[ApWait(access=1)]))
    assert host.read(0x07, FLASH, 8) == bytes(8)
    assert struct.unpack("<HHII", host.ask("F23E", 12)) == (AP_FAULT, 0, FLASH, 0)
    assert host.debug_word(DHCSR)[0] == AP_WAIT
    assert host.debug_word(DHCSR)[0] == OK


@pytest.mark.parametrize("wiring", [SwdWiring(swapped=True), SwdWiring(supplies=False)], ids=["swapped", "no-power"])
def test_nobody_on_the_wires(wiring: SwdWiring) -> None:
    host = host_of(wiring=wiring)
    assert host.enter() == NO_IDCODE
    assert struct.unpack("<III", host.ask("F231", 12)) == (NO_IDCODE, 0, 0)
    assert host.debug_word(DHCSR) == (AP_ERROR, 0)
    assert struct.unpack("<II", host.ask("F7", 8))[1] == 0 or wiring.supplies


@pytest.mark.parametrize("has_nrst", [True, False])
def test_reset_by_its_wire_and_through_the_core(has_nrst: bool) -> None:
    chip = Stm32F1()
    host = host_of(chip, wiring=SwdWiring(has_nrst=has_nrst))
    host.debug_word(DHCSR)
    resets = chip.resets
    assert [host.ask(command, 2)[0] for command in ("F23C00", "F23C01")] == [OK, OK]
    assert bool(host.debug_word(DHCSR)[1] & 1 << 25) == has_nrst
    assert chip.resets > resets or not has_nrst
    resets = chip.resets
    assert host.ask("F232", 2)[0] == OK
    assert chip.resets == resets + 1
    assert not host.debug_word(DHCSR)[1] & 1 << 25, "the probe has read the sticky bit already"


def test_a_slower_clock_takes_longer() -> None:
    host = host_of()

    def seconds(divisor: int) -> float:
        assert host.ask(f"F243{divisor.to_bytes(2, 'little').hex()}", 2)[0] == OK
        begun = host.now
        host.read(0x07, RAM, 4096)
        return host.now - begun

    times = [seconds(divisor) for divisor in (0, 1, 7, 798)]
    assert times == sorted(times)
    assert times[3] == pytest.approx(1024 * 46 / 5000, rel=0.05)
    assert host.ask("F2430500", 2)[0] == UNKNOWN


def test_ports_of_the_target() -> None:
    host = host_of()

    def register(port: int, address: int) -> tuple[int, ...]:
        return struct.unpack("<II", host.ask("F245" + struct.pack("<HH", port, address).hex(), 8))

    assert register(0xFFFF, 0) == (OK, 0x1BA0_1477)
    assert register(0, 0xFC) == (OK, 0x1477_0011)
    assert register(5, 0) == (0x1D, 0)
    assert [host.ask(command, 2)[0] for command in ("F24B00", "F24C00", "F24B01")] == [OK, OK, 0x1D]


def test_a_flash_that_is_busy_makes_the_probe_wait() -> None:
    host = host_of()
    for address, value in ((4, 0x4567_0123), (4, 0xCDEF_89AB), (0x10, 4), (0x10, 0x44)):
        assert host.set_debug_word(0x4002_2000 + address, value) == OK
    assert host.read(0x07, FLASH, 4) == bytes(4)
    assert host.status() == AP_WAIT
    host.now += 0.05
    assert host.read(0x07, FLASH, 4) == b"\xff" * 4
    assert host.status() == OK


def test_leaving_lets_go_of_reset() -> None:
    chip = Stm32F1()
    host = host_of(chip, wiring=SwdWiring(has_nrst=True))
    host.enter()
    assert host.ask("F23C00", 2)[0] == OK
    host.send(bytes.fromhex("F221").ljust(16, b"\0"))
    assert host.ask("F5", 2)[0] == 1
    host.debug_word(DHCSR)
    assert not host.debug_word(DHCSR)[1] & 1 << 25
    resets = chip.resets
    assert host.ask("F23C02", 2)[0] == OK, "a pulse"
    assert chip.resets > resets
    assert host.ask("F23C07", 2)[0] == UNKNOWN


def test_serial_numbers() -> None:
    def text(serial: str) -> bytes:
        ask = ControlTransfer(request_type=0x80, request=6, value=0x0303, index=0x0409, length=255)
        return StLink(serial=serial).control(ask, 0.0).data

    number = bytes.fromhex("2C1219002B135937334D4E00")
    assert text(number.hex().upper())[0] == 50
    assert text(odd_serial(number)) == bytes((26, 3)) + b"".join(bytes((byte, 0)) for byte in number)


def test_an_unplugged_probe_takes_the_supply_away() -> None:
    chip = Stm32F1()
    probe = StLink(socket=SwdSocket(chip), faults=[UnpluggedAt(transfer=3)])
    host = Host(probe)
    host.ask("F1", 6)
    host.send(bytes.fromhex("F1").ljust(16, b"\0"))
    assert chip.is_powered
    probe.bulk_in(0x81, 6, host.now)
    assert probe.power_lost_at is not None
    assert chip.supply_mv() == 0
    probe.power_on(5.0)
    assert chip.supply_mv() > 0
    cut = StLink(socket=SwdSocket(Stm32F1()), faults=[PowerLoss(instructions=2)])
    Host(cut).ask("F230A3", 2)
    cut.bulk_out(2, bytes.fromhex("F231").ljust(16, b"\0"), 2.0)
    assert cut.power_lost_at is not None


def test_faults_of_usb() -> None:
    stalling = StLink(faults=[StalledTransfer(index=0)])
    command = bytes.fromhex("F1").ljust(16, b"\0")
    assert stalling.bulk_out(2, command, 0.0).stalled
    assert stalling.bulk_out(2, command, 0.1).stalled, "until the host clears it"
    stalling.control(ControlTransfer(request_type=0x02, request=1, index=2), 0.2)
    assert not stalling.bulk_out(2, command, 0.3).stalled
    assert Host(StLink(faults=[ShortReply(index=1, bytes=3)])).ask("F1", 6) == bytes.fromhex("294783")
    mute = Host(StLink(faults=[Mute(after_replies=6)]))
    mute.ask("F1", 6)
    assert mute.probe.bulk_out(2, command, mute.now).ends_at == math.inf
    first = Host(StLink(StLinkFirmware(product_id=0x3744)))
    first.send(command)
    assert first.probe.bulk_in(0x81, 6, first.now) is None, "a V1 speaks SCSI"
