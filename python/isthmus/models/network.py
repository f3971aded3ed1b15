"""Loads the weights of a verified folder, in steps on the engine thread.

mlx-lm builds the network without reading it; then its tensors are read in groups of bounded size,
each looked at for NaN and infinity, and at last one token is run through. Others have the engine
between two steps. What mlx-lm may raise becomes `ModelLoadFailed` with a cause.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ..errors import IsthmusError, ModelLoadFailed
from ..limits import LOAD_GROUP_BYTES

Tell = Callable[[str, int, int, str], None]
"""Told `(stage, done, total, unit)` of the steps, on the engine thread."""

_CHECK_NUMBERS: Final = 1 << 16
"""Numbers looked at in one go: their copy stays in the processor's cache."""


class NetworkLoad:
    """One load: `step` until `is_done`; on the engine thread.

    Args:
        folder: Verified.
        adapter: A verified folder of a LoRA adapter, or None.
        trust_remote_code: Let the folder name code of its own.
        tell: Told of the bytes that are read, and of the first token.
    """

    def __init__(
        self, folder: Path, adapter: Path | None, trust_remote_code: bool, tell: Tell
    ) -> None:
        self._folder = folder
        self._adapter = adapter
        self._trust_remote_code = trust_remote_code
        self._tell = tell
        self._steps = self._run()
        self.network: Any = None
        self.vocab_size = 0
        """Columns of its logits, once it is done."""
        self.is_done = False

    def step(self) -> bool:
        """Do one bounded unit, to be called again until `is_done`; return True: each is an errand
        of the engine of its own, so that other errands have their turn between.

        Raises:
            ModelLoadFailed: With cause `unsupported_type`, `not_finite`, `io_error` or
                `load_failed`.
        """
        try:
            with _failures(self._folder):
                self.is_done = next(self._steps, self) is self
        except Exception as error:
            _forget_locals(error)
            raise
        return True

    def drop(self) -> None:
        """Give back the memory of a load that nobody waits for, or that failed."""
        self._steps.close()
        self.network = None
        return_memory()

    def _run(self) -> Generator[None]:
        from mlx.utils import tree_flatten
        from mlx_lm.utils import load_adapters, load_model

        network, _ = load_model(self._folder, lazy=True, trust_remote_code=self._trust_remote_code)
        if self._adapter is not None:
            network = load_adapters(network, str(self._adapter))
            network.eval()
        self.network = network
        parameters = dict(tree_flatten(network.parameters()))
        total = sum(array.nbytes for array in parameters.values())
        self._tell("load", 0, total, "bytes")
        done = 0
        for group in _groups(parameters.items()):
            yield
            done += self._read(group)
            self._tell("load", done, total, "bytes")
        yield
        self._tell("warm_up", 0, 1, "steps")
        self.vocab_size = _first_token(network)
        self._tell("warm_up", 1, 1, "steps")

    def _read(self, group: dict[str, Any]) -> int:
        import mlx.core as mx

        mx.eval(group)
        for name, array in group.items():
            if not is_finite(array):
                raise ModelLoadFailed(
                    f"the weights in {self._folder} are not finite: {name} holds NaN or infinity; "
                    "download or convert the model again",
                    phase="load",
                    cause="not_finite",
                    tensor=name,
                )
        return sum(array.nbytes for array in group.values())


def load_network(folder: Path, adapter: Path | None, trust_remote_code: bool) -> tuple[Any, int]:
    """Load, read and check the weights, and run one token, without a break.

    Returns:
        The mlx-lm model, and the columns of its logits.

    Raises:
        ModelLoadFailed: As `NetworkLoad.step`.
    """
    load = NetworkLoad(folder, adapter, trust_remote_code, lambda *_: None)
    while not load.is_done:
        load.step()
    return load.network, load.vocab_size


def is_finite(array: Any) -> bool:
    """Whether all numbers of an evaluated array are finite; true for integers.

    A number that is not has all bits of its exponent set: they are looked at by numpy, which takes
    a tenth of the time that mlx takes on a processor, and overflows nowhere.
    """
    import mlx.core as mx
    import numpy as np

    exponents = {
        mx.float32: (mx.uint32, 0x7F800000),
        mx.bfloat16: (mx.uint16, 0x7F80),
        mx.float16: (mx.uint16, 0x7C00),
    }
    if array.dtype not in exponents:
        if not mx.issubdtype(array.dtype, mx.inexact):
            return True
        found = mx.all(mx.isfinite(array))
        return bool(found.item())
    kind, mask = exponents[array.dtype]
    bits = np.array(array.view(kind) if array.ndim else array[None].view(kind), copy=False)
    numbers = bits.reshape(-1)
    exponent = numbers.dtype.type(mask)
    return not any(
        int((numbers[begin : begin + _CHECK_NUMBERS] & exponent).max()) == mask
        for begin in range(0, numbers.size, _CHECK_NUMBERS)
    )


def return_memory() -> None:
    """Give the system back what has been let go; on the engine thread.

    Caches, sequences and the network refer to each other, so they are collected; mlx keeps freed
    buffers, and glibc keeps freed pages of its heaps.
    """
    import mlx.core as mx

    gc.collect()
    mx.clear_cache()
    trim = _heap_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _heap_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def _forget_locals(error: BaseException | None) -> None:
    """Let go of what the frames that an error came through have in hand: the weights, which would
    stay for as long as anybody keeps the error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _groups(parameters: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the parameters in groups of at most LOAD_GROUP_BYTES, larger ones alone."""
    group: dict[str, Any] = {}
    size = 0
    for name, array in parameters:
        if group and size + array.nbytes > LOAD_GROUP_BYTES:
            yield group
            group, size = {}, 0
        group[name] = array
        size += array.nbytes
    if group:
        yield group


def _first_token(network: Any) -> int:
    """Run one token through the model; return the columns of its logits."""
    import mlx.core as mx

    logits = network(mx.array([[0]]))
    mx.eval(logits)
    return int(logits.shape[-1])


@contextmanager
def _failures(folder: Path) -> Iterator[None]:
    """Turn what mlx-lm raises while it loads `folder` into ModelLoadFailed."""
    try:
        yield
    except IsthmusError:
        raise
    except Exception as error:
        cause = "unsupported_type" if "not supported" in str(error) else "load_failed"
        if isinstance(error, OSError):
            cause = "io_error"
        raise ModelLoadFailed(
            f"the model in {folder} cannot be loaded: {type(error).__name__}: {error}",
            phase="load",
            cause=cause,
        ) from error
