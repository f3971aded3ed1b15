"""Puts a fast BLAS in front of the reference one that mlx's CPU wheel for Linux bundles.

Loading a library that exports plain `cblas_sgemm` with global symbols before `mlx.core` is imported
makes mlx use it: a 512 x 512 fp32 product went from 40 ms to 1 ms. Only fp32 gains. It never fails
for want of one: the answer then says `bundled`. On macOS mlx uses Accelerate and Metal by itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from dataclasses import dataclass
from typing import Final

_MLX_COMPILER: Final = "g++"
_CANDIDATES: Final = (
    "libopenblas.so.0",
    "/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0",
    "/usr/lib/aarch64-linux-gnu/openblas-pthread/libopenblas.so.0",
    "/usr/lib64/libopenblasp.so.0",
    "/usr/lib64/libopenblas.so.0",
    "libblis.so.4",
    "libmkl_rt.so.2",
)

_SPIN: Final = "22"
"""An idle thread of OpenBLAS spins for 2^22 cycles, over a millisecond, before it sleeps: enough
from one token to the next. Its own 2^26 take a processor from everybody for 25 ms after a pass."""

HINT: Final = (
    "install one to make fp32 models several times faster: "
    "apt-get install libopenblas0-pthread (Debian, Ubuntu), dnf install openblas (Fedora)"
)


@dataclass(frozen=True, slots=True)
class Blas:
    """The BLAS in use: `name`, and its `path` when it was put in front."""

    name: str
    path: str | None = None

    def to_wire(self) -> dict[str, str | None]:
        """Return the `blas` map of the hello."""
        return {"name": self.name, "path": self.path}


def interpose(choice: str = "auto") -> Blas:
    """Load a fast BLAS if there is one; call before `mlx.core` is imported.

    Args:
        choice: `auto`, `off`, or the path of a library.
    """
    if sys.platform != "linux":
        return Blas("system")
    if shutil.which(_MLX_COMPILER) is None:
        # mlx compiles fused kernels with it at run time, and fails where it is missing.
        os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
    if choice == "off":
        return Blas("bundled")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SPIN)
    for path in _CANDIDATES if choice == "auto" else (choice,):
        library = _load(path)
        if library is not None:
            return Blas(_name(library, path), path)
    return Blas("bundled")


def _load(path: str) -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        _ = library.cblas_sgemm
    except (OSError, AttributeError):
        return None
    return library


def _name(library: ctypes.CDLL, path: str) -> str:
    try:
        describe = library.openblas_get_config
    except AttributeError:
        return path.rsplit("/", 1)[-1].removeprefix("lib").split(".", 1)[0]
    describe.restype = ctypes.c_char_p
    return " ".join(describe().decode().split()[:2])
