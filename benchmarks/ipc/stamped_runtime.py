"""The runtime, with the time at which its engine read each token and its loop heard of it.

The stamps of the last generation are what `echo` answers to the text `stamps`; nothing else differs
from `isthmus runtime`. CLOCK_MONOTONIC is shared by all processes, so that a consumer elsewhere can
subtract them from its own.
"""

from __future__ import annotations

import time
from typing import Any

from isthmus.transport.claim import claim_stdio

_REQUEST = "stamps"


def extend(router: Any, _services: Any) -> None:
    """Stamp tokens where the engine has read them, and where the loop gets them."""
    from isthmus.runtime.methods import generate
    from isthmus.text import stream

    engine_side: Any = stream.TextStream
    loop_side: Any = generate.Generation
    sampled: list[int] = []
    heard: list[int] = []
    add, on_tokens = engine_side.add, loop_side.on_tokens

    def stamped_add(self: Any, token: int) -> str:
        sampled.append(time.monotonic_ns())
        return str(add(self, token))

    def stamped_on_tokens(self: Any, ids: list[int], *rest: Any) -> None:
        heard.extend([time.monotonic_ns()] * len(ids))
        on_tokens(self, ids, *rest)

    engine_side.add, loop_side.on_tokens = stamped_add, stamped_on_tokens
    inline_echo = router.find("echo").inline

    def echo(params: dict[str, Any]) -> object:
        if params.get("data") != _REQUEST:
            return inline_echo(params)
        stamps = {"sampled": sampled.copy(), "heard": heard.copy()}
        sampled.clear()
        heard.clear()
        return stamps

    router._methods.pop("echo")
    router.register("echo", inline=echo)


def main() -> None:
    """Serve like `isthmus runtime`."""
    pipes = claim_stdio()
    from isthmus.cli import serve
    from isthmus.settings import Settings

    serve(pipes, Settings(), extend)


if __name__ == "__main__":
    main()
