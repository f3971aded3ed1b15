"""mlx-lm in one process with one model at a time: each switch lets go of one and loads the next.

What it frees it gives back, so that it never holds two.
"""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

from benchmarks.processes import serve
from isthmus.engine.blas import interpose


class Peer:
    """The model at hand, and what is asked of it."""

    def __init__(self) -> None:
        self._blas = interpose()
        self._model: Any = None
        self._tokenizer: Any = None

    def ids(self, source: str, text: str) -> dict[str, Any]:
        """Return the token ids of a text, and which BLAS is in use."""
        from mlx_lm.utils import load_tokenizer

        return {"ids": load_tokenizer(source).encode(text), "blas": self._blas.name}

    def switch(self, source: str, ids: list[int], maxTokens: int) -> dict[str, Any]:
        """Load another model and answer with it."""
        import mlx.core as mx
        from mlx_lm import load

        start = time.perf_counter()
        self._model = self._tokenizer = None
        gc.collect()
        mx.clear_cache()
        self._model, self._tokenizer = load(source)[:2]
        loaded = time.perf_counter()
        tokens = self._answer(ids, maxTokens)
        return {"loadS": loaded - start, "totalS": time.perf_counter() - start, "ids": tokens}

    def _answer(self, ids: list[int], max_tokens: int) -> list[int]:
        from mlx_lm import stream_generate

        responses = stream_generate(self._model, self._tokenizer, ids, max_tokens)
        return [response.token for response in responses]


def main() -> None:
    """Answer commands on standard input."""
    peer = Peer()
    serve({"ids": peer.ids, "switch": peer.switch}, sys.stdin)


if __name__ == "__main__":
    main()
