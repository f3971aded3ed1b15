"""A first service: read a line, await its handler, print the answer, read the next.

`input` is read in a thread so that the loop stays free, as asyncio's documentation advises for
blocking calls. With `--inline` the loop itself reads, which is quicker and blocks it. With
`--tokenizer FILE` it tokenizes, too.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any


async def handle(request: dict[str, Any], tokenizer: Any) -> Any:
    """Answer one request."""
    if request["method"] == "tokenize":
        return tokenizer.encode(request["params"]["text"]).ids
    return request["params"]["data"]


async def main(is_inline: bool, tokenizer: Any) -> None:
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
        result = await handle(request, tokenizer)
        print(json.dumps({"id": request["id"], "result": result}), flush=True)


def read_tokenizer(arguments: list[str]) -> Any:
    """Return the tokenizer that `--tokenizer FILE` names."""
    if "--tokenizer" not in arguments:
        return None
    from tokenizers import Tokenizer

    return Tokenizer.from_file(arguments[arguments.index("--tokenizer") + 1])


if __name__ == "__main__":
    asyncio.run(main("--inline" in sys.argv, read_tokenizer(sys.argv)))
