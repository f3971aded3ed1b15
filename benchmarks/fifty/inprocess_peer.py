"""The same models without a process between: what mlx-lm itself does, on request.

One question after the other with `stream_generate`, all of them in one `BatchGenerator`, or with a
draft model. It is given token ids and makes text, as the others do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.processes import serve
from isthmus.engine.blas import interpose


class Peer:
    """A loaded model and what is asked of it."""

    def __init__(self) -> None:
        self._blas = interpose()
        self._model: Any = None
        self._tokenizer: Any = None

    def start(self, source: str, text: str) -> dict[str, Any]:
        """Load a model and make a first token; the caller has started a clock with this process."""
        from mlx_lm import load

        self._model, self._tokenizer = load(source)[:2]
        ids = self.prompts([text])["ids"][0]
        self._answer(ids, 1, 0.0)
        return {"blas": self._blas.name, "ids": ids}

    def prompts(self, questions: list[str]) -> dict[str, Any]:
        """Return what the chat template makes of each question."""
        render = self._tokenizer.apply_chat_template
        chats = [[{"role": "user", "content": question}] for question in questions]
        return {"ids": [list(render(chat, add_generation_prompt=True)) for chat in chats]}

    def ask(
        self, questions: list[dict[str, Any]], atOnce: int, maxTokens: int, temperature: float
    ) -> dict[str, Any]:
        """Answer one question after the other."""
        if atOnce != 1:
            raise ValueError("stream_generate answers one at a time")
        start = time.perf_counter()
        answers = [self._answer(each["ids"], maxTokens, temperature) for each in questions]
        wall_ms = _ms_since(start)
        _settle()
        return {"wallMs": wall_ms, "answers": answers}

    def _answer(
        self, ids: list[int], max_tokens: int, temperature: float, **options: Any
    ) -> dict[str, Any]:
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_sampler

        start = time.perf_counter()
        sampler = make_sampler(temperature)
        tokens: list[int] = []
        text: list[str] = []
        ttft_ms = first_text_ms = None
        for response in stream_generate(
            self._model, self._tokenizer, ids, max_tokens, sampler=sampler, **options
        ):
            tokens.append(response.token)
            text.append(response.text)
            ttft_ms = ttft_ms or _ms_since(start)
            if response.text and first_text_ms is None:
                first_text_ms = _ms_since(start)
        response_ms = _ms_since(start)
        return {
            "responseMs": response_ms,
            "ttftMs": ttft_ms,
            "firstTextMs": first_text_ms or response_ms,
            "tokens": len(tokens),
            "promptTokens": len(ids),
            "cachedTokens": 0,
            "ids": tokens,
            "text": "".join(text),
        }

    def batch(
        self, questions: list[dict[str, Any]], atOnce: int, maxTokens: int, temperature: float
    ) -> dict[str, Any]:
        """Answer all of them in one `BatchGenerator`, `atOnce` in its batch; ids, without text."""
        from mlx_lm.generate import BatchGenerator
        from mlx_lm.sample_utils import make_sampler

        start = time.perf_counter()
        generator = BatchGenerator(
            self._model, sampler=make_sampler(temperature), completion_batch_size=atOnce
        )
        uids = generator.insert([each["ids"] for each in questions], [maxTokens] * len(questions))
        ids: dict[int, list[int]] = {uid: [] for uid in uids}
        first: dict[int, float] = {}
        last: dict[int, float] = {}
        while responses := generator.next_generated():
            now = _ms_since(start)
            for response in responses:
                ids[response.uid].append(response.token)
                first.setdefault(response.uid, now)
                last[response.uid] = now
        generator.close()
        wall_ms = _ms_since(start)
        _settle()
        answers = [_batched(ids[uid], first[uid], last[uid]) for uid in uids]
        return {"wallMs": wall_ms, "answers": answers}

    def speculate(
        self, questions: list[dict[str, Any]], maxTokens: int, draft: str
    ) -> dict[str, Any]:
        """Answer each question plainly and with a draft model, in turns; tokens a second."""
        from mlx_lm import load

        self._tokenizer.eos_token_ids = set()
        drafter = load(draft)[0]
        seconds = {"plain": 0.0, "speculative": 0.0}
        tokens = 0
        for each in questions:
            plain = self._answer(each["ids"], maxTokens, 0.0)
            drafted = self._answer(each["ids"], maxTokens, 0.0, draft_model=drafter)
            seconds["plain"] += plain["responseMs"] / 1e3
            seconds["speculative"] += drafted["responseMs"] / 1e3
            tokens += maxTokens
        return {way: tokens / spent for way, spent in seconds.items()}


def _batched(ids: list[int], first_ms: float, last_ms: float) -> dict[str, Any]:
    return {
        "responseMs": last_ms,
        "ttftMs": first_ms,
        "firstTextMs": first_ms,
        "tokens": len(ids),
        "promptTokens": 0,
        "cachedTokens": 0,
        "ids": ids,
    }


def _settle() -> None:
    """Wait for the step that mlx-lm begins after the last token, so that nobody else's turn has
    it."""
    import mlx.core as mx
    from mlx_lm.generate import generation_stream

    mx.synchronize(generation_stream)


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    """Answer commands on standard input."""
    peer = Peer()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "start": peer.start,
        "prompts": peer.prompts,
        "ask": peer.ask,
        "batch": peer.batch,
        "speculate": peer.speculate,
    }
    serve(operations, sys.stdin)


if __name__ == "__main__":
    main()
