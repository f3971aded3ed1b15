"""JSON-RPC with Content-Length headers by python-lsp-jsonrpc, over standard input and output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pylsp_jsonrpc.endpoint import Endpoint
from pylsp_jsonrpc.streams import JsonRpcStreamReader, JsonRpcStreamWriter
from service import echo, tokenize


def main() -> None:
    """Serve standard input until it ends; a handler answers on the reading thread."""
    handlers: dict[str, Callable[[list[Any]], Any]] = {
        "echo": lambda params: echo(params[0]),
        "tokenize": lambda params: tokenize(params[0]),
    }
    writer = JsonRpcStreamWriter(sys.stdout.buffer)
    endpoint = Endpoint(handlers, writer.write)

    def stream(params: list[int]) -> None:
        for index in range(params[0]):
            endpoint.notify("chunk", [index])

    handlers["stream"] = stream
    JsonRpcStreamReader(sys.stdin.buffer).listen(endpoint.consume)


if __name__ == "__main__":
    main()
