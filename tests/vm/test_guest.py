"""Boots the guest once and shows what the tests inside it found, each as a result of its own."""

import ast
import base64
import re
import shlex
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.vm import guest

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside"
TIMEOUT_S = 1400.0
"""The whole guest, boot included, on two slow cores."""
_REPORT = re.compile(r"^report ([0-9A-Za-z+/=]+)$", re.MULTILINE)


def names_inside() -> list[str]:
    """Return ``module::function`` of every test in the guest, without importing what only works there."""
    return [
        f"{file.stem}::{node.name}"
        for file in sorted(INSIDE.glob("test_*.py"))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def install_software(folder: Path) -> Path:
    """Make an archive of ``/opt/ispd`` of a workstation, since the guest has no network; there is none where that cannot be done.

    One file, because opening the thousands in it takes the guest longer than reading them.
    """
    archive = folder.with_suffix(".tar")
    home = Path("/opt/ispd")
    install = shlex.quote(str(ROOT / "scripts/install"))
    script = f"mount --bind {shlex.quote(str(folder))} {home} && exec {install} --software"
    folder.chmod(0o755)  # the service's user must get in
    try:
        home.mkdir(exist_ok=True)
        # seen by this one process only
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    except OSError as error:
        print(f"no software for the guest: {error}", file=sys.stderr)
        return archive
    if done.returncode != 0:
        print(f"no software for the guest: {done.stderr}", file=sys.stderr)
    else:
        with tarfile.open(archive, "w") as packed:
            packed.add(folder, "ispd")
    with suppress(OSError):  # somebody's real one stays
        home.rmdir()
    return archive


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Run everything inside, and return what went wrong by test; empty text for what passed."""
    reason = guest.missing()
    if reason is not None:
        pytest.skip(reason)
    software = install_software(tmp_path_factory.mktemp("software"))
    command = (
        f"ISPD_GUEST=1 ISPD_SOFTWARE={software} {sys.executable} -m pytest {INSIDE} -q --no-cov -p no:cacheprovider --junitxml=/run/report.xml; "
        f"code=$?; echo; echo report $({sys.executable} -c "
        "'import base64, pathlib, zlib; "
        'print(base64.b64encode(zlib.compress(pathlib.Path("/run/report.xml").read_bytes())).decode())\'); '
        "(exit $code)"
    )
    outcome = guest.boot(ROOT, command, work=tmp_path_factory.mktemp("guest"), timeout_s=TIMEOUT_S)
    reports = _REPORT.findall(outcome.console)
    if not reports:
        pytest.fail(f"the guest gave no report (exit code {outcome.exit_code}):\n{outcome.console[-4000:]}")
    return _by_test(ET.fromstring(zlib.decompress(base64.b64decode(reports[-1]))))


def _by_test(report: ET.Element) -> dict[str, str]:
    found: dict[str, str] = {}
    for case in report.iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{(case.get('name') or '').partition('[')[0]}"
        wrong = [f"{child.tag}: {child.get('message', '')}\n{child.text or ''}" for child in case]
        found[name] = found.get(name, "") + "\n".join(wrong)
    return found


@pytest.mark.parametrize("name", names_inside())
def test_in_the_guest(results: Mapping[str, str], name: str) -> None:
    said = results.get(name, "was not run")
    if said.startswith("skipped: "):
        pytest.skip(said.removeprefix("skipped: ").splitlines()[0])
    assert said == ""
