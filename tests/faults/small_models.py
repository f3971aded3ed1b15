"""Small model folders with known behaviour, written with the standard library alone.

`write_chain` makes a Llama that is a table: each token is followed by the one that the table names,
because its embedding is one-hot and attention and MLP add nothing. `write_deep` makes one of random
weights, whose prefill of a long prompt takes minutes in chunks of a fraction of a second. Both have
a tokenizer of single bytes: token n is byte n.
"""

from __future__ import annotations

import json
import random
import struct
from array import array
from pathlib import Path
from typing import Any

VOCABULARY = 320
END_TOKEN = 256
CONTEXT = 1 << 17

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_NORM = "model.norm.weight"


def write_chain(
    folder: Path,
    follows: dict[int, int],
    overflow: dict[int, str] | None = None,
    chat_template: str | None = None,
) -> Path:
    """Write a model whose greedy token after `a` is `follows[a]`, or `a` again when not listed.

    Args:
        overflow: Tokens after which the logits are `nan`, `inf` (one of them) or `masked` (all
            minus infinity), though every weight is finite.
    """
    size = VOCABULARY
    tensors = _layers(size, 8, 1, lambda count: array("f", bytes(4 * count)))
    head = array("f", bytes(4 * size * size))
    embedding = array("f", bytes(4 * size * size))
    norm = array("f", [1.0] * size)
    for token in range(size):
        embedding[token * size + token] = 1.0
        head[follows.get(token, token) * size + token] = 1.0
    for token, kind in (overflow or {}).items():
        for row in range(size):
            head[row * size + token] = -1e30 if kind == "masked" else 0.0
        if kind == "inf":
            head[7 * size + token] = 3e38
        else:
            norm[token] = 1e12 if kind == "masked" else 3e38
    tensors |= {_EMBEDDING: ([size, size], embedding), _HEAD: ([size, size], head)}
    tensors[_NORM] = ([size], norm)
    return _write(folder, size, 8, 1, 1, tensors, chat_template)


def write_deep(folder: Path, layers: int = 8, width: int = 128) -> Path:
    """Write a model of random weights."""
    rng = random.Random(7)
    block = array("f", (rng.gauss(0.0, 0.02) for _ in range(1 << 16)))

    def noise(count: int) -> array[float]:
        copies = block * (count // len(block) + 1)
        return copies[:count]

    tensors = _layers(width, 2 * width, layers, noise)
    tensors[_EMBEDDING] = ([VOCABULARY, width], noise(VOCABULARY * width))
    tensors[_HEAD] = ([VOCABULARY, width], noise(VOCABULARY * width))
    tensors[_NORM] = ([width], array("f", [1.0] * width))
    return _write(folder, width, 2 * width, layers, 4, tensors, None)


def _layers(width: int, inner: int, count: int, weights: Any) -> dict[str, tuple[list[int], Any]]:
    tensors: dict[str, tuple[list[int], Any]] = {}
    for layer in range(count):
        prefix = f"model.layers.{layer}"
        for name in "qkvo":
            tensors[f"{prefix}.self_attn.{name}_proj.weight"] = (
                [width, width],
                weights(width * width),
            )
        for name, shape in (
            ("gate_proj", [inner, width]),
            ("up_proj", [inner, width]),
            ("down_proj", [width, inner]),
        ):
            tensors[f"{prefix}.mlp.{name}.weight"] = (shape, weights(width * inner))
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = ([width], array("f", [1.0] * width))
    return tensors


def _write(
    folder: Path,
    width: int,
    inner: int,
    layers: int,
    heads: int,
    tensors: dict[str, tuple[list[int], Any]],
    chat_template: str | None,
) -> Path:
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "eos_token_id": END_TOKEN,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    _write_weights(folder / "model.safetensors", tensors)
    return folder


def _write_weights(path: Path, tensors: dict[str, tuple[list[int], Any]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for name, (shape, values) in tensors.items():
        end = offset + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for _, values in tensors.values():
            file.write(values.tobytes())


def _tokenizer() -> dict[str, Any]:
    """A byte-level tokenizer without merges, in which a token's id is its byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {letters[byte]: byte for byte in range(256)} | {"<|end|>": END_TOKEN}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": END_TOKEN, "content": "<|end|>", "special": True, **special},
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", **byte_level},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", **byte_level},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def put_nan(weights: Path, tensor: str) -> None:
    """Make the first number of an fp32 tensor one that is none."""
    with weights.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        begin, _ = json.loads(file.read(length))[tensor]["data_offsets"]
        file.seek(8 + length + begin)
        file.write(struct.pack("<f", float("nan")))
