"""The same model without a process between: `mlx_lm.stream_generate` in a loop, on request.

It is given the same token ids and the same BLAS as the runtime, and the end tokens are taken from
its tokenizer so that both generate as many tokens.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import serve
from isthmus.engine.blas import interpose


def main() -> None:
    """Load the model in the folder given on the command line and answer commands."""
    blas = interpose()
    from mlx_lm import load, stream_generate

    model, tokenizer = load(sys.argv[1])[:2]
    tokenizer.eos_token_ids = set()

    def generate(ids: list[int], maxTokens: int) -> dict[str, Any]:
        start = time.perf_counter()
        times: list[float] = []
        tokens: list[int] = []
        for response in stream_generate(model, tokenizer, ids, max_tokens=maxTokens):
            tokens.append(response.token)
            times.append(time.perf_counter())
        return {
            "tokens": tokens,
            "ttftMs": (times[0] - start) * 1e3,
            "tokenUs": (times[-1] - times[0]) * 1e6 / (len(times) - 1),
        }

    def write_deep(folder: str, layers: int) -> dict[str, Any]:
        write_deep_model(Path(folder), Path(sys.argv[1]), layers)
        return {"blas": blas.to_wire()}

    serve({"generate": generate, "write_deep": write_deep}, sys.stdin)


def write_deep_model(folder: Path, tokenizer: Path, layers: int) -> None:
    """Write a Llama with random weights, many layers and a small width, and a copied tokenizer."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    config = json.loads((tokenizer / "config.json").read_text())
    config.update(num_hidden_layers=layers, hidden_size=128, intermediate_size=256)
    network = llama.Model(llama.ModelArgs.from_dict(config))
    mx.random.seed(7)
    weights = {
        name: mx.random.normal(value.shape) * 0.02 + (1.0 if "norm" in name else 0.0)
        for name, value in tree_flatten(network.parameters())
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})


if __name__ == "__main__":
    main()
