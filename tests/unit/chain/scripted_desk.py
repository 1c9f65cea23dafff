"""A desk whose programs are a script: what each is expected to be asked, and what it answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.chain.contract import ChainWork
from ispd.errors import ErrorCode, TargetError, TransportError
from ispd.model.image import Image, Segment
from ispd.transport.contract import ToolOutcome, ToolRun, UsbDeviceAt, UsbIdentity, UsbLink

__all__ = ["BOARD", "PARTS", "Reply", "ScriptedDesk", "image", "work_for"]

PARTS = load_parts()
_BOOTLOADERS = load_bootloaders(PARTS)

BOARD = UsbDeviceAt(
    path="1-1.4", bus=1, address=17, usb=UsbIdentity(vendor_id=0x03EB, product_id=0x2FF4), version=0, tty="/dev/ttyACM3"
)


def work_for(bootloader: str, firmware: Image, part: str | None = None) -> ChainWork:
    """Return the work for a bootloader of the catalog, on its first part where none is named."""
    loader = _BOOTLOADERS.get(bootloader)
    name = part or next(iter(loader.parts), None)
    return ChainWork(part=None if name is None else PARTS.get(name), bootloader=loader, firmware=firmware)


def image(*pieces: tuple[int, bytes]) -> Image:
    """Return an image of pieces at addresses."""
    return Image.of([Segment(start, data) for start, data in pieces])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a program is to be asked and how it ends.

    :param words: what its command line must hold, in this order, somewhere.
    :param then: what happens on the board's port meanwhile.
    """

    words: tuple[str, ...]
    code: int = 0
    output: bytes = b""
    errors: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    then: Callable[["ScriptedDesk"], object] = lambda _: None


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> datetime:
        return datetime.fromtimestamp(self.now, tz=UTC)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class ScriptedDesk:
    """See :class:`~ispd.chain.contract.Desk`. Text comes in pieces of a length that suits nobody."""

    def __init__(
        self,
        *script: Reply,
        board: UsbDeviceAt | None = BOARD,
        piece: int = 7,
        link: UsbLink | TransportError | None = None,
    ) -> None:
        self.clock = _Clock()
        self.board = board
        self.runs: list[ToolRun] = []
        self.done_bytes = 0
        self._script = list(script)
        self._link = link
        self._piece = piece

    @property
    def is_through(self) -> bool:
        """Whether everything of the script was asked."""
        return not self._script

    async def here(self) -> UsbDeviceAt:
        """Return the board, or fail as the real desk does."""
        if self.board is None:
            raise TargetError(ErrorCode.BOOTLOADER_NOT_SEEN, "nothing is there")
        return self.board

    async def run(self, run: ToolRun, on_text: Callable[[str], object] = lambda _: None) -> ToolOutcome:
        """Answer the next line of the script."""
        assert self._script, f"nobody expected {run.words}"
        reply = self._script.pop(0)
        assert _contains(run.words, reply.words), f"{run.words} instead of {reply.words}"
        self.runs.append(run)
        heard = reply.errors if run.output_is_data else reply.output.decode("latin-1") + reply.errors
        for start in range(0, len(heard), self._piece):
            on_text(heard[start : start + self._piece])
        reply.then(self)
        return ToolOutcome(
            exit_code=reply.code,
            output=reply.output,
            errors=reply.errors.encode(),
            files={name: content for name, content in reply.files.items() if name in run.outputs},
        )

    async def open_usb(self) -> UsbLink:
        """Open it or not, as the script says; refuse where that is not to be expected."""
        assert self._link is not None, "an outside program opens the device itself"
        if isinstance(self._link, TransportError):
            raise self._link
        return self._link

    def advance(self, done_bytes: int) -> None:
        """Count; nothing is ever taken back."""
        assert done_bytes >= 0
        self.done_bytes += done_bytes


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    rest = iter(words)
    return all(any(word == candidate for candidate in rest) for word in wanted)
