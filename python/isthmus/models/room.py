"""How much memory a model needs, told from its headers and its configuration before it is loaded.

Weights are as large as their files say. Room for the KV cache is 2 * layers * KV heads * head size
* bytes of a number * tokens, which is what mlx-lm allocates for plain attention; architectures that
keep less (a sliding window, a latent, a state) need less than that. Where a configuration does not
state these sizes, a share of the weights is taken instead. Reads nothing and knows no budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..limits import KV_ROOM_TOKENS, KV_UNKNOWN_PART
from .config import inner_configs
from .verify import VerifiedModel

_LAYERS: Final = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_HEADS: Final = ("num_attention_heads", "n_heads", "n_head")
_KV_HEADS: Final = ("num_key_value_heads", "n_kv_heads", "n_head_kv", *_HEADS)
_WIDTH: Final = ("hidden_size", "d_model", "n_embd", "dim")
_HEAD_SIZE: Final = ("head_dim",)
_KEYS_AND_VALUES: Final = 2


@dataclass(frozen=True, slots=True)
class Room:
    """What a model holds of the memory budget."""

    weight_bytes: int
    kv_bytes: int
    kv_tokens: int

    @property
    def total_bytes(self) -> int:
        """What it is counted with."""
        return self.weight_bytes + self.kv_bytes


NO_ROOM: Final = Room(0, 0, 0)
"""Of a model without weights."""


def room_of(verified: VerifiedModel, adapter_bytes: int, kv_tokens: int | None) -> Room:
    """Return what a model needs.

    Args:
        adapter_bytes: Of the adapter's weights; 0 without one.
        kv_tokens: Tokens to keep room for; None takes the context length, at most
            `KV_ROOM_TOKENS`.
    """
    if kv_tokens is None:
        kv_tokens = min(verified.context_length or KV_ROOM_TOKENS, KV_ROOM_TOKENS)
    token_bytes = kv_token_bytes(verified.config, verified.dtype)
    if token_bytes is None:
        token_bytes = int(verified.weight_bytes * KV_UNKNOWN_PART / KV_ROOM_TOKENS)
    return Room(verified.weight_bytes + adapter_bytes, token_bytes * kv_tokens, kv_tokens)


def kv_token_bytes(config: Mapping[str, Any], dtype: str | None) -> int | None:
    """Return the bytes of KV cache that a token takes; None when the configuration has no sizes."""
    layers, heads = _size(config, _LAYERS), _size(config, _KV_HEADS)
    head_size = _size(config, _HEAD_SIZE)
    if head_size is None:
        width, queries = _size(config, _WIDTH), _size(config, _HEADS)
        head_size = width // queries if width and queries else None
    if layers is None or heads is None or head_size is None:
        return None
    number_bytes = 4 if dtype == "float32" else 2
    return _KEYS_AND_VALUES * layers * heads * head_size * number_bytes


def _size(config: Mapping[str, Any], fields: Sequence[str]) -> int | None:
    """Return the first size that is stated; where there is one for each layer, the largest."""
    for part in (config, *inner_configs(config)):
        for field in fields:
            value = part.get(field)
            stated = [size for size in (value if isinstance(value, list) else [value]) if size]
            if stated and all(type(size) is int and size > 0 for size in stated):
                return int(max(stated))
    return None
