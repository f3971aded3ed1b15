"""A gRPC server on asyncio, with the messages of `peer.proto`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from service import echo, end_with_input, tokenize

messages, services = grpc.protos_and_services("peer.proto")


class Peer(services.PeerServicer):
    """The handlers."""

    async def Echo(self, request: Any, context: Any) -> Any:
        """Return the text."""
        return messages.Text(text=echo(request.text))

    async def Tokenize(self, request: Any, context: Any) -> Any:
        """Return token ids."""
        return messages.Ids(ids=tokenize(request.text))

    async def Stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Yield the numbers of a stream."""
        for index in range(request.count):
            yield messages.Chunk(index=index)


async def main() -> None:
    """Serve the address on the command line."""
    end_with_input()
    server = grpc.aio.server()
    services.add_PeerServicer_to_server(Peer(), server)
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
