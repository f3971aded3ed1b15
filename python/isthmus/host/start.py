"""Starting a runtime: what can be said about its process, its environment and its keeping."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from ..limits import STREAM_CREDIT
from .connection import Connection
from .inbox import OnEvent
from .keeper import Keeper
from .life import OnState
from .link import Link
from .options import Graces, KeeperOptions, SessionOptions
from .process import ALLOWED_ENVIRONMENT, RuntimeProcess, runtime_environment, spawn
from .restarts import RestartOptions
from .runtime import Runtime
from .watchdog import HeartbeatOptions

_GRACES: Final = Graces()
_RESTART: Final = RestartOptions()
_HEARTBEAT: Final = HeartbeatOptions()


async def start(
    *,
    python: str = sys.executable,
    command: Sequence[str] | None = None,
    runtime_args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    env_allow: Sequence[str] = ALLOWED_ENVIRONMENT,
    start_timeout_s: float = 30.0,
    graces: Graces = _GRACES,
    credit: int = STREAM_CREDIT,
    multiplex: bool = True,
    on_event: OnEvent | None = None,
    restart: RestartOptions | None = _RESTART,
    heartbeat: HeartbeatOptions | None = _HEARTBEAT,
    on_state: OnState | None = None,
    sessions: SessionOptions | None = None,
    faults: Sequence[str] = (),
) -> Runtime:
    """Start a runtime and wait for its hello.

    A start that fails is not repeated. Once it runs, a process that ends is followed by another:
    requests that nobody has had an answer to are sent again where that changes nothing, and models
    are loaded again, under their handles, when they are named.

    Args:
        python: The interpreter that has `isthmus` installed.
        command: Replaces the whole command line.
        runtime_args: Further options of `isthmus runtime`.
        env: Variables added to the runtime's environment.
        env_allow: Names, or `PREFIX*`, that the runtime inherits.
        start_timeout_s: Time until the hello of a process.
        graces: How long an end may take.
        credit: Default window of streams, in items.
        multiplex: Whether text calls of one turn of the event loop share frames.
        on_event: Told of events that belong to no request.
        restart: How often and how soon it is started again; None for never: the end of the process
            is then the end of the runtime.
        heartbeat: How it is watched while something is waited for; None for not at all.
        on_state: Told of each step of its life.
        sessions: What it keeps of sessions, and where. Goes behind the command line, too, when that
            is replaced.
        faults: For tests of what a program does when things go wrong: each is armed at the start
            of each process, and more can be with `inject_fault`. Go behind the command line, too,
            when that is replaced.

    Raises:
        InvalidRequest: An option of the sessions cannot be said on a command line.
        StartFailed: It cannot be run, or ends before its hello.
        StartTimeout: It says no hello in time.
        VersionMismatch: It speaks another version of the protocol.
        RemoteProtocolError: What it writes is not the protocol.
    """
    # -P keeps the working directory off the import path.
    default = (python, "-P", "-m", "isthmus", "runtime", *runtime_args)
    armed = (word for fault in faults for word in ("--fault", fault))
    kept = () if sessions is None else sessions.arguments()
    line = (*(default if command is None else command), *kept, *armed)
    environment = runtime_environment(env_allow, env)

    async def launch(link: Link) -> RuntimeProcess:
        return await spawn(line, environment, link)

    connection = Connection(on_event)
    options = KeeperOptions(start_timeout_s, graces, restart, heartbeat, on_state)
    keeper = Keeper(launch, connection, options)
    await keeper.start()
    return Runtime(keeper, connection, credit, multiplex)
