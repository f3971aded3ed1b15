"""A textbook service: StreamReader, a line of JSON a message, a task a request, drain."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

_LINE_LIMIT_BYTES = 1 << 20
_tasks: set[asyncio.Task[None]] = set()


async def handle(request: dict[str, Any], tokenizer: Any) -> Any:
    """Answer one request."""
    if request["method"] == "tokenize":
        return tokenizer.encode(request["params"]["text"]).ids
    return request["params"]["data"]


async def respond(writer: asyncio.StreamWriter, line: bytes, tokenizer: Any) -> None:
    """Answer one line."""
    request = json.loads(line)
    result = await handle(request, tokenizer)
    writer.write(json.dumps({"id": request["id"], "result": result}).encode() + b"\n")
    await writer.drain()


async def main(tokenizer: Any) -> None:
    """Serve standard input until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_LIMIT_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, sys.stdout.buffer
    )
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    while line := await reader.readline():
        task = asyncio.create_task(respond(writer, line, tokenizer))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


def open_tokenizer() -> Any:
    """Open the tokenizer file given on the command line."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(sys.argv[1])


if __name__ == "__main__":
    asyncio.run(main(open_tokenizer() if len(sys.argv) > 1 else None))
