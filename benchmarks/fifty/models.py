"""Writes the models that are compared; run as a program, because writing them needs MLX.

`embedded` is the model that comes with Isthmus, `large` a Llama of about 100 M random weights in
4 bits with a vocabulary of 32,000, `fp32` one of about 30 M random weights in fp32. None of the
copies has an end token, so that every side generates as many tokens. The random ones have the
embedded tokenizer, filled up with words that no text is encoded to: each id they can emit is text.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..harness import ROOT
from ..ipc.subjects import BUILTIN

EMBEDDED: Final = "embedded"
LARGE: Final = "large"
FP32: Final = "fp32"
NAMES: Final = (EMBEDDED, LARGE, FP32)

_SEED: Final = 7
_SPREAD: Final = 2.0
"""Wider than a trained model begins with: with less, a greedy answer repeats its first token."""

_WRITE_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a Llama with heads of 64; `bits` is 0 for fp32."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    bits: int = 0

    def to_config(self) -> dict[str, Any]:
        """Return the model's config.json."""
        heads = self.hidden // 64
        return {
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "head_dim": 64,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        }


SHAPES: Final = {
    LARGE: Shape(768, 2048, 8, 32_000, bits=4),
    FP32: Shape(512, 1376, 8, 8_192),
}
QUICK_SHAPES: Final = {
    LARGE: replace(SHAPES[LARGE], layers=1, vocabulary=8_192),
    FP32: replace(SHAPES[FP32], layers=2),
}
"""So few layers and words that a quick run is quick; its figures say nothing of the others."""


@dataclass(frozen=True, slots=True)
class Written:
    """A model on disk."""

    name: str
    folder: Path
    parameters: int


def write_all(folder: Path, is_quick: bool) -> dict[str, Written]:
    """Write the models below a folder, in a process of its own; return them by name."""
    shapes = QUICK_SHAPES if is_quick else SHAPES
    wanted = json.dumps({name: asdict(shape) for name, shape in shapes.items()})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fifty.models", str(folder.resolve()), wanted],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=_WRITE_LIMIT_S,
        check=True,
    )
    # mlx-lm prints what it has quantised first.
    counts = json.loads(done.stdout.splitlines()[-1])
    return {name: Written(name, folder.resolve() / name, counts[name]) for name in NAMES}


def write_random(folder: Path, shape: Shape) -> int:
    """Write random weights and their configuration; return how many there are. Needs MLX."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import quantize_model, save_config, save_model

    mx.random.seed(_SEED)
    config = shape.to_config()
    network = Model(ModelArgs.from_dict(config))
    weights = [
        (name, mx.random.normal(value.shape) * _scale(name, value.shape))
        if value.ndim == 2
        else (name, value)
        for name, value in tree_flatten(network.parameters())
    ]
    network.update(tree_unflatten(weights))
    if shape.bits:
        network, config = quantize_model(network, config, group_size=64, bits=shape.bits)
    mx.eval(network.parameters())
    save_model(folder, network)
    save_config(config, folder / "config.json")
    return sum(value.size for _, value in weights)


def _scale(name: str, shape: tuple[int, ...]) -> float:
    return 1.0 if "embed" in name else _SPREAD / float(shape[1]) ** 0.5


def _write_embedded(folder: Path) -> int:
    """Copy the built-in model without its end token."""
    import mlx.core as mx

    shutil.copy(BUILTIN / "model.safetensors", folder)
    config = json.loads((BUILTIN / "config.json").read_text())
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    return sum(value.size for value in mx.load(str(folder / "model.safetensors")).values())


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Copy the embedded tokenizer without an end token, and add words up to the vocabulary."""
    tokenizer = json.loads((BUILTIN / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    # No merge makes them, so that texts are encoded as before; the first sign stands for a space.
    words.update({f"\u0120word{index}": index for index in range(len(words), vocabulary)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((BUILTIN / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _main(folder: Path, wanted: dict[str, dict[str, int]]) -> None:
    """Write the models and print how many parameters each has."""
    counts = {}
    for name in NAMES:
        (folder / name).mkdir()
        shape = Shape(**wanted[name]) if name in wanted else None
        write_tokenizer(folder / name, shape.vocabulary if shape else 0)
        counts[name] = (
            write_random(folder / name, shape) if shape else _write_embedded(folder / name)
        )
    print(json.dumps(counts))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), json.loads(sys.argv[2]))
