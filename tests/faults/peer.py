"""A raw peer of the runtime: bytes and messages as a test dictates, with none of a host's manners.

Frames are built here with `struct` and `msgpack` alone, so that a fault in the package's own wire
code cannot hide itself. Every wait has a deadline, and leaving the `with` block ends the process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

FAULTY = Path(__file__).parents[1] / "fixtures" / "faulty_runtime.py"
DEADLINE_S = 30.0
"""How long a test waits for what must come: never reached when all is well."""

HELLO, REQUEST, RESULT, ERROR, DELTA, END = range(6)
CANCEL, CREDIT, EVENT, PING, PONG, PIECE = range(6, 12)
HOST_HELLO = [HELLO, {"protocol": 1, "host": "peer/1"}]


class PeerClosed(Exception):
    """The runtime's output has ended."""


def frame(payload: bytes) -> bytes:
    """Return a payload with its length in front."""
    return struct.pack(">I", len(payload)) + payload


def pack(message: object) -> bytes:
    """Return a message as a frame."""
    return frame(msgpack.packb(message))


def wire_ids(ids: list[int]) -> bytes:
    """Return token ids in their wire form."""
    return struct.pack(f"<{len(ids)}I", *ids)


def read_ids(data: bytes) -> list[int]:
    """Return the token ids of their wire form."""
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> float:
    """Look at `condition` until it holds; return how long that took, in seconds."""
    began = time.monotonic()
    pause = selectors.DefaultSelector()
    with contextlib.closing(pause):
        while not condition():
            waited = time.monotonic() - began
            assert waited < deadline_s, f"{what}: not within {deadline_s:g} s"
            pause.select(0.005)
    return time.monotonic() - began


def runtime_command(*arguments: str) -> list[str]:
    """Return the command line of the runtime with misbehaving methods."""
    return [sys.executable, str(FAULTY), "runtime", *arguments]


def keeping_command(path: Path) -> list[str]:
    """Return the command line of the runtime that keeps sessions in a folder."""
    return [sys.executable, "-P", "-m", "isthmus", "runtime", "--session-dir", str(path)]


def in_shell(script: str, *arguments: str) -> list[str]:
    """Return the command line of a shell whose `script` has the runtime's in place of RUNTIME."""
    return ["sh", "-c", script.replace("RUNTIME", shlex.join(runtime_command(*arguments)))]


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, also of one that waits to be reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Peer:
    """One runtime process and both ends of its wire.

    Args:
        arguments: Follow `runtime`.
        command: Replaces the whole command line.
        greet: Read the runtime's hello and send ours.
        environment: Added to this process's own.
        stderr: A descriptor for standard error instead of a file.
    """

    def __init__(
        self,
        *arguments: str,
        command: list[str] | None = None,
        greet: bool = True,
        environment: dict[str, str] | None = None,
        stderr: int | None = None,
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command or runtime_command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr if stderr is None else stderr,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input = self.process.stdin.fileno()
        self._output = self.process.stdout.fileno()
        os.set_blocking(self._input, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._buffer = bytearray()
        self._next_id = 1_000
        self.kept: list[list[Any]] = []
        self._pieces: dict[int, bytes] = {}
        self.hello: dict[str, Any] = {}
        try:
            if greet:
                self.greet()
        except BaseException:
            self.kill()
            raise

    def greet(self) -> None:
        """Exchange hellos."""
        message = self.receive()
        assert message[0] == HELLO
        self.hello = message[1]
        self.send(HOST_HELLO)

    @property
    def pid(self) -> int:
        """The runtime's own process id, also behind a wrapper."""
        return int(self.hello["pid"]) if self.hello else self.process.pid

    @property
    def stderr(self) -> bytes:
        """What it has written to standard error."""
        return os.pread(self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0)

    def send_bytes(self, data: bytes) -> None:
        """Write bytes to the runtime's input, reading its output while that does not take them."""
        view = memoryview(data)
        ends = time.monotonic() + DEADLINE_S
        while view:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                assert time.monotonic() < ends, "the runtime does not read its input"
                self._wait_for_input()

    def _wait_for_input(self) -> None:
        self._selector.register(self._input, selectors.EVENT_WRITE)
        try:
            for key, _ in self._selector.select(1.0):
                if key.fd == self._output:
                    self._buffer += os.read(self._output, 1 << 20)
        finally:
            self._selector.unregister(self._input)

    def send(self, *messages: object) -> None:
        """Write messages in one piece."""
        self.send_bytes(b"".join(pack(message) for message in messages))

    def receive(self, deadline_s: float = DEADLINE_S) -> list[Any]:
        """Return the next message.

        Raises:
            PeerClosed: There will be none.
            TimeoutError: None came in time.
        """
        ends = time.monotonic() + deadline_s
        while True:
            payload = self._cut()
            if payload is not None:
                message: list[Any] = msgpack.unpackb(payload)
                whole = self._assemble(message) if message[0] == PIECE else message
                if whole is not None:
                    return whole
                continue
            if not self._selector.select(max(0.0, ends - time.monotonic())):
                raise TimeoutError(f"no message within {deadline_s:g} s")
            data = os.read(self._output, 1 << 20)
            if not data:
                raise PeerClosed(bytes(self._buffer[:64]))
            self._buffer += data

    def _cut(self) -> bytes | None:
        if len(self._buffer) < 4:
            return None
        (length,) = struct.unpack_from(">I", self._buffer)
        if len(self._buffer) < 4 + length:
            return None
        payload = bytes(self._buffer[4 : 4 + length])
        del self._buffer[: 4 + length]
        return payload

    def _assemble(self, piece: list[Any]) -> list[Any] | None:
        _, channel, flag, data = piece
        payload = self._pieces.pop(channel, b"") + data
        if flag == 0:
            self._pieces[channel] = payload
            return None
        message: list[Any] = msgpack.unpackb(payload)
        return message

    def request(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        request: int | None = None,
    ) -> int:
        """Send a request and return its id."""
        if request is None:
            self._next_id += 1
            request = self._next_id
        message = [REQUEST, request, method, params or {}]
        self.send([*message, options] if options is not None else message)
        return request

    def next_of(self, request: int | None, deadline_s: float = DEADLINE_S) -> list[Any]:
        """Return the next result, error, delta or end of a request; others are kept."""
        for index, message in enumerate(self.kept):
            if message[1] == request:
                return self.kept.pop(index)
        ends = time.monotonic() + deadline_s
        while True:
            message = self.receive(max(0.0, ends - time.monotonic()))
            if message[0] in (RESULT, ERROR, DELTA, END):
                if message[1] == request:
                    return message
                self.kept.append(message)

    def take_kept(self, request: int | None) -> list[list[Any]]:
        """Return, without waiting, what arrived for a request while another was waited for."""
        taken = [message for message in self.kept if message[1] == request]
        self.kept = [message for message in self.kept if message[1] != request]
        return taken

    def wait_until_stalled(self) -> None:
        """Read nothing until the runtime's output buffers have not grown for a while."""
        seen = [-1.0, 0.0]

        def has_settled() -> bool:
            now = cpu_seconds(self.pid)
            seen[:] = [now, seen[1] + 1 if now == seen[0] else 0]
            return seen[1] > 60

        wait_until(has_settled, "the runtime has nothing more to do")

    def settled(self, request: int | None, deadline_s: float = DEADLINE_S) -> list[Any]:
        """Return the message that settles a request; its deltas are passed over."""
        ends = time.monotonic() + deadline_s
        while True:
            message = self.next_of(request, max(0.0, ends - time.monotonic()))
            if message[0] != DELTA:
                return message

    def call(self, method: str, params: dict[str, Any] | None = None, **options: Any) -> Any:
        """Send a request and return its result or end value."""
        message = self.settled(self.request(method, params, options or None))
        assert message[0] in (RESULT, END), message
        return message[2]

    def refusal(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return its error."""
        message = self.settled(self.request(method, params))
        assert message[0] == ERROR, message
        error: dict[str, Any] = message[2]
        return error

    def answer_code(self, method: str, params: dict[str, Any]) -> str | None:
        """Send a request and return the code of its error, or None for a result."""
        message = self.settled(self.request(method, params))
        return str(message[2]["code"]) if message[0] == ERROR else None

    def engine_is_ready(self) -> None:
        """Wait until the engine has imported its libraries and has nothing to do."""
        self.call("fault_block_engine", {"seconds": 0})

    def is_echoing(self, data: object = "still here") -> bool:
        """Whether the runtime answers an ordinary request."""
        return bool(self.call("echo", {"data": data}) == data)

    def close_input(self) -> None:
        """Say that nothing more will be sent."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close_output(self) -> None:
        """Stop to read, for good."""
        assert self.process.stdout is not None
        self._selector.unregister(self._output)
        self.process.stdout.close()

    def rest(self) -> Iterator[list[Any]]:
        """Yield messages other than events until the output ends."""
        with contextlib.suppress(PeerClosed):
            while True:
                message = self.receive()
                if message[0] != EVENT:
                    yield message

    def health(self) -> dict[str, Any]:
        """Return the answer to a ping."""
        self.send([PING, "health"])
        while (message := self.receive())[0] != PONG:
            if message[0] in (RESULT, ERROR, DELTA, END):
                self.kept.append(message)
        report: dict[str, Any] = message[2]
        return report

    def is_in_prefill(self) -> bool:
        """Whether the engine is at work now, and a moment later, and again."""
        return all(self.health()["engine"]["state"] == "busy" for _ in range(5))

    def becomes_idle(self) -> None:
        """Wait until the engine has nothing to do."""
        wait_until(lambda: bool(self.health()["engine"]["state"] == "idle"), "the engine is idle")

    def load(self, folder: Path | str) -> str:
        """Load a model and return its handle."""
        return str(self.call("load_model", {"source": str(folder)})["model"])

    def generate(self, model: str, prompt: str, **params: Any) -> tuple[list[int], dict[str, Any]]:
        """Generate to the end; return the ids of all deltas and the message that settled it."""
        request = self.request("generate", {"model": model, "prompt": prompt, **params})
        ids: list[int] = []
        while (message := self.next_of(request))[0] == DELTA:
            ids += read_ids(message[3]["ids"])
        return ids, message[2]

    def exit_code(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the end of the process; minus the number of the signal that killed it."""
        return self.process.wait(deadline_s)

    def resident_bytes(self) -> int:
        """Memory of the runtime as the kernel counts it."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End everything that was started, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self._selector.close()
        self._stderr.close()
        for end in (self.process.stdin, self.process.stdout):
            if end is not None and not end.closed:
                with contextlib.suppress(OSError):
                    end.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
