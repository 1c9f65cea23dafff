"""What was found, for people and for programs."""

from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "show_findings"]


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    :param check: stable word for what was looked at.
    :param message: what is so.
    :param cure: what to do; empty where nothing needs to be done.
    :param subject: the port, device or hub that is meant, where there are several.
    """

    check: str
    level: Level
    message: str
    cure: str = ""
    subject: str = ""

    @property
    def is_bad(self) -> bool:
        """True where something certainly will not work."""
        return self.level is Level.BAD

    def as_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return {name: str(value) for name, value in asdict(self).items()}


def show_findings(findings: list[Finding]) -> str:
    """Return the findings for people."""
    lines = []
    for finding in findings:
        about = f"{finding.check} {finding.subject}".rstrip()
        lines.append(f"{finding.level:<4}  {about}: {finding.message}")
        if finding.cure:
            lines.append(f"      {finding.cure}")
    return "\n".join(lines)
