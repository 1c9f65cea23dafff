"""The doctor on made-up machines: each trouble is named with its cure."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.surfaces.fake_station import served

from ispctl.doctor import Finding, Level, Machine, examine, show_findings


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with nothing on it: no ports, no processes, all tools."""
    for folder in ("dev", "proc"):
        (tmp_path / folder).mkdir()
    return Machine(root=tmp_path, uid=12345, groups=frozenset({12345}), which=lambda tool: f"/usr/bin/{tool}")


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    with served(tmp_path / "s"):
        yield tmp_path / "s"


def node(machine: Machine, name: str, mode: int) -> Path:
    path = machine.root / "dev" / name
    path.touch()
    path.chmod(mode)
    return path


def process(machine: Machine, number: int, name: str, *opened: Path) -> None:
    folder = machine.root / "proc" / str(number)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    for index, path in enumerate(opened):
        (folder / "fd" / str(index)).symlink_to(path)


def one(findings: list[Finding], check: str) -> Finding:
    [found] = [finding for finding in findings if finding.check == check]
    return found


def test_a_healthy_machine(machine: Machine, socket: Path):
    node(machine, "ttyACM0", 0o666)
    findings = examine(machine, socket)
    assert {finding.level for finding in findings} == {Level.OK}
    assert "ispd 0.1.0 with 2 slots" in one(findings, "daemon").message


def test_without_a_daemon_everything_else_is_still_looked_at(machine: Machine, tmp_path: Path):
    findings = examine(machine, tmp_path / "none.sock")
    assert one(findings, "daemon").is_bad
    assert "systemctl start ispd" in one(findings, "daemon").cure
    assert one(findings, "avrdude").level is Level.OK
    assert "plug one in" in one(findings, "ports").cure


def test_a_port_that_may_not_be_used(machine: Machine, socket: Path):
    path = node(machine, "ttyUSB0", 0o660)
    finding = one(examine(machine, socket), str(path))
    assert finding.level is Level.NOTE
    assert "usermod -aG" in finding.cure
    member = Machine(root=machine.root, uid=12345, groups=frozenset({path.stat().st_gid}), which=machine.which)
    assert one(examine(member, socket), str(path)).level is Level.OK


def test_programs_that_meddle_and_programs_that_hold_a_port(machine: Machine, socket: Path):
    path = node(machine, "ttyACM3", 0o666)
    process(machine, 10, "ModemManager")
    process(machine, 11, "minicom", path)
    process(machine, 12, "ispd", path)
    findings = examine(machine, socket)
    assert "ID_MM_DEVICE_IGNORE" in one(findings, "ModemManager").cure
    held = [finding for finding in findings if finding.check == str(path) and finding.is_bad]
    assert [finding.message for finding in held] == ["is held open by minicom (process 11)"]


def test_missing_tools(machine: Machine, socket: Path):
    bare = Machine(root=machine.root, uid=0, groups=frozenset({0}), which=lambda _tool: None)
    findings = examine(bare, socket)
    for tool in ("avrdude", "dfu-programmer", "dfu-util"):
        assert f"apt install {tool}" in one(findings, tool).cure
    shown = show_findings(findings)
    assert all(finding.message in shown and finding.cure in shown for finding in findings)
