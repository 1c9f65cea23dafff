"""Finds the follow-up tools: every module of this package that holds a ``TOOL``."""

import importlib
import pkgutil
from collections.abc import Iterable

import ispd.chain
from ispd.chain.contract import ChainTool
from ispd.errors import LocalProtocolError

__all__ = ["load_tools", "tool_for"]


def load_tools() -> tuple[ChainTool, ...]:
    """Return all tools, by name. Raises ``LocalProtocolError`` where two serve the same family of bootloaders."""
    tools: list[ChainTool] = []
    for module in pkgutil.iter_modules(ispd.chain.__path__, f"{ispd.chain.__name__}."):
        tool: ChainTool | None = getattr(importlib.import_module(module.name), "TOOL", None)
        if tool is None:
            continue
        rival = next((other for other in tools if other.families & tool.families), None)
        if rival is not None:
            raise LocalProtocolError(f"{rival.name} and {tool.name} serve the same bootloaders")
        tools.append(tool)
    return tuple(sorted(tools, key=lambda tool: tool.name))


def tool_for(family: str, tools: Iterable[ChainTool]) -> ChainTool | None:
    """Return the tool that serves a family of bootloaders, None where there is none."""
    return next((tool for tool in tools if family in tool.families), None)
