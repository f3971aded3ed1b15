"""`isthmus doctor`: what is installed, which BLAS is in use, and whether a token can be made."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Callable

import orjson

from . import __version__
from .engine.blas import HINT, interpose
from .models import BUILTIN_ROOT

Write = Callable[[str], object]

_PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers", "msgpack", "orjson", "uvloop")


def run_doctor(write: Write) -> int:
    """Check this installation and say what is wrong; return the exit code."""
    write(f"isthmus {__version__}\n")
    write(f"python  {platform.python_version()}  {sys.executable}\n")
    write(f"system  {platform.platform()}\n")
    for package in _PACKAGES:
        write(f"{package:13} {_version(package)}\n")
    blas = interpose()
    write(f"blas    {blas.name}  {blas.path or ''}\n")
    if blas.name == "bundled":
        write(f"        {HINT}\n")
    if sys.platform == "linux" and shutil.which("g++") is None:
        write("g++     missing: mlx's fused kernels are off; apt-get install g++\n")
    return _try_token(write)


def describe_builtin(write: Write) -> None:
    """Show the built-in models and what they score."""
    scores = BUILTIN_ROOT / "scores.json"
    for source, folder in (("default", "chat"), ("default-draft", "draft")):
        weights = BUILTIN_ROOT / folder / "model.safetensors"
        write(f"{source:14} {weights.stat().st_size / 1e6:.1f} MB  {weights.parent}\n")
    if scores.exists():
        write(orjson.dumps(orjson.loads(scores.read_bytes()), option=orjson.OPT_INDENT_2).decode())
        write("\n")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing: pip install isthmus installs it"


def _try_token(write: Write) -> int:
    """Run one token of the built-in model in this process."""
    try:
        from .models.network import load_network

        _, vocab_size = load_network(BUILTIN_ROOT / "chat", None, False)
    except Exception as error:  # the doctor's work is to say what went wrong
        write(f"model   the built-in model does not run: {type(error).__name__}: {error}\n")
        return 1
    write(f"model   the built-in model runs (vocabulary {vocab_size})\n")
    return 0
