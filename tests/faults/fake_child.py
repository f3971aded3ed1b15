"""Children that break the protocol on purpose: `python fake_child.py SCENARIO [ARGUMENT]`.

They speak as much of the protocol as each scenario needs and import nothing heavy, so that a test
may start hundreds of them.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

RESULT, DELTA, END, EVENT, PONG = 2, 4, 5, 8, 10


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def send(*message: object) -> None:
    write(frame(msgpack.packb(message)))


def hello(version: int = 1) -> None:
    limits = {"frame_bytes": 1 << 24, "message_bytes": 1 << 26, "depth": 32, "piece_bytes": 65_536}
    send(
        0,
        {
            "protocol": version,
            "runtime": "9.9.9",
            "pid": os.getpid(),
            "python": "3",
            "platform": "fake",
            "codec": "msgpack",
            "limits": {**limits, "in_flight": 65_536},
            "methods": ["echo"],
            "blas": None,
        },
    )


def messages() -> Iterator[list[Any]]:
    """Yield what the host sends until it closes the pipe."""
    buffer = b""
    while data := os.read(0, 1 << 16):
        buffer += data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:4], "big")
            if len(buffer) < end:
                break
            yield msgpack.unpackb(buffer[4:end])
            buffer = buffer[end:]


def requests() -> Iterator[tuple[int, str, Any]]:
    """Yield each request's id, method and data; answer pings."""
    for message in messages():
        if message[0] == 1:
            yield message[1], message[2], message[3].get("data")
        elif message[0] == 9:
            send(PONG, message[1], {})


def echo(_: str) -> None:
    """Answer every request with its data."""
    hello()
    for request, _method, data in requests():
        send(RESULT, request, data)


def bytewise(_: str) -> None:
    """Answer, a byte at a time."""
    hello()
    for request, _method, data in requests():
        for byte in frame(msgpack.packb([RESULT, request, data])):
            write(bytes([byte]))


def raw_reply(data: str) -> None:
    """Answer the second request with raw bytes and wait."""
    hello()
    waiting = requests()
    next(waiting)
    next(waiting)
    write(bytes.fromhex(data))
    for _ in waiting:
        pass


def raw_reply_and_exit(data: str) -> None:
    """Answer the second request with raw bytes and go."""
    hello()
    waiting = requests()
    next(waiting)
    next(waiting)
    write(bytes.fromhex(data))
    os._exit(0)


def garbage(seed: str) -> None:
    """Say a megabyte of nonsense instead of a hello."""
    write(random.Random(int(seed)).randbytes(1 << 20))
    time.sleep(60)


def version(number: str) -> None:
    """Say hello in another version; report on standard error how many bytes the host sent."""
    hello(int(number))
    count = 0
    while data := os.read(0, 1 << 16):
        count += len(data)
    os.write(2, b"the host sent %d bytes" % count)


def strangers(_: str) -> None:
    """Send replies, deltas and events that nobody asked for around each true answer."""
    hello()
    for request, _method, data in requests():
        send(RESULT, 4_000_000_000, "unknown")
        send(3, 4_000_000_001, {"code": "INTERNAL", "message": "?", "retryable": False})
        send(DELTA, 4_000_000_002, 1, ["unknown"])
        send(END, 4_000_000_003, {})
        send(EVENT, "an event of tomorrow", {"x": 1})
        send(RESULT, request, data)
        send(RESULT, request, "twice")
        send(3, request, {"code": "INTERNAL", "message": "late", "retryable": False})


def silent(_: str) -> None:
    """Answer nothing until a request says `release`."""
    hello()
    waiting = []
    for request, method, data in requests():
        waiting.append((request, data))
        if method == "release":
            for pending, value in waiting:
                send(RESULT, pending, value)
            waiting.clear()


def hang(_: str) -> None:
    """Say nothing and do not react to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def write_half(_: str) -> None:
    """Begin a large answer and stop in the middle of its frame."""
    hello()
    for request, _method, _data in requests():
        whole = frame(msgpack.packb([RESULT, request, bytes(100_000)]))
        write(whole[:50_000])
        os.write(2, b"in the middle")


def exit_with(code: str) -> None:
    """Complain and go before the hello."""
    os.write(2, b"the reason stands here\n")
    os._exit(int(code))


def last_words(words: str) -> None:
    """Go at the first request, with these words."""
    hello()
    next(requests())
    os.write(2, words.encode() + b"\n")
    os._exit(134)


def note_start(file: str) -> int:
    """Add this process to those that a file tells of; say how many there were. Two that run at once
    are noted as an overlap."""
    path = Path(file)
    before = path.read_text().split() if path.exists() else []
    alive = [pid for pid in before if pid.isdigit() and Path(f"/proc/{pid}").exists()]
    state = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in alive]
    words = [*before, *("overlap" for each in state if each != "Z"), str(os.getpid())]
    path.write_text(" ".join(words))
    return len(before)


def counted(file: str) -> None:
    """Answer every request with its data, and leave a note of each start."""
    note_start(file)
    echo("")


def good_once(file: str) -> None:
    """Work the first time; then complain and go before the hello."""
    if note_start(file) == 0:
        echo("")
    exit_with("1")


def hello_and_exit(file: str) -> None:
    """Work the first time; then say hello and go at once."""
    if note_start(file) == 0:
        echo("")
    hello()
    exit_with("1")


def slow_start(file: str) -> None:
    """Work the first time; then say no hello for ever, but react to the end of the input."""
    if note_start(file) == 0:
        echo("")
    while os.read(0, 1 << 16):
        pass


SCENARIOS: dict[str, Callable[[str], None]] = {
    "echo": echo,
    "bytewise": bytewise,
    "raw": raw_reply,
    "raw-exit": raw_reply_and_exit,
    "garbage": garbage,
    "version": version,
    "strangers": strangers,
    "silent": silent,
    "hang": hang,
    "half": write_half,
    "exit": exit_with,
    "last-words": last_words,
    "counted": counted,
    "good-once": good_once,
    "hello-and-exit": hello_and_exit,
    "slow-start": slow_start,
}

if __name__ == "__main__":
    if pid_file := os.environ.get("FAKE_PID_FILE"):
        Path(pid_file).write_text(str(os.getpid()))
    SCENARIOS[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "")
