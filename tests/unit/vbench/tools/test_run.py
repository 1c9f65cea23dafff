"""Emulated programs end, are stopped, print and leave files like processes; a bench has the ones it says it has."""

import anyio
import pytest
from tests.unit.vbench.tools.desk_bench import DeskBench
from tests.unit.vbench.tools.dfu_device import DfuDevice
from tests.unit.vbench.tools.flip_device import FlipDevice

from ispd.errors import ErrorCode, TransportError
from ispd.transport.contract import ToolRun
from vbench.tools import PROGRAMS, UnemulatedError, check_versions, run_emulated
from vbench.virtual_time import virtual

PLACE = "1-1.4"
ERASE = ("dfu-programmer", "atmega32u4", "erase", "--force")


@virtual
async def test_programs_that_a_bench_does_not_have() -> None:
    for name, tools in (("rm", {}), ("dfu-util", {"dfu-util": ""})):
        with pytest.raises(TransportError) as caught:
            await DeskBench({}, tools).run(name)
        assert caught.value.code is ErrorCode.TOOL_MISSING


@virtual
async def test_a_bench_says_which_versions() -> None:
    told = {}
    for version in PROGRAMS["dfu-programmer"].versions:
        outcome = await DeskBench({}, {"dfu-programmer": version}).run("dfu-programmer", "--version")
        told[version] = (outcome.exit_code, outcome.errors)
    assert told == {
        "0.6.1": (1, b"dfu-programmer 0.6.1\n"),
        "0.7.2": (0, b"dfu-programmer 0.7.2\n"),
        "1.1.0": (0, b"dfu-programmer 1.1.0\n"),
    }
    unsaid = await DeskBench({}).run("dfu-programmer", "--version")
    assert unsaid.errors == b"dfu-programmer 0.6.1\n", "Debian's"
    check_versions({"dfu-programmer": "0.7.2", "avrdude": ""})
    for wrong in ({"dfu-programmer": "0.5"}, {"stm32flash": "1"}):
        with pytest.raises(ValueError, match="for a bench, only"):
            check_versions(wrong)


@virtual
async def test_deadline_and_cancelling_end_it_as_a_kill_does() -> None:
    bench = DeskBench({PLACE: FlipDevice(busy_polls=1000)}, {"dfu-programmer": "0.7.2"})
    begun = bench.now()
    outcome = await bench.run(*ERASE, deadline_s=3)
    assert bench.now() - begun == pytest.approx(3, abs=0.5)
    assert outcome.exit_code is None
    assert outcome.errors == b"Erasing flash...  "
    bench = DeskBench({PLACE: FlipDevice(busy_polls=1000)}, {"dfu-programmer": "0.7.2"})
    with anyio.move_on_after(1) as scope:
        await bench.run(*ERASE)
    assert scope.cancelled_caught
    await (await bench.open_usb("usb:" + PLACE)).aclose()  # nobody holds it any more


@virtual
async def test_what_is_kept_back_in_a_pipe_dies_with_the_program() -> None:
    """dfu-programmer prints a dump into a pipe's buffer; dfu-util has switched that off."""
    pieces: list[bytes] = []
    bench = DeskBench({PLACE: FlipDevice(flash=b"abc")})
    dump = ToolRun(words=("dfu-programmer", "atmega32u4", "dump"), deadline_s=60)
    outcome = await run_emulated(dump, pieces.append, bench)
    assert b"".join(pieces) == outcome.output == b"abc".ljust(0x7000, b"\xff")
    short = ToolRun(words=dump.words, deadline_s=0.02)
    assert (await run_emulated(short, pieces.append, bench)).output == b""
    waiting = ToolRun(words=("dfu-util", "-w", "-D", "app.bin"), deadline_s=5, inputs={"app.bin": b"x" * 40})
    outcome = await run_emulated(waiting, pieces.append, DeskBench({}))
    assert outcome.exit_code is None
    assert outcome.output.endswith(b"Waiting for device, exit with ctrl-C\n")


@virtual
async def test_output_comes_as_it_is_printed() -> None:
    seen: list[tuple[float, bytes]] = []
    bench = DeskBench({PLACE: FlipDevice(flash=b"a")}, {"dfu-programmer": "0.7.2"})
    run = ToolRun(words=ERASE, deadline_s=60)
    outcome = await run_emulated(run, lambda piece: seen.append((bench.now(), piece)), bench)
    assert b"".join(piece for _, piece in seen) == outcome.errors
    assert [piece for _, piece in seen][:2] == [b"Erasing flash...  ", b"Success\n"]
    assert seen[1][0] - seen[0][0] > 0.3, "erasing took its time in between"


@virtual
async def test_wanted_files_come_back_and_others_do_not() -> None:
    device = DfuDevice(content=b"firmware" * 400)
    bench = DeskBench({PLACE: device})
    words = ("dfu-util", "-a", "1", "-U", "out.bin")
    outcome = await bench.run(*words, inputs={"other.bin": b"x"}, outputs=("out.bin", "none.bin"))
    assert outcome.files == {"out.bin": b"firmware" * 400}
    refused = await bench.run(*words, inputs={"out.bin": b"old"}, outputs=("out.bin",))
    assert (refused.exit_code, refused.files) == (73, {"out.bin": b"old"})


@virtual
async def test_what_an_emulation_leaves_out_is_refused_loudly() -> None:
    bench = DeskBench({PLACE: FlipDevice()})
    for words in (
        ("dfu-programmer", "atmega32u4", "erase", "--debug=60"),
        ("dfu-util", "-v", "-l"),
        ("avrdude", "-c", "usbasp", "-p", "m32u4"),
        ("avrdude", "-c", "avr109", "-P", "/dev/x", "-p", "m32u4", "-U", "eeprom:w:a.hex:i"),
        ("teensy_loader_cli", "-mmcu=atmega32u4", "-s", "a.hex"),
    ):
        with pytest.raises(UnemulatedError):
            await bench.run(*words)
