"""One start of one process: it says hello in time, or it is gone and the error says why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import Closing, IsthmusError, StartFailed, StartTimeout, own_copy
from .link import Link
from .options import KeeperOptions
from .process import KILL_WAIT_S, RuntimeProcess
from .reports import DOCTOR, start_error

Launch = Callable[[Link], Awaitable[RuntimeProcess]]
"""Starts a process that talks to a link."""


async def begin_process(
    launch: Launch,
    link: Link,
    before: RuntimeProcess | None,
    options: KeeperOptions,
    is_wanted: Callable[[], bool],
) -> dict[str, Any]:
    """Start a process and return its hello.

    Args:
        launch: Starts it.
        link: Its end of the wire.
        before: The process before it, which has to be gone.
        options: How long it may take.
        is_wanted: Asked once it has been started, when whoever wanted it may have gone.

    Raises:
        StartFailed: It cannot be run, or has ended before its hello.
        StartTimeout: It said no hello in time.
        Closing: It is not wanted any more.
        IsthmusError: What it said is not the protocol.
    """
    if before is not None and not await has_ended(before, KILL_WAIT_S):
        raise StartFailed("the last process does not end, though it was killed", phase="start")
    try:
        await launch(link)
        if not is_wanted():
            raise Closing("this runtime has been closed", phase="close")
        async with asyncio.timeout(options.start_timeout_s):
            hello = await link.hello
        if link.failure is not None:
            raise own_copy(link.failure)
    except BaseException as error:
        if link.process is not None:
            link.process.kill()
            await asyncio.shield(has_ended(link.process, options.graces.terminate_s))
        shown = _shown(error, options.start_timeout_s)
        if shown is error:
            raise
        raise shown from error
    return hello


async def has_ended(process: RuntimeProcess, seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    await asyncio.wait({process.ended}, timeout=seconds)
    return process.ended.done()


def _shown(error: BaseException, timeout_s: float) -> BaseException:
    if isinstance(error, TimeoutError):
        message = f"the runtime said no hello within {timeout_s:g} s; {DOCTOR}"
        return StartTimeout(message, phase="start")
    return start_error(error) if isinstance(error, IsthmusError) else error
