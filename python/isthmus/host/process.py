"""The runtime as a child process: spawning it, its pipes, its end.

Protocol callbacks instead of stream readers, so that what one read brings is handled at once.
Standard error is always drained, its last part kept. The exit of the process counts, not the end of
its pipes: a grandchild may hold them open for as long as it lives. Knows no frame and no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from ..errors import StartFailed
from ..limits import READ_BYTES, WRITE_WATERMARK_BYTES

STDERR_TAIL_BYTES: Final = 64 * 1024
"""How much of the runtime's standard error is kept for error messages."""

PIPE_GRACE_S: Final = 0.1
"""Time that the pipes of a process that has exited get to deliver what it wrote."""

KILL_WAIT_S: Final = 5.0
"""Bound of the last wait, after SIGKILL: a process in an uninterruptible call may outlive it."""

ALLOWED_ENVIRONMENT: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "LANG", "LANGUAGE"),
    *("LC_*", "TZ", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "XDG_CACHE_HOME"),
    *("HF_*", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_*", "TOKENIZERS_PARALLELISM", "RAYON_*"),
    *("MLX_*", "METAL_*", "OMP_NUM_THREADS", "OPENBLAS_*", "VECLIB_*"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "SYSTEMROOT"),
)
"""Variables that the runtime inherits; `NAME*` stands for every name that begins so. Secrets of the
host program stay in it."""


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How the runtime ended.

    Attributes:
        code: Its exit code, or None when a signal ended it.
        signal: The signal's name, such as `SIGKILL`, or None.
        stderr_tail: The last that it wrote to standard error.
    """

    code: int | None
    signal: str | None
    stderr_tail: str

    def __str__(self) -> str:
        """Return the cause in words, with the last lines of standard error."""
        cause = f"signal {self.signal}" if self.signal else f"exit code {self.code}"
        lines = self.stderr_tail.strip().splitlines()[-5:]
        return "; its last words:\n".join([cause, *(["\n".join(lines)] if lines else [])])


class ProcessListener(Protocol):
    """Hears of the process, on the event loop."""

    def on_connected(self, process: RuntimeProcess) -> None:
        """Its pipes are open; comes first."""
        ...

    def on_output(self, data: bytes) -> None:
        """It wrote to its standard output."""
        ...

    def on_room(self, has_room: bool) -> None:
        """Its standard input has filled up, or has room again."""
        ...

    def on_input_lost(self) -> None:
        """It reads no more."""
        ...

    def on_exit(self, report: ExitReport) -> None:
        """It has ended; nothing follows."""
        ...


class Tail:
    """The last bytes of a stream."""

    def __init__(self, limit_bytes: int = STDERR_TAIL_BYTES) -> None:
        self._limit = limit_bytes
        self._parts: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take more; the oldest goes."""
        self._parts.append(data[-self._limit :])
        self._size += len(self._parts[-1])
        while self._size - len(self._parts[0]) >= self._limit:
            self._size -= len(self._parts.popleft())

    def text(self) -> str:
        """Return what is kept."""
        kept = b"".join(self._parts)[-self._limit :]
        return kept.decode("utf-8", errors="replace")


class RuntimeProcess(asyncio.SubprocessProtocol):
    """One child process; made by `spawn`.

    Args:
        listener: Hears of output and of the end.
    """

    def __init__(self, listener: ProcessListener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._open_pipes = {1, 2}
        self._has_exited = False
        self._timer: asyncio.TimerHandle | None = None
        self._tail = Tail()
        self.is_killed = False
        """Whether this host has killed it."""
        self.ended: asyncio.Future[ExitReport] = self._loop.create_future()

    @property
    def transport(self) -> asyncio.SubprocessTransport:
        """The process's transport, known once it has been spawned."""
        assert self._transport is not None
        return self._transport

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.transport.get_pid()

    @property
    def stderr(self) -> str:
        """The last 64 KiB of standard error."""
        return self._tail.text()

    @property
    def stdin(self) -> asyncio.WriteTransport:
        """Standard input, to be written to."""
        return cast(asyncio.WriteTransport, self.transport.get_pipe_transport(0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport, and bound what is read and buffered at once."""
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self.stdin.set_write_buffer_limits(high=WRITE_WATERMARK_BYTES)
        stdout: Any = self._transport.get_pipe_transport(1)
        if hasattr(stdout, "max_size"):
            stdout.max_size = READ_BYTES
        self._listener.on_connected(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Hand output on; keep the end of standard error."""
        if fd == 1:
            self._listener.on_output(data)
        else:
            self._tail.add(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Note which pipe has closed."""
        self._open_pipes.discard(fd)
        if fd == 0:
            self._listener.on_input_lost()
        elif not self._open_pipes and self._has_exited:
            self._end()

    def pause_writing(self) -> None:
        """Say that standard input is full."""
        self._listener.on_room(False)

    def resume_writing(self) -> None:
        """Say that standard input has room."""
        self._listener.on_room(True)

    def process_exited(self) -> None:
        """Take what is still in the pipes, for a bounded time."""
        self._has_exited = True
        if self._open_pipes:
            self._timer = self._loop.call_later(PIPE_GRACE_S, self._end)
        else:
            self._end()

    def close_input(self) -> None:
        """Close standard input, which asks the runtime to drain; what is buffered still goes."""
        if not self.stdin.is_closing():
            self.stdin.close()

    async def stop(self, close_grace_s: float, terminate_grace_s: float) -> None:
        """End the process: close its input, wait, SIGTERM, wait, SIGKILL; every wait bounded."""
        self.close_input()
        if await self._has_ended_within(close_grace_s):
            return
        self._signal(signal.SIGTERM)
        if await self._has_ended_within(terminate_grace_s):
            return
        self.kill()
        await self._has_ended_within(KILL_WAIT_S)

    def kill(self) -> None:
        """End the process at once."""
        self.is_killed = self.is_killed or not self._has_exited
        with contextlib.suppress(ProcessLookupError):
            self.transport.kill()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.transport.send_signal(number)

    async def _has_ended_within(self, seconds: float) -> bool:
        await asyncio.wait({self.ended}, timeout=seconds)
        return self.ended.done()

    def _end(self) -> None:
        if self.ended.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        report = _report(self.transport.get_returncode(), self.stderr)
        self.transport.close()
        self.ended.set_result(report)
        self._listener.on_exit(report)


async def spawn(
    command: Sequence[str], environment: Mapping[str, str], listener: ProcessListener
) -> RuntimeProcess:
    """Start `command` with three pipes.

    Raises:
        StartFailed: The system cannot run it.
    """
    loop = asyncio.get_running_loop()
    try:
        _, process = await loop.subprocess_exec(
            lambda: RuntimeProcess(listener), *command, env=dict(environment)
        )
    except (OSError, ValueError) as error:
        raise StartFailed(
            f"{command[0]!r} cannot be run: {error}; give `python` or `command` another value",
            phase="start",
            cause="spawn",
        ) from error
    return process


def runtime_environment(
    allowed: Sequence[str] = ALLOWED_ENVIRONMENT, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables of this process that `allowed` names, and `extra`."""
    exact = {name for name in allowed if not name.endswith("*")}
    prefixes = tuple(name[:-1] for name in allowed if name.endswith("*"))
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in exact or (prefixes and name.startswith(prefixes))
    }
    return {**inherited, **(extra or {})}


def _report(code: int | None, stderr_tail: str) -> ExitReport:
    if code is None or code >= 0:
        return ExitReport(code, None, stderr_tail)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return ExitReport(None, name, stderr_tail)
