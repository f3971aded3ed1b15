"""Starts the subjects: Isthmus, the raw floor, the textbook loop and the serial loops."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from ..harness import ROOT, node_path
from ..processes import Subject

HERE: Final = Path(__file__).resolve().parent
PYTHON_FOLDER: Final = ROOT / "python"
BUILTIN: Final = PYTHON_FOLDER / "isthmus" / "models" / "builtin" / "chat"
SINGLE_FRAME: Final = ["--piece-bytes", "33554432", "--frame-limit-bytes", "33554432"]
"""What makes the runtime send and take 16 MiB in one frame."""


def isthmus(**options: Any) -> Subject:
    """Start a Node program that uses Isthmus; `options` are those of `createRuntime`."""
    if not (ROOT / "bridge" / "dist" / "index.js").exists():
        raise SystemExit("bridge/dist/index.js is missing; run `npm run build` in bridge/ first")
    chosen = json.dumps({"python": sys.executable, **options})
    return Subject("isthmus", [node_path(), str(HERE / "isthmus.mjs"), chosen])


def stamped() -> Subject:
    """Start one whose runtime stamps its tokens."""
    return isthmus(command=[sys.executable, "-P", str(HERE / "stamped_runtime.py")])


def raw() -> Subject:
    """Start the floor."""
    return _node("raw", "raw.mjs", "raw_peer.py")


def textbook() -> Subject:
    """Start the textbook loop, which can tokenize too."""
    return _node("textbook", "lines.mjs", "textbook_peer.py", str(BUILTIN / "tokenizer.json"))


def serial(*flags: str) -> Subject:
    """Start a loop that answers one request at a time."""
    return _node("serial", "lines.mjs", "serial_peer.py", *flags)


def in_process() -> Subject:
    """Start a Python program that calls mlx_lm itself."""
    command = [sys.executable, "-m", "benchmarks.ipc.inprocess_peer", str(BUILTIN)]
    return Subject("in process", command)


def _node(name: str, client: str, peer: str, *arguments: str) -> Subject:
    command = [
        node_path(),
        "--expose-gc",
        str(HERE / client),
        sys.executable,
        str(HERE / peer),
        *arguments,
    ]
    return Subject(name, command)
