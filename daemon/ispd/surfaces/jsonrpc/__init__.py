"""JSON-RPC 2.0 on a Unix socket."""

from ispd.surfaces.jsonrpc.server import Limits, serve_jsonrpc

__all__ = ["Limits", "serve_jsonrpc"]
