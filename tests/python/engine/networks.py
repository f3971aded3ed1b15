"""Networks for tests of verification: real ones, made once, and tables that look like one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import generation_stream
from mlx_lm.models.llama import Model, ModelArgs

from isthmus.engine.draft import DraftBatch, DraftItem, Verdict
from isthmus.engine.generate import Sequence
from isthmus.engine.plan import Plan
from isthmus.engine.sampling import SamplingOptions, describe
from isthmus.errors import IsthmusError
from isthmus.models import BUILTIN_ROOT
from isthmus.models.network import load_network
from tests.fixtures.tiny_models import CONFIG

VOCAB_SIZE = 768
CHUNK_TOKENS = 512


@cache
def network(name: str) -> Any:
    """Return the built-in model, or a Llama of random weights: `tiny`, `q4`, `sliding`, `bf16`."""
    if name == "builtin":
        return load_network(BUILTIN_ROOT / "chat", None, False)[0]
    mx.random.seed(7)
    extra: dict[str, Any] = {}
    if name == "sliding":
        extra = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    model = Model(ModelArgs.from_dict({**CONFIG, **extra}))
    if name == "q4":
        nn.quantize(model, group_size=32, bits=4)
    if name == "bf16":
        model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    return model


class Watched:
    """A network that keeps the shapes it is called with, and may change the logits.

    Args:
        inner: The real one.
        change: Told the tokens and the logits, returns other logits.
    """

    def __init__(
        self, inner: Any, change: Callable[[mx.array, mx.array], mx.array] | None = None
    ) -> None:
        self.calls: list[tuple[int, int]] = []
        self._inner, self._change = inner, change

    @property
    def layers(self) -> Any:
        """As many as caches are needed."""
        return self._inner.layers

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """Return the logits."""
        self.calls.append((tokens.shape[0], tokens.shape[1]))
        logits: mx.array = self._inner(tokens, cache=cache)
        return logits if self._change is None else self._change(tokens, logits)


class Table:
    """A network without layers: the logits are the row of the last token.

    Args:
        probabilities: Shape [vocabulary, vocabulary].
    """

    layers: tuple[()] = ()

    def __init__(self, probabilities: Any) -> None:
        with np.errstate(divide="ignore"):
            self._logits = mx.array(np.log(np.asarray(probabilities, dtype=np.float32)))

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        """Return the logits."""
        return self._logits[tokens]


def generated(
    model: Any, prompt: list[int], options: SamplingOptions, count: int
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return what `generate` emits, and what it says of each token and the best three."""
    plan = Plan(prompt, options, count, may_batch=False)
    sequence = Sequence(model, VOCAB_SIZE, plan, CHUNK_TOKENS, generation_stream)
    while sequence.is_prefilling:
        sequence.prefill(CHUNK_TOKENS)
    ids, shown = [], []
    for _ in range(count):
        ((token, logits),) = sequence.decode()
        ids.append(token)
        shown.append(describe(logits, token, 3))
    return ids, shown


def verified(
    model: Any, items: list[DraftItem], chunk_tokens: int = CHUNK_TOKENS, vocab: int = VOCAB_SIZE
) -> list[Verdict | IsthmusError | None]:
    """Verify a batch to its end."""
    batch = DraftBatch(model, vocab, items, chunk_tokens)
    while not batch.step():
        pass
    return batch.results


def outcomes(results: Iterable[Verdict | IsthmusError | None]) -> list[tuple[int, int]]:
    """Return what was accepted and what follows."""
    pairs = []
    for result in results:
        assert isinstance(result, Verdict), result
        pairs.append((result.accepted, result.token))
    return pairs
