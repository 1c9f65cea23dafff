"""What systemd offers a service, from its environment: readiness, a watchdog, and sockets it listened on before us.

Sources: sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3). Without systemd every part of it is quietly absent.
"""

import os
import socket
from collections.abc import Mapping

__all__ = ["ServiceManager", "inherited_socket"]

_FIRST_FD = 3
"""SD_LISTEN_FDS_START."""


class ServiceManager:
    """Whoever started this process and wants to know how it is doing.

    Reading the environment is all it does at first; what cannot be told is not told, since the work goes on either way.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environ)
        """Silence after which it ends this process, in seconds; None where it never does."""

    def ready(self) -> None:
        """Tell that everything works now."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Tell that the end has begun."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """Tell what is going on, in a line for ``systemctl status``."""
        self._tell(f"STATUS={text}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def _tell(self, line: str) -> None:
        if not self._address:
            return
        # a leading @ stands for the null byte of an abstract address
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as messenger:
            try:
                messenger.sendto(line.encode(), address)
            except OSError:
                # its socket is full or gone: it finds out by the watchdog
                return


def inherited_socket(environ: Mapping[str, str] = os.environ, *, pid: int | None = None) -> socket.socket | None:
    """Return the Unix stream socket that was handed to this process listening; None where it has to make its own.

    :param pid: whose sockets are meant; this process by default. Only the one addressed may take them.
    """
    if environ.get("LISTEN_PID") != str(os.getpid() if pid is None else pid):
        return None
    count = int(environ.get("LISTEN_FDS", "0"))
    for number in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(number, False)
    for number in range(_FIRST_FD, _FIRST_FD + count):
        found = socket.socket(fileno=number)
        is_listening = found.family is socket.AF_UNIX and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if is_listening:
            return found
        found.detach()
    return None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's patience, None where it is off or meant for another process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) > 0 else None
