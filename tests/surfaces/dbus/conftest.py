"""A bus for every test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.surfaces.dbus.bed import PrivateBus, private_bus


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateBus]:
    with private_bus(tmp_path, monkeypatch) as started:
        yield started
