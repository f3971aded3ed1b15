"""Nothing but the wire's own bytes reaches the claimed output, and nothing else reads its input."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from isthmus.transport.claim import ClaimedPipes, unusable_end

CLAIM = """
import ctypes, os, subprocess, sys
from isthmus.transport.claim import claim_stdio
pipes = claim_stdio()
{body}
os.write(pipes.write_fd, b"WIRE")
"""


def run_claimed(body: str, sent: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `body` in a process whose standard input and output have been claimed."""
    return subprocess.run(
        [sys.executable, "-c", CLAIM.format(body=body)],
        input=sent,
        capture_output=True,
        timeout=30,
        check=True,
    )


@pytest.mark.parametrize(
    "noise",
    [
        "print('NOISE', flush=True)",
        "sys.__stdout__.write('NOISE'); sys.__stdout__.flush()",
        "os.write(1, b'NOISE')",
        "libc = ctypes.CDLL(None); libc.printf(b'NOISE'); libc.fflush(None)",
        "subprocess.run(['echo', 'NOISE'], check=True)",
        "os.system('printf NOISE')",
    ],
    ids=["print", "stdout", "os.write", "printf", "subprocess", "shell"],
)
def test_what_is_printed_goes_to_standard_error(noise: str) -> None:
    done = run_claimed(noise)
    assert done.stdout == b"WIRE"
    assert b"NOISE" in done.stderr


@pytest.mark.parametrize(
    "reader",
    [
        "try: input()\nexcept EOFError: sys.stderr.write('EMPTY')",
        "sys.stderr.write(sys.stdin.read() or 'EMPTY')",
        "sys.stderr.write(os.read(0, 10).decode() or 'EMPTY')",
        "subprocess.run('cat >&2; echo EMPTY >&2', shell=True, check=True)",
    ],
    ids=["input", "sys.stdin", "os.read", "subprocess"],
)
def test_who_reads_standard_input_finds_its_end_and_takes_nothing(reader: str) -> None:
    done = run_claimed(
        f"{reader}\nsys.stderr.write('|' + os.read(pipes.read_fd, 99).decode())", b"SENT"
    )
    assert done.stderr.split() == [b"EMPTY|SENT"] or done.stderr.split() == [b"EMPTY", b"|SENT"]


def test_a_subprocess_inherits_neither_end() -> None:
    body = "sys.stderr.write(str([os.get_inheritable(fd) for fd in pipes]))"
    assert run_claimed(body).stderr == b"[False, False]"


def test_claiming_imports_nothing_but_the_standard_library() -> None:
    body = "sys.stderr.write(str([name for name in sys.modules if name.startswith('isthmus')]))"
    shown = run_claimed(body).stderr.decode()
    assert shown == str(["isthmus", "isthmus.transport", "isthmus.transport.claim"])


def test_a_file_is_named_as_the_end_that_cannot_be_waited_for() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    read_fd, write_fd = os.pipe()
    try:
        assert unusable_end(ClaimedPipes(read_fd, write_fd)) is None
        assert "input" in str(unusable_end(ClaimedPipes(null, write_fd)))
        assert "output" in str(unusable_end(ClaimedPipes(read_fd, null)))
    finally:
        for descriptor in (null, read_fd, write_fd):
            os.close(descriptor)
