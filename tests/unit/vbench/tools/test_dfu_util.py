"""dfu-util's selection, words and exit codes, the ones that lie among them."""

from typing import Any

import pytest
from tests.unit.vbench.tools.desk_bench import DeskBench
from tests.unit.vbench.tools.dfu_device import DfuDevice

from ispd.transport.contract import ToolOutcome
from vbench.virtual_time import run_virtual, virtual

PLACE, OTHER = "1-2.4", "1-2.10"
APP = bytes(range(256)) * 12
FILES = {"app.bin": APP}
ST: dict[str, Any] = {
    "vendor_id": 0x0483,
    "product_id": 0xDF11,
    "is_dfuse": True,
    "names": ("@Internal Flash  /0x08000000/064*0001Kg",),
}
QMK = ("-a", "1", "-d", "1EAF:0003", "-R", "-D", "app.bin")
LEAVE = ("-a", "0", "-d", "0483:DF11", "-s", "0x08000000:leave", "-D", "app.bin")


def run(*words: str, **devices: DfuDevice) -> ToolOutcome:
    bench = DeskBench({{"here": PLACE, "there": OTHER}[name]: device for name, device in devices.items()})
    return run_virtual(lambda: bench.run("dfu-util", *words, inputs=FILES, outputs=("out.bin",)))


def test_a_good_download_by_exit_code() -> None:
    """The same good download ends with 74, 0 or 251, by what the device does at the reset."""
    flows = {
        74: DfuDevice(resets_away=True),
        0: DfuDevice(),
        251: DfuDevice(ends_in=8),
    }
    told = {}
    for code, device in flows.items():
        outcome = run(*(QMK if code != 251 else QMK[:-3] + QMK[-2:]), here=device)
        told[outcome.exit_code] = outcome.output.decode()
        assert device.content == APP
        assert device.alternate == 1
    assert set(told) == {0, 74}
    for text in told.values():
        assert "Download done.\nDFU state(8) = dfuMANIFEST-WAIT-RESET" in text
        assert text.rstrip().endswith(("Done!", "switch back to Run-Time mode"))
    away = DfuDevice(ends_in=2)
    outcome = run(*QMK, here=Leaver(away))  # type: ignore[arg-type]  # it passes everything on
    assert outcome.exit_code == 251
    assert away.content == APP


class Leaver:
    """A device that is another one after a bus reset, whatever its state."""

    def __init__(self, inside: DfuDevice) -> None:
        self._inside = inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    def control(self, transfer: Any, at: float) -> Any:
        reply = self._inside.control(transfer, at)
        if (transfer.request, transfer.value) == (6, 0x0100):
            self._inside.power_lost_at = at
        return reply


@pytest.mark.parametrize(("leaves_at", "code"), [("", 0), ("status", 74), ("download", 74)])
def test_leaving_dfuse(leaves_at: str, code: int) -> None:
    device = DfuDevice(**ST, leaves_at=leaves_at)
    outcome = run(*LEAVE, here=device)
    text = outcome.output.decode()
    assert outcome.exit_code == code
    assert "File downloaded successfully\n" in text
    assert ("Transitioning to dfuMANIFEST state" in text) == (code == 0)
    assert ("dfu-util: Error during download" in outcome.errors.decode()) == (code != 0)
    assert device.content == APP
    assert device.erased == [0x08000000, 0x08000400, 0x08000800]


def test_selection() -> None:
    boards = {"here": DfuDevice(names=("Flash",)), "there": DfuDevice(names=("Flash",))}
    outcome = run("-D", "app.bin", **boards)
    assert outcome.exit_code == 74
    assert b"More than one DFU capable USB device found! " in outcome.errors
    outcome = run("-p", OTHER, "-D", "app.bin", **boards)
    assert outcome.exit_code == 0
    assert [bytes(board.content) for board in boards.values()] == [b"", APP]
    assert run("-p", "1-2.1", "-D", "app.bin", **boards).exit_code == 74, "a path is compared whole"
    outcome = run("-d", "0483:df11", "-D", "app.bin", here=DfuDevice(names=("Flash",)))
    assert outcome.exit_code == 0, "one pair of ids says nothing about devices in DFU mode"
    outcome = run("-d", "0483:df11,0483:df11", "-D", "app.bin", here=DfuDevice(names=("Flash",)))
    assert (outcome.exit_code, outcome.errors.splitlines()[-1]) == (
        74,
        b"dfu-util: No DFU capable USB device available",
    )


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 64, "You need to specify one of -D or -U"),
        (("--wait", "-D", "app.bin"), 64, "Error: Unexpected argument: app.bin"),
        (("-a", "1", "-D", "none.bin"), 66, "Could not open file none.bin for reading: No such file or directory"),
        (("-a", "1", "-U", "app.bin"), 73, "Cannot open file app.bin for writing: File exists"),
        (("-s", "0x08000000:later", "-a", "1", "-D", "app.bin"), 64, "Invalid dfuse modifier: later"),
    ],
)
def test_refusals(words: tuple[str, ...], code: int, told: str) -> None:
    device = DfuDevice(names=("a", "@Flash /0x08000000/64*1Kg"))
    outcome = run(*words, here=device)
    assert outcome.exit_code == code
    assert told in outcome.errors.decode()
    assert device.content == b""


def test_list() -> None:
    outcome = run("-l", here=DfuDevice(names=("Flash",)))
    assert outcome.exit_code == 0
    assert outcome.output.decode().splitlines()[-1] == (
        f'Found DFU: [1eaf:0003] ver=0201, devnum=3, cfg=1, intf=0, path="{PLACE}", alt=0, name="Flash", serial="LLM 003"'
    )
    assert run("-l").exit_code == 0


@virtual
async def test_the_bar_fills_while_it_works() -> None:
    bench = DeskBench({PLACE: DfuDevice(**ST, poll_ms=50)})
    outcome = await bench.run("dfu-util", *LEAVE, inputs=FILES)
    frames = [line for line in outcome.output.decode().split("\r") if line.startswith("Download\t")]
    assert frames[0] == "Download\t[                         ]   0%            0 bytes"
    assert frames[-1].startswith("Download\t[=========================] 100%         3072 bytes\nDownload done.\n")
    assert len(frames) > 3
