"""Writing of a trained network as an ordinary mlx-lm model folder.

Promises: the folder holds data only (JSON and safetensors); it appears whole, by one rename, so
a reader never sees half of it; the same tokenizer gives byte-identical files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from tokenizers import Tokenizer

from .network import NORM_EPSILON, ROPE_THETA, LlamaNetwork
from .tokenizer import CHAT_TEMPLATE, END, END_ID, PAD, PAD_ID, SPECIAL_TOKENS

MAX_POSITIONS = 4096


def model_config(network: LlamaNetwork) -> dict[str, object]:
    """Return the `config.json` of the network, in the fields that mlx-lm's llama reads."""
    shape = network.shape
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.head_size,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_THETA,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "dtype": "float32",
    }


def tokenizer_config() -> dict[str, object]:
    """Return the `tokenizer_config.json`, chat template included."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [t for t in SPECIAL_TOKENS if t not in (END, PAD)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITIONS,
        "chat_template": CHAT_TEMPLATE,
    }


def _write_json(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def export_model(network: LlamaNetwork, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the network and its tokenizer to `folder`, replacing what was there."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {name: value.float().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, fresh / "model.safetensors", metadata={"format": "mlx"})
    (fresh / "model.safetensors").chmod(0o644)  # the library makes it private
    _write_json(fresh / "config.json", model_config(network))
    _write_json(fresh / "tokenizer_config.json", tokenizer_config())
    _write_json(
        fresh / "generation_config.json",
        {"eos_token_id": END_ID, "pad_token_id": PAD_ID, "do_sample": False},
    )
    tokenizer.save(str(fresh / "tokenizer.json"))
    _replace(folder, fresh)


def _replace(folder: Path, fresh: Path) -> None:
    """Put `fresh` in the place of `folder`; a folder cannot be renamed onto a full one."""
    stale = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(stale, ignore_errors=True)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)
