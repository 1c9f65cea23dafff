"""What holds for every follow-up tool, however it works: the scan finds it, and no odd program makes a pass."""

from collections.abc import Callable

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.chain.scripted_desk import ScriptedDesk, image, work_for

from ispd.chain.contract import ChainTool, ChainWork
from ispd.chain.registry import load_tools, tool_for
from ispd.errors import ErrorCode, IspdError, LocalProtocolError, TargetError, TransportError
from ispd.transport.contract import ToolOutcome, ToolRun

TOOLS = load_tools()
BODY = bytes(range(256)) * 4
BLUEPILL = (0x20005000).to_bytes(4, "little") + (0x08002101).to_bytes(4, "little") + BODY
WORKS = {
    "dfu-programmer": work_for("atmel-dfu-32u4", image((0, BODY))),
    "avrdude": work_for("caterina-promicro16", image((0, BODY))),
    "teensy_loader_cli": work_for("halfkay-32u4", image((0, BODY))),
    "dfu-util": work_for("stm32duino-pc13", image((0x08002000, BLUEPILL))),
}
PROGRAMS = [tool for tool in TOOLS if tool.program is not None]


def test_each_family_has_one_tool() -> None:
    """The scan finds all; nobody's families overlap, and a family without a tool has none."""
    families = [family for tool in TOOLS for family in tool.families]
    assert len(families) == len(set(families))
    assert {tool.program for tool in PROGRAMS} == set(WORKS)
    assert all(tool_for(family, TOOLS) is not None for family in families)
    assert tool_for("sam-ba", TOOLS) is None


def test_two_tools_for_one_family_are_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them would work on a board must not depend on their names."""
    monkeypatch.setattr("ispd.chain.teensy.TOOL.__class__.families", frozenset({"flip"}))
    with pytest.raises(LocalProtocolError, match="serve the same bootloaders"):
        load_tools()


class OddDesk(ScriptedDesk):
    """A desk where each program ends the same odd way."""

    def __init__(self, answer: Callable[[ToolRun], ToolOutcome]) -> None:
        super().__init__()
        self._answer = answer

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        """Answer, or fail as the real desk does."""
        self.runs.append(run)
        outcome = self._answer(run)
        on_text((outcome.output + outcome.errors).decode("latin-1"))
        return outcome


def ended(code: int, output: bytes, errors: bytes, *, leaves_files: bool) -> Callable[[ToolRun], ToolOutcome]:
    """Return the answer of a program that ends always so."""
    return lambda run: ToolOutcome(
        exit_code=code, output=output, errors=errors, files=dict.fromkeys(run.outputs, output) if leaves_files else {}
    )


async def serve(tool: ChainTool, work: ChainWork, desk: ScriptedDesk) -> object:
    """Erase and write."""
    await tool.erase(work, desk)
    return await tool.write(work, desk)


async def served(tool: ChainTool, work: ChainWork, desk: ScriptedDesk) -> object:
    """Erase and write; return how that ended."""
    try:
        return await serve(tool, work, desk)
    except IspdError as error:
        return error


WORDS = st.sampled_from(
    [
        *(b"dfu-programmer 0.6.1\n", b"dfu-programmer 1.1.0\n", b"Erasing flash...  Success\n", b"Empty.\n", b"[>>>>"),
        *(b"Validating...\n", b"Download done.\n", b"Found HalfKay Bootloader\n", b"Programming...", b"Writing | ####"),
        *(b"avrdude done.  Thank you.\n", b"0%", b"\r", b"\n", b"\xff" * 40, b"\x00", b"Booting"),
    ]
)
TALK = st.lists(WORDS, max_size=12).map(b"".join)


@pytest.mark.parametrize("tool", PROGRAMS, ids=lambda tool: tool.name)
@given(
    code=st.sampled_from([0, 1, 3, 74, 251, 254, 255, -9, -11]), output=TALK, errors=TALK, leaves_files=st.booleans()
)
def test_odd_programs_make_no_pass(
    tool: ChainTool, code: int, output: bytes, errors: bytes, leaves_files: bool
) -> None:
    """Whatever a program says, ends with or leaves behind: a declared error, or cells that do not hold the firmware."""
    work, desk = WORKS[tool.program or ""], OddDesk(ended(code, output, errors, leaves_files=leaves_files))
    found = anyio.run(served, tool, work, desk)
    if isinstance(found, IspdError):
        of_version = {ErrorCode.TOOL_MISSING} if "--version" in desk.runs[-1].words else set()
        assert found.code in {ErrorCode.TOOL_FAILED, ErrorCode.ERASE_FAILED, ErrorCode.NOT_BLANK, *of_version}
    else:
        assert isinstance(found, list)
        assert all(BODY not in segment.data for segment in found)
    assert 0 <= desk.done_bytes <= len(work.firmware)


def missing(_: ToolRun) -> ToolOutcome:
    raise TransportError(ErrorCode.TOOL_MISSING, "there is no such program")


def killed(_: ToolRun) -> ToolOutcome:
    raise TargetError(ErrorCode.TOOL_FAILED, "was not through and was stopped")


@pytest.mark.anyio
@pytest.mark.parametrize("tool", PROGRAMS, ids=lambda tool: tool.name)
async def test_what_the_desk_raises_goes_on(tool: ChainTool) -> None:
    """A missing program, one that was killed, a board that left: nobody turns them into anything else, but a program that cannot tell
    its version is as good as missing."""
    work = WORKS[tool.program or ""]
    for answer, code in ((missing, ErrorCode.TOOL_MISSING), (killed, ErrorCode.TOOL_FAILED)):
        desk = OddDesk(answer)
        with pytest.raises(IspdError) as failure:
            await serve(tool, work, desk)
        assert len(desk.runs) == 1, "no second program is started after that"
        assert failure.value.code is (ErrorCode.TOOL_MISSING if "--version" in desk.runs[0].words else code)
    gone = OddDesk(ended(0, b"dfu-programmer 0.6.1\n", b"", leaves_files=True))
    gone.board = None
    with pytest.raises(TargetError) as failure:
        await tool.write(work, gone)
    assert failure.value.code is ErrorCode.BOOTLOADER_NOT_SEEN
    assert all("--version" in run.words for run in gone.runs), "nothing is run on whoever else is there"


@pytest.mark.anyio
@pytest.mark.parametrize("tool", PROGRAMS, ids=lambda tool: tool.name)
async def test_each_run_has_a_deadline_and_names_its_program(tool: ChainTool) -> None:
    """Nothing runs for ever, no shell, no program but the one that `ispctl doctor` looks for."""
    desk = OddDesk(ended(1, b"dfu-programmer 0.6.1\n", b"", leaves_files=False))
    with pytest.raises(IspdError):
        await serve(tool, WORKS[tool.program or ""], desk)
    assert desk.runs
    for run in desk.runs:
        assert run.words[0] == tool.program
        assert 1 < run.deadline_s < 300
