"""pynvim's msgpack-rpc over standard input and output: its session of callbacks.

The session that its users know puts a greenlet around each request; this layer under it is quicker.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pynvim.msgpack_rpc.async_session import AsyncSession
from pynvim.msgpack_rpc.event_loop import EventLoop
from pynvim.msgpack_rpc.msgpack_stream import MsgpackStream
from service import CALLS


def main() -> None:
    """Serve standard input until it ends."""
    session = AsyncSession(MsgpackStream(EventLoop("stdio")))

    def on_request(method: str, params: list[Any], response: Any) -> None:
        if method == "stream":
            for index in range(params[0]):
                session.notify("chunk", [index])
            response.send(None)
        else:
            response.send(CALLS[method](*params))

    with suppress(EOFError):
        session.run(on_request, lambda *_: None)


if __name__ == "__main__":
    main()
