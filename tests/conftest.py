"""Fixtures for every test."""

import signal

import pytest


def pytest_configure() -> None:
    """Press Ctrl-C in tests wherever they run: a shell starts background jobs, and all below them, with it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Run ``@pytest.mark.anyio`` tests on asyncio, the only backend the daemon uses."""
    return "asyncio"
