"""pyzmq's other end: a loop that blocks on its socket, which is quicker than asyncio's."""

from __future__ import annotations

import json
import sys

import zmq
from service import CALLS, end_with_input


def main() -> None:
    """Serve the address on the command line."""
    end_with_input()
    socket = zmq.Context().socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.bind(sys.argv[1])
    while True:
        request, method, parameter = json.loads(socket.recv())
        if method == "stream":
            for index in range(parameter):
                socket.send(json.dumps([request, index]).encode())
        else:
            socket.send(json.dumps([request, CALLS[method](parameter)]).encode())


if __name__ == "__main__":
    main()
