"""Whatever happens to a board's cables, reset line and cells, what it shows obeys a few rules."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ispd.catalog.bootloaders import load_bootloaders
from ispd.catalog.parts import load_parts
from ispd.model.image import Image
from vbench.board import ENUMERATION_S, Board
from vbench.firmware_image import application_image, bootloader_image
from vbench.target import AvrTarget

PARTS = load_parts()
BOOTLOADERS = load_bootloaders(PARTS)
CHIP = PARTS.avr("atmega32u4")
LOADERS = ["atmel-dfu-32u4", "qmk-dfu-32u4", "caterina-promicro16", "caterina-leonardo", "halfkay-32u4"]
APPLICATION = application_image(CHIP, 1000, usb="1209:0001")

EVENTS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.001, 0.05, 0.25, 0.3, 0.7, 1.0, 9.0])),
    st.tuples(
        st.sampled_from(["hold", "release", "plug", "pull", "supply", "cut", "write", "erase", "spoil"]), st.just(0.0)
    ),
)


def put(target: AvrTarget, image: Image) -> None:
    for segment in image.segments:
        target.flash[segment.start : segment.span.stop] = segment.data


class Life:
    """A board, what was done to it, and the time."""

    def __init__(self, name: str) -> None:
        self.loader = BOOTLOADERS.get(name)
        self.target = AvrTarget(CHIP, fuses=self.loader.fuses or {})
        put(self.target, bootloader_image(self.loader, CHIP))
        self.board = Board(self.target)
        self.now = 0.0
        self.has_cable = False
        self.quiet_since = 0.0
        """When supply, cable or reset line last changed."""

    def do(self, what: str, seconds: float) -> None:
        self.now += max(seconds, 1e-3)
        before = self.lines()
        self.happen(what)
        if self.lines() != before:
            self.quiet_since = self.now

    def lines(self) -> tuple[bool, bool, bool]:
        return self.has_cable, self.target.powered, self.target.in_reset

    def happen(self, what: str) -> None:
        match what:
            case "hold" | "release":
                self.target.set_reset(what == "hold", self.now)
            case "plug" if not self.has_cable:
                self.board.attach(self.now)
                self.has_cable = True
            case "pull" if self.has_cable:
                self.board.detach(self.now)
                self.has_cable = False
            case "supply":
                self.target.power_on(self.now, reset_active=False)
            case "cut":
                self.target.power_off(self.now)
            case "write" if self.target.in_reset:
                put(self.target, APPLICATION)
            case "erase" if self.target.in_reset:
                self.target.flash[:] = b"\xff" * len(self.target.flash)
            case "spoil" if self.target.in_reset:
                self.target.flash[0x7F00] ^= 1

    def check(self) -> None:
        shown = self.board.face(self.now)
        assert self.board.next_change() > self.now
        assert self.board.face(self.now) is shown
        if shown is None:
            return
        assert self.has_cable
        assert self.target.powered
        assert not self.target.in_reset
        assert shown.power_lost_at is None
        assert self.now - self.quiet_since >= ENUMERATION_S - 1e-9
        assert str(shown.usb) in (*self.loader.usb, "1209:0001")


@given(st.sampled_from(LOADERS), st.lists(EVENTS, max_size=40))
@settings(max_examples=150, deadline=None)
def test_rules_of_a_board(name: str, events: list[tuple[str, float]]) -> None:
    life = Life(name)
    seen = []
    for what, seconds in events:
        shown = life.board.face(life.now)
        life.do(what, seconds)
        life.check()
        if shown is not None:
            seen.append(shown)
    for old in seen:
        assert (old.power_lost_at is None) is (old is life.board.face(life.now)), "who has left stays away"


@given(st.sampled_from(LOADERS), st.lists(EVENTS, max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_board_ends_where_a_fresh_one_would_be(name: str, events: list[tuple[str, float]]) -> None:
    """After its supply was away long enough, nothing is left of what happened but its cells."""
    life = Life(name)
    for what, seconds in events:
        life.do(what, seconds)
    fresh = Life(name)
    fresh.target.flash[:] = life.target.flash
    life.do("release", 0)
    life.do("pull", 0)
    life.do("cut", 0)
    for each in (life, fresh):
        each.do("plug", 0)
        each.do("wait", 1.0)
    shown, expected = life.board.face(life.now), fresh.board.face(fresh.now)
    assert (shown and shown.usb) == (expected and expected.usb)
