"""Whatever state a session is in, its logits are those of a run without it, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.llama import Model, ModelArgs

from tests.fixtures.tiny_models import CONFIG
from tests.python.engine.session_rig import Answer, alone, rig, text

COUNT = 64
DTYPES = ["float32", "bfloat16", "float16"]
LENGTHS = [700, 1_024, 1_025]
"""Inside a chunk of 256 tokens, at the end of one, and one after it."""


def llama(dtype: str, **extra: Any) -> Any:
    """Return a Llama of random weights."""
    mx.random.seed(11)
    model = Model(ModelArgs.from_dict({**CONFIG, **extra}))
    model.set_dtype(getattr(mx, dtype))
    mx.eval(model.parameters())
    return model


def assert_same(answer: Answer, expected: Answer) -> None:
    """The tokens are the same, and every logit has the same bits."""
    assert answer.ids == expected.ids
    for place, (row, other) in enumerate(zip(answer.logits, expected.logits, strict=True)):
        assert np.array_equal(row.view(np.uint32), other.view(np.uint32)), f"token {place}"


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
async def test_cold_hot_warm_and_restarted_have_the_same_bits(
    dtype: str, length: int, tmp_path: Path
) -> None:
    network, prompt = llama(dtype), text(3, length)
    expected = alone(network, prompt, COUNT)
    async with rig(network, tmp_path) as first:
        cold = await first.generate("a", prompt, COUNT)
        hot = await first.generate("a", prompt, COUNT)
        assert (await first.evict("a"))["evicted"]
        warm = await first.generate("a", prompt, COUNT)
    async with rig(network, tmp_path) as second:
        restarted = await second.generate("a", prompt, COUNT)
    states = [(each.state, each.reused) for each in (cold, hot, warm, restarted)]
    reused = length - 1
    assert states == [("cold", 0), ("hot", reused), ("warm", reused), ("warm", reused)]
    for answer in (cold, hot, warm, restarted):
        assert_same(answer, expected)


@pytest.mark.parametrize("dtype", DTYPES)
async def test_a_sliding_window_is_gone_on_with_where_it_was(dtype: str, tmp_path: Path) -> None:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
    network, prompt = llama(dtype, **layers), text(4, 700)
    async with rig(network, tmp_path) as first:
        cold = await first.generate("a", prompt, COUNT)
        hot = await first.generate("a", prompt, COUNT)
        longer = [*prompt, *cold.ids[:-1]]
        await first.evict("a")
        warm = await first.generate("a", prompt, COUNT)
        grown = await first.generate("a", [*longer, 9, 8, 7], COUNT)
    async with rig(network, tmp_path) as second:
        again = await second.generate("a", prompt, COUNT)
        other = await second.generate("b", [*prompt[:500], *text(5, 30)], COUNT)
    for answer in (cold, hot, warm, again):
        assert_same(answer, alone(network, prompt, COUNT))
    assert [each.reused for each in (cold, hot, warm, again)] == [0, 699, 699, 699]
    # The window has moved on: what is needed for another end is not there any more.
    assert other.reused == 0 and grown.reused >= 699
    assert grown.ids == alone(network, [*longer, 9, 8, 7], COUNT).ids


async def test_an_unknown_kind_of_cache_is_kept_in_memory_only(tmp_path: Path) -> None:
    from mlx_lm.models.cache import KVCache

    class OwnCache(KVCache):
        """A kind that nobody has heard of."""

    class Odd:
        """A model that keeps it."""

        def __init__(self, inner: Any) -> None:
            self._inner, self.layers = inner, inner.layers

        def make_cache(self) -> list[Any]:
            """Return its caches."""
            return [OwnCache() for _ in self.layers]

        def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
            """Return the logits."""
            logits: mx.array = self._inner(tokens, cache=cache)
            return logits

    network, prompt = Odd(llama("float32")), text(6, 300)
    async with rig(network, tmp_path) as first:
        assert first.model.layout is None
        await first.generate("a", prompt, 8)
        hot = await first.generate("a", prompt, 8)
        assert (hot.state, hot.reused) == ("hot", 299)
        saved = await first.save("a")
        assert not saved["saved"] and "stays in memory" in saved["reason"]
        assert not (await first.evict("a"))["evicted"]
    async with rig(network, tmp_path) as second:
        cold = await second.generate("a", prompt, 8)
    assert (cold.state, cold.ids) == ("cold", hot.ids)


@pytest.mark.parametrize("kv", ["q8", "k8v4", "q4"])
async def test_other_formats_are_read_back_and_never_shared_with_native_sessions(
    kv: str, tmp_path: Path
) -> None:
    network, prompt = llama("float16"), text(7, 600)
    async with rig(network, tmp_path) as first:
        await first.generate("a", prompt, 4, kv=kv)
        hot = await first.generate("b", prompt, 4)
        assert hot.reused == 0
        await first.save("b")
        size = {each["id"]: each["disk_bytes"] for each in await first.manager.infos("")}
    assert size["a"] < size["b"] * {"q8": 0.62, "k8v4": 0.5, "q4": 0.38}[kv]
    async with rig(network, tmp_path) as second:
        warm = await second.generate("a", prompt, 4, kv=kv)
        assert (warm.state, warm.reused) == ("warm", 599)
        # What was read is not exact: whoever wants native tokens does not get it.
        native = await second.generate("a", prompt, 4, kv="native")
        assert native.reused == 0 or native.state == "warm"
        assert_same(native, alone(network, prompt, 4))
