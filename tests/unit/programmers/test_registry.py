"""The scan that finds drivers."""

import sys
from pathlib import Path

import pytest

import ispd.programmers
from ispd.errors import LocalProtocolError
from ispd.programmers.registry import load_drivers

DRIVER_FILE = """
class _Driver:
    kind = {kind!r}
    default_baud = None
DRIVER = _Driver()
"""


def test_every_module_with_a_driver_is_found_under_its_kind() -> None:
    drivers = load_drivers()
    assert "stk500v1" in drivers
    assert [driver.kind for driver in drivers.values()] == list(drivers) == sorted(drivers)


def test_a_new_programmer_is_one_file_and_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ispd.programmers, "__path__", [*ispd.programmers.__path__, str(tmp_path)])
    (tmp_path / "brand_new.py").write_text(DRIVER_FILE.format(kind="brandnew"))
    (tmp_path / "brand_new_parts.py").write_text("SOMETHING = 1\n")
    assert "brandnew" in load_drivers()
    (tmp_path / "copy_cat.py").write_text(DRIVER_FILE.format(kind="stk500v1"))
    with pytest.raises(LocalProtocolError, match="stk500v1"):
        load_drivers()
    for name in ("brand_new", "brand_new_parts", "copy_cat"):
        monkeypatch.delitem(sys.modules, f"ispd.programmers.{name}")
