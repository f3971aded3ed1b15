"""An ASGI application without a framework, served by uvicorn with its quicker loop and parser."""

from __future__ import annotations

import json
import sys
from typing import Any

import uvicorn
from service import echo, end_with_input, tokenize


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer one request; the path is its method."""
    body = b""
    has_more = True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    text = body.decode()
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for index in range(int(text)):
            chunk = b"%d\n" % index
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})
        return
    if scope["path"] == "/tokenize":
        answer = json.dumps(tokenize(text)).encode()
    else:
        answer = echo(text).encode()
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def main() -> None:
    """Serve the Unix socket on the command line."""
    end_with_input()
    uvicorn.run(
        application,
        uds=sys.argv[1],
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="error",
        access_log=False,
    )


if __name__ == "__main__":
    main()
