"""`mlx_lm.server` with a longer queue of connections that wait to be accepted.

Its own queue holds five. When sixteen come at once, as they do here because it ends each connection
with its answer, the system drops some, and each of those is tried again after a second.
"""

from __future__ import annotations

import socketserver

from mlx_lm.server import main

socketserver.TCPServer.request_queue_size = 128

if __name__ == "__main__":
    main()
