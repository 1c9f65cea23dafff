"""Names on the bus, made from the API's: nothing here knows a method or an error code."""

from ispd.errors import ErrorCode

__all__ = ["BUS_NAME", "MANAGER", "ROOT", "error_name", "interface_of", "member_name"]

BUS_NAME = "org.ispd.Station1"
"""Well-known name. The number is part of name, paths and interfaces: additions keep it, a break gets the next one."""

ROOT = "/org/ispd/Station1"
"""Object with the Manager interface; the ObjectManager of all others."""

MANAGER = "Manager"
"""Interface of the object that is there from the beginning."""


def interface_of(noun: str) -> str:
    """Return the interface of the objects called ``noun``."""
    return f"{BUS_NAME}.{member_name(noun)}"


def member_name(name: str) -> str:
    """Return ``job.enqueue`` or ``sck_hz`` or ``not-allowed`` as D-Bus writes names: JobEnqueue, SckHz, NotAllowed."""
    words = name.replace(".", " ").replace("_", " ").replace("-", " ").split()
    return "".join(word[:1].upper() + word[1:] for word in words)


def error_name(code: ErrorCode) -> str:
    """Return an error code as D-Bus names it."""
    return f"{BUS_NAME}.Error.{member_name(code.value)}"
