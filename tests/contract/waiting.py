"""Waiting for what must come, by asking the runtime."""

from __future__ import annotations

import asyncio

from isthmus import host

WAIT_S = 30.0
"""Never reached when all is well."""


async def settled(runtime: host.Runtime) -> None:
    """Wait until no request is in flight, here or there."""
    async with asyncio.timeout(WAIT_S):
        while (await runtime.ping())["in_flight"] or runtime.in_flight:
            pass


async def idle(runtime: host.Runtime) -> None:
    """Wait until the engine has nothing to do."""
    async with asyncio.timeout(WAIT_S):
        while (await runtime.ping())["engine"]["state"] != "idle":
            pass
