"""Bare mlx-lm in one process, without text, sessions or requests: the floor of each state.

Cold is `generate_step` on an empty cache. Hot is one forward pass over the new tokens on a cache in
memory; warm the same after `load_prompt_cache`. Each goes on greedily to as many tokens as the
others. A cache ends before the last token, as that of a session does.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from benchmarks.processes import serve
from isthmus.engine.blas import interpose

_WARM_UP: Final = list(range(64))


class Peer:
    """A loaded model, and the caches of conversations by their names."""

    def __init__(self) -> None:
        self._blas = interpose()
        self._model: Any = None
        self._caches: dict[str, list[Any]] = {}

    def start(self, source: str) -> dict[str, Any]:
        """Load a model and run a few tokens."""
        from mlx_lm import load

        self._model = load(source)[0]
        self.uncached(_WARM_UP, 2, len(_WARM_UP))
        return {"blas": self._blas.name}

    def cold(self, name: str, ids: list[int], maxTokens: int, step: int) -> dict[str, Any]:
        """Answer from nothing, and keep the cache."""
        from mlx_lm.models.cache import make_prompt_cache

        self._caches[name] = make_prompt_cache(self._model)
        return self._generate(self._caches[name], ids, maxTokens, step)

    def uncached(self, ids: list[int], maxTokens: int, step: int) -> dict[str, Any]:
        """Answer from nothing, and keep nothing."""
        from mlx_lm.models.cache import make_prompt_cache

        return self._generate(make_prompt_cache(self._model), ids, maxTokens, step)

    def hot(self, name: str, ids: list[int], maxTokens: int) -> dict[str, Any]:
        """Answer on a cache in memory."""
        return self._go_on(self._caches[name], ids, maxTokens, time.perf_counter())

    def save(self, name: str, file: str) -> dict[str, Any]:
        """Write a cache, and drop it."""
        from mlx_lm.models.cache import save_prompt_cache

        save_prompt_cache(file, self._caches.pop(name))
        return {}

    def warm(self, file: str, ids: list[int], maxTokens: int) -> dict[str, Any]:
        """Answer on a cache from a file."""
        import mlx.core as mx
        from mlx_lm.models.cache import load_prompt_cache

        start = time.perf_counter()
        cache = load_prompt_cache(file)
        mx.eval([layer.state for layer in cache])
        load_ms = _ms_since(start)
        return {**self._go_on(cache, ids, maxTokens, start), "loadMs": load_ms}

    def _go_on(
        self, cache: list[Any], ids: list[int], max_tokens: int, start: float
    ) -> dict[str, Any]:
        """Run one pass over the new tokens, then the other tokens one by one."""
        import mlx.core as mx

        logits = self._model(mx.array(ids)[None], cache=cache)[:, -1, :]
        first = int(mx.argmax(logits, axis=-1).item())
        ttft_ms = _ms_since(start)
        rest = self._generate(cache, [first], max_tokens - 1, 1) if max_tokens > 1 else {"ids": []}
        return {"ttftMs": ttft_ms, "totalMs": _ms_since(start), "ids": [first, *rest["ids"]]}

    def _generate(
        self, cache: list[Any], ids: list[int], max_tokens: int, step: int
    ) -> dict[str, Any]:
        import mlx.core as mx
        from mlx_lm.generate import generate_step, generation_stream
        from mlx_lm.models.cache import trim_prompt_cache

        end = cache[0].offset + len(ids) + max_tokens - 1
        start = time.perf_counter()
        tokens: list[int] = []
        ttft_ms = 0.0
        steps = generate_step(
            mx.array(ids),
            self._model,
            max_tokens=max_tokens,
            prompt_cache=cache,
            prefill_step_size=step,
        )
        for token, _ in steps:
            tokens.append(int(token))
            ttft_ms = ttft_ms or _ms_since(start)
        total_ms = _ms_since(start)
        # It has begun a step after the last token.
        mx.synchronize(generation_stream)
        trim_prompt_cache(cache, cache[0].offset - end)
        return {"ttftMs": ttft_ms, "totalMs": total_ms, "ids": tokens}


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Answer commands on standard input."""
    peer = Peer()
    operations = ("start", "cold", "uncached", "hot", "save", "warm")
    serve({name: getattr(peer, name) for name in operations}, sys.stdin)


if __name__ == "__main__":
    main()
