"""Five Llamas of random weights in fp32, of different sizes, written in a process that may use MLX.

They have the embedded tokenizer without an end token, filled up with words, as those of the fifty
questions do.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..fifty.models import Shape, write_random, write_tokenizer
from ..harness import ROOT

SHAPES: Final = {
    "128x4": Shape(128, 344, 4, 32_000),
    "192x4": Shape(192, 516, 4, 32_000),
    "256x4": Shape(256, 688, 4, 32_000),
    "256x8": Shape(256, 688, 8, 32_000),
    "384x8": Shape(384, 1032, 8, 32_000),
}
"""With the vocabulary of Llama 2: reading the tokenizer is part of a load."""
QUICK_SHAPES: Final = {
    name: replace(shape, layers=2, vocabulary=8_192) for name, shape in SHAPES.items()
}

_WRITE_LIMIT_S: Final = 240.0


def write_all(folder: Path, is_quick: bool) -> list[Path]:
    """Write the models below a folder; return theirs, the smallest first."""
    arguments = [str(folder), "quick" if is_quick else "full"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.switching.models", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        timeout=_WRITE_LIMIT_S,
        check=True,
    )
    return [folder / name for name in SHAPES]


def _main(folder: Path, is_quick: bool) -> None:
    for name, shape in (QUICK_SHAPES if is_quick else SHAPES).items():
        (folder / name).mkdir()
        write_tokenizer(folder / name, shape.vocabulary)
        write_random(folder / name, shape)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2] == "quick")
