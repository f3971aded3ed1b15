"""What a model needs is told from its headers and its configuration, before it is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from isthmus.limits import KV_ROOM_TOKENS, KV_UNKNOWN_PART
from isthmus.models import BUILTIN_ROOT
from isthmus.models.room import kv_token_bytes, room_of
from isthmus.models.verify import VerifiedModel, verify

LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}
LLAMA_TOKEN = 2 * 32 * 8 * 128 * 2
"""Keys and values, layers, heads, head size, bytes of a number."""


def verified(config: dict[str, Any], weights: int = 1_000, context: int | None = None) -> Any:
    """Return a folder's description."""
    return cast(
        VerifiedModel,
        SimpleNamespace(
            config=config, dtype="float16", weight_bytes=weights, context_length=context
        ),
    )


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        (LLAMA, "bfloat16", LLAMA_TOKEN),
        (LLAMA, "float32", 2 * LLAMA_TOKEN),
        ({**LLAMA, "head_dim": 64}, "float16", LLAMA_TOKEN // 2),
        ({**LLAMA, "num_key_value_heads": None}, "float16", LLAMA_TOKEN * 4),
        ({**LLAMA, "num_key_value_heads": [2, None, 8]}, "float16", LLAMA_TOKEN),
        ({"text_config": LLAMA}, "float16", LLAMA_TOKEN),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768}, "float16", 2 * 12 * 12 * 64 * 2),
        ({"num_hidden_layers": 4}, "float16", None),
        ({}, None, None),
    ],
)
def test_a_token_of_kv_cache(config: dict[str, Any], dtype: str, expected: int | None) -> None:
    assert kv_token_bytes(config, dtype) == expected


def test_room_is_weights_adapter_and_tokens() -> None:
    room = room_of(verified(LLAMA), 50, 10)
    assert (room.weight_bytes, room.kv_bytes) == (1_050, 10 * LLAMA_TOKEN)
    assert room.total_bytes == 1_050 + 10 * LLAMA_TOKEN


@pytest.mark.parametrize(
    ("context", "tokens"), [(None, KV_ROOM_TOKENS), (1 << 17, KV_ROOM_TOKENS), (512, 512)]
)
def test_room_is_kept_for_the_context_up_to_a_bound(context: int | None, tokens: int) -> None:
    assert room_of(verified(LLAMA, context=context), 0, None).kv_tokens == tokens


def test_an_unknown_architecture_takes_a_share_of_its_weights() -> None:
    weights = 10**9
    room = room_of(verified({}, weights), 0, None)
    assert abs(room.kv_bytes - weights * KV_UNKNOWN_PART) < KV_ROOM_TOKENS


def test_the_built_in_model_needs_what_mlx_lm_allocates_for_it() -> None:
    found = verify(BUILTIN_ROOT / "chat", trust_remote_code=False)
    room = room_of(found, 0, 100)
    assert room.kv_bytes == 100 * 2 * 6 * 4 * 32 * 4
    assert room.weight_bytes == found.weight_bytes
