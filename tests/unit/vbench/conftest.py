"""Fixtures of the bench tests."""

from collections.abc import Callable

import pytest
from tests.unit.vbench.rigs import SCK_HZ, Bus

from ispd.catalog.parts import Parts, load_parts
from vbench.target import AvrTarget


@pytest.fixture(scope="session")
def parts() -> Parts:
    return load_parts()


@pytest.fixture
def make_bus(parts: Parts) -> Callable[..., Bus]:
    def make(part: str = "atmega32u4", *, sck_hz: float = SCK_HZ, entered: bool = True, **options: object) -> Bus:
        bus = Bus(AvrTarget(parts.avr(part), **options), sck_hz=sck_hz)  # type: ignore[arg-type]  # passed through
        if entered:
            assert bus.enter()
        return bus

    return make
