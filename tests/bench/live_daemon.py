"""The daemon as a process of its own, and a bare JSON-RPC connection to it, for tests that kill it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process

LAUNCHER = Path(__file__).with_name("crash_daemon.py")
START_DEADLINE_S = 60.0


class LiveDaemon:
    """One daemon on one configuration file. ``connected`` tells whether the socket was up before the process ended."""

    def __init__(self, folder: Path, ports: dict[str, str]) -> None:
        self.folder = folder
        self.config = folder / "ispd.toml"
        self.socket = folder / "ispd.sock"
        self.journal = folder / "state" / "journal.db"
        self._counter = folder / "commits"
        slots = "".join(
            f'[[slot]]\nname = "{name}"\nprogrammer = "stk500v1"\nport = "{port}"\nbaud = 19200\n'
            for name, port in ports.items()
        )
        self.config.write_text(
            f'[daemon]\nsocket = "{self.socket}"\nstate_dir = "{self.journal.parent}"\n[hotplug]\nudev = false\n{slots}'
        )
        self.process: Process | None = None

    @property
    def commits(self) -> int:
        """How many commits the process made that was started last."""
        return int(self._counter.read_text()) if self._counter.exists() else 0

    async def start(self, *, kill_at: str | None = None) -> None:
        """Start the daemon; with ``kill_at`` by way of the launcher that kills it there."""
        self.socket.unlink(missing_ok=True)
        module = ["-m", "ispd"] if kill_at is None else [str(LAUNCHER), kill_at, str(self._counter)]
        # a killed process writes no coverage, and measuring it makes a start three times as long
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        with (self.folder / "log").open("ab") as log:
            self.process = await anyio.open_process(
                [sys.executable, *module, "--config", str(self.config)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def has_ended(self) -> bool:
        return self.process is not None and self.process.returncode is not None

    async def wait(self) -> int:
        """Return the exit code; negative for the signal that ended the process."""
        assert self.process is not None
        with anyio.fail_after(START_DEADLINE_S):
            return await self.process.wait()

    def kill(self) -> None:
        """Kill -9; may be called from any thread."""
        if self.process is not None and not self.has_ended:
            os.kill(self.process.pid, signal.SIGKILL)

    async def kill_and_wait(self) -> None:
        self.kill()
        if self.process is not None:
            await self.wait()

    async def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return await self.wait()

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def call(self, method: str, **params: Any) -> Any:
        """Return a method's result; None where the daemon died before it answered (or before it listened)."""
        with anyio.fail_after(START_DEADLINE_S):
            while not self.has_ended:
                try:
                    return await self._call(method, params)
                except (FileNotFoundError, ConnectionRefusedError):
                    await anyio.sleep(0.01)  # not ready yet: a condition with a deadline
                except (anyio.EndOfStream, anyio.BrokenResourceError, ConnectionResetError):
                    await self.wait()
        return None

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with await anyio.connect_unix(self.socket) as stream:
            await stream.send(json.dumps(request).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += await stream.receive()
        reply = json.loads(answer)
        assert "error" not in reply, reply
        return reply["result"]
