"""Log records: one JSON object a line on standard error, never a prompt's text."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

import orjson

LEVELS: Final = ("debug", "info", "warning", "error")

_STDERR_FD: Final = 2


def log(level: str, message: str, **fields: object) -> None:
    """Write one record."""
    record = {"time": time.time(), "level": level, "message": message, **fields}
    # That nobody reads the log must not end the runtime.
    with contextlib.suppress(OSError):
        os.write(_STDERR_FD, orjson.dumps(record, default=str) + b"\n")
