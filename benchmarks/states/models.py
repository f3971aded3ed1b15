"""Two Llamas of random weights in fp32 whose context is long and whose KV cache has a real one's
proportions, written in a process that may use MLX.

`medium` keeps 16 KB of keys and values a token, in a quick run 8, `small` 2: a prompt of 32K tokens
takes minutes on a processor with more. They have the embedded tokenizer without an end token,
filled up with words, as those of the fifty questions do.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..fifty.models import Shape, write_random, write_tokenizer
from ..harness import ROOT

MEDIUM: Final = "medium"
SMALL: Final = "small"

CONTEXT: Final = 40_960
_HEAD_SIZE: Final = 128
_ITEM_BYTES: Final = 4
_WRITE_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class CachedShape(Shape):
    """The size of a Llama with heads of 128."""

    heads: int = 1
    kv_heads: int = 1

    def to_config(self) -> dict[str, Any]:
        """Return the model's config.json."""
        return Shape.to_config(self) | {
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": _HEAD_SIZE,
            "max_position_embeddings": CONTEXT,
        }

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.kv_heads * _HEAD_SIZE * _ITEM_BYTES


SHAPES: Final = {
    MEDIUM: CachedShape(512, 1376, 4, 8_192, heads=4, kv_heads=4),
    SMALL: CachedShape(128, 344, 2, 8_192),
}
QUICK_SHAPES: Final = SHAPES | {MEDIUM: replace(SHAPES[MEDIUM], layers=2)}


@dataclass(frozen=True, slots=True)
class Written:
    """A model on disk."""

    name: str
    folder: Path
    shape: CachedShape

    @property
    def source(self) -> str:
        """What it is loaded from."""
        return str(self.folder)


def write_all(folder: Path, is_quick: bool = False) -> dict[str, Written]:
    """Write the models below a folder; return them by name."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.states.models", str(folder), *["quick"] * is_quick],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        timeout=_WRITE_LIMIT_S,
        check=True,
    )
    return {name: Written(name, folder / name, shape) for name, shape in _shapes(is_quick).items()}


def _shapes(is_quick: bool) -> dict[str, CachedShape]:
    return QUICK_SHAPES if is_quick else SHAPES


def _main(folder: Path, is_quick: bool) -> None:
    for name, shape in _shapes(is_quick).items():
        (folder / name).mkdir()
        write_tokenizer(folder / name, shape.vocabulary)
        write_random(folder / name, shape)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), "quick" in sys.argv[2:])
