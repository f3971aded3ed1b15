"""The runtime's hello: what it is, what it can do, and its limits (protocol, section 2.1)."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..engine.blas import Blas
from ..limits import DEPTH_LIMIT, IN_FLIGHT_LIMIT, MESSAGE_LIMIT_BYTES, PROTOCOL_VERSION
from ..settings import Settings
from ..wire.codec import Codec


def make_hello(
    settings: Settings, codec: Codec, methods: Sequence[str], blas: Blas
) -> dict[str, Any]:
    """Return the map of the first frame."""
    return {
        "protocol": PROTOCOL_VERSION,
        "runtime": __version__,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "codec": codec.name,
        "limits": {
            "frame_bytes": settings.frame_limit_bytes,
            "message_bytes": MESSAGE_LIMIT_BYTES,
            "depth": DEPTH_LIMIT,
            "piece_bytes": settings.piece_bytes,
            "in_flight": IN_FLIGHT_LIMIT,
        },
        "methods": methods,
        "blas": blas.to_wire(),
        **({} if settings.faults is None else {"faults": True}),
    }
