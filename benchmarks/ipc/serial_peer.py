"""A first service: read a line, await its handler, print the answer, read the next.

`input` is read in a thread so that the loop stays free, as asyncio's documentation advises for
blocking calls. With `--inline` the loop itself reads, which is quicker and blocks it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


async def handle(request: dict[str, Any]) -> Any:
    """Answer one request."""
    return request["params"]["data"]


async def main(is_inline: bool) -> None:
    """Serve standard input until it ends."""
    loop = asyncio.get_running_loop()
    while True:
        if is_inline:
            line = sys.stdin.readline()
        else:
            line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        request = json.loads(line)
        result = await handle(request)
        print(json.dumps({"id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    asyncio.run(main("--inline" in sys.argv))
