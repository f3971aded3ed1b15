"""Arrays of logits in numpy: their types, and what several modules compute from them.

Promises nothing of tokens and knows no options. Where an array is large, results are made in place:
fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
Ids = np.ndarray[Any, np.dtype[np.int64]]
Words = np.ndarray[Any, np.dtype[np.uint32]]
Truths = np.ndarray[Any, np.dtype[np.bool_]]

LOWEST: Final = -3.4028234663852886e38
"""The lowest float 32; below it is minus infinity only, a masked token."""


def exponentials(values: Floats, best: float, scale: float = 1.0) -> Floats:
    """Return `exp((values - best) * scale)`."""
    result: Floats = values - np.float32(best)
    if scale != 1.0:
        result *= np.float32(scale)
    np.exp(result, out=result)
    return result


def mass(values: Floats, best: float) -> float:
    """Return the sum of `exp(values - best)`."""
    return float(exponentials(values, best).sum())


def nth_largest(values: Floats, n: int) -> float:
    """Return the value that `n - 1` others are at least as large as, `n` from 1."""
    place = len(values) - n
    return float(np.partition(values, place)[place])
