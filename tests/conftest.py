"""Fixtures for every test."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run ``@pytest.mark.anyio`` tests on asyncio, the only backend the daemon uses."""
    return "asyncio"
