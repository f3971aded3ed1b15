"""One generation on one model: chunks of its prompt, then a token a step.

Alone, the arithmetic is that of `mlx_lm.generate.generate_step`, cut into steps that a scheduler
can interleave, cancel and pause, with the next token dispatched before this one is read; greedy
tokens are identical to mlx-lm's. In fp32, a pass that is shared with others, a prompt cut elsewhere
or a reused cache changes the last bits of the logits. So a sequence that may be off by rounding
notices when rounding may decide a token, evaluates itself again, alone and from its first token,
and goes on alone: its tokens are those that it would have had alone. Called on the engine thread
only; knows nothing of requests, text or the wire.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from ..sessions.layout import Layout
from .arrays import Floats
from .kv_layers import Checkpoint, copy_states, make_room
from .plan import Plan, Token
from .sampling import Sampler, check_finite

_ROUNDING_UNITS: Final = 64.0
"""By how many units of the last place an fp32 logit may differ from that of the sequence alone;
measured with OpenBLAS: up to 30. In 16 bits none was seen on a CPU, where sums are made in fp32 and
rounded once; Metal was not measured."""

CLEAR_CACHE_EVERY: Final = 256
"""Steps between two returns of unused buffers, as in mlx-lm."""

_MERGED_TOKENS: Final = 64
"""Prompt tokens, after a reused cache, whose pass also gives the first token: logits are computed
for each of them, which with more costs as much as the pass that is saved."""

_REPLAYED_STEPS: Final = 8
"""Tokens that are evaluated again in one step of the scheduler."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A dispatched step: `chosen` [1] when it was drawn lazily, `logits` [vocabulary] in fp32."""

    chosen: mx.array | None
    logits: mx.array


class Sequence:
    """The state of one generation.

    Attributes:
        tokens: The prompt and what was generated.
        cache: Of `evaluated` tokens; None while it belongs to a batch.
        cached: Tokens of the prompt that were not evaluated, but reused.
        cache_state: Where those came from: `hot` (memory), `warm` (disk), or `cold`: nowhere.
        checkpoints: The state layers as they were after the prompt, of a session.
        layout: What the cache looks like, if that is known; then it begins as large as the prompt.
        alone_reason: Why it shares no passes; None if it may.
        room: Tokens that `decode` may return at most.

    Args:
        network: The mlx-lm model.
        vocab_size: Columns of its logits.
        plan: What is generated.
        chunk_tokens: Prompt tokens of a chunk when it is alone.
        stream: Where its own passes run.
        is_rounded: Whether the company of others changes the last bits of the logits.
    """

    def __init__(
        self,
        network: Any,
        vocab_size: int,
        plan: Plan,
        chunk_tokens: int,
        stream: Any,
        is_rounded: bool = True,
    ) -> None:
        self.network = network
        self.is_rounded = is_rounded
        self.plan = plan
        self.stream = stream
        self.sampler = Sampler(plan.sampling, vocab_size)
        self.tokens = list(plan.prompt)
        self.cache: list[Any] | None = make_prompt_cache(network)
        self.prefilled = self.cached = self.decoded = 0
        self.cache_state = "cold"
        self.checkpoints: list[Checkpoint] = []
        self.layout: Layout | None = None
        self.alone_reason: str | None = None if plan.may_batch else "requested"
        self.was_batched = False
        self.room = plan.max_tokens
        self._chunk_tokens = chunk_tokens
        self._pending: _Step | None = None
        self._is_exact = True
        self._replayed: int | None = None

    @property
    def remaining(self) -> int:
        """Prompt tokens to evaluate before the first step of decoding; that takes the last one."""
        return len(self.plan.prompt) - 1 - self.prefilled

    @property
    def is_prefilling(self) -> bool:
        """Whether chunks of the prompt are left."""
        return self.remaining > 0

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow, by the constraint."""
        constraint = self.plan.constraint
        return self.decoded > 0 and constraint is not None and constraint.must_stop

    @property
    def is_complete(self) -> bool | None:
        """Whether the text is a whole match of the constraint; None if there is none."""
        constraint = self.plan.constraint
        return None if constraint is None else constraint.is_complete

    @property
    def has_pending(self) -> bool:
        """Whether a step is dispatched that was not read."""
        return self._pending is not None

    @property
    def is_replaying(self) -> bool:
        """Whether it evaluates itself again."""
        return self._replayed is not None

    @property
    def evaluated(self) -> int:
        """How many of `tokens` the cache holds."""
        if self._replayed is not None:
            return self._replayed
        if self.is_prefilling:
            return self.prefilled
        return len(self.tokens) - (0 if self.has_pending else 1)

    def reuse(self, cache: list[Any], tokens: int, state: str = "hot") -> None:
        """Begin with a cache of the prompt's first tokens, less than all of them."""
        self.cache = cache
        self.prefilled = self.cached = tokens
        self.cache_state = state
        self._is_exact = False

    def prefill(self, limit: int) -> None:
        """Evaluate the next chunk of the prompt, of up to so many tokens."""
        mx.eval(self.begin_prefill(limit))
        mx.clear_cache()

    def begin_prefill(self, limit: int) -> list[Any]:
        """Dispatch the next chunk; return what is to be evaluated."""
        count = min(limit, self._chunk_tokens, self.remaining)
        whole = self.prefilled % self._chunk_tokens == 0 and count in (
            self._chunk_tokens,
            self.remaining,
        )
        self._is_exact = self._is_exact and whole
        # State layers are marked before the last token, which then has a pass of its own.
        has_states = self.layout is not None and self.layout.has_states
        if self.cached and count == self.remaining <= _MERGED_TOKENS and not has_states:
            return self._begin_to_decode()
        made = self._extend(self.tokens[self.prefilled : self.prefilled + count])
        self.prefilled += count
        if not self.is_prefilling:
            self._mark()
        return made

    def prefilled_by_others(self) -> None:
        """Take note that the rest of the prompt was evaluated together with others."""
        self.prefilled = len(self.plan.prompt) - 1
        self._is_exact = False

    def joined(self) -> None:
        """Take note that the cache belongs to a batch now."""
        self.cache = None
        self.was_batched = True
        self._is_exact = False

    def shared_pass(self) -> None:
        """Take note that a pass had other rows than this token's."""
        self._is_exact = False

    def decode(self, keeps_going: bool = True) -> list[Token]:
        """Return the next token, with the one after it already dispatched if it keeps going; the
        first one at once, since on a CPU dispatching waits for most of a pass.

        Returns:
            One token; none while it evaluates itself again.

        Raises:
            NumericError: The logits were NaN, or all minus infinity.
            ConstraintFailed: The constraint allows no token.
        """
        if self._replayed is not None:
            self._replay()
            return []
        with mx.stream(self.stream):
            step, self._pending = self._pending, None
            if step is None:
                step = self._dispatch(mx.array(self.tokens[-1:]), self.decoded)
            goes_on = keeps_going and 0 < self.decoded < self.plan.max_tokens - 1
            if goes_on and step.chosen is not None:
                self._pending = self._dispatch(step.chosen, self.decoded + 1)
            found = self._read(step)
            if not found:
                self.replay("near_tie")
            elif goes_on and step.chosen is None and not self.is_finished:
                self._pending = self._dispatch(mx.array(self.tokens[-1:]), self.decoded)
            if self.decoded % CLEAR_CACHE_EVERY == 0:
                mx.clear_cache()
        return found

    def prepare(self) -> None:
        """Do what the next `take` needs besides logits, while the model is at work on them."""
        if self.plan.constraint is not None:
            self.plan.constraint.prepare()
        self.sampler.prepare(self.decoded)

    def take(self, logits: Floats, best: int | None = None) -> list[Token]:
        """Choose the next token from evaluated logits.

        Args:
            logits: Shape [vocabulary], after the processors.
            best: The greedy token, where the logits do not tell it: `LogitRows`.

        Returns:
            The token; none when rounding may have decided it.

        Raises:
            NumericError: The logits are NaN, or all minus infinity.
            ConstraintFailed: The constraint allows no token.
        """
        slack = self._slack(check_finite(logits, self.decoded))
        constraint = self.plan.constraint
        if constraint is not None:
            logits = logits.copy()
            constraint.mask(logits)
        elif best is not None and self.sampler.is_greedy:
            return self._append(best, logits)
        token = self.sampler.choose(logits, self.decoded, slack)
        if token is None:
            return []
        if constraint is not None:
            constraint.advance(token)
        return self._append(token, logits)

    def replay(self, reason: str) -> None:
        """Evaluate everything again, alone, and go on alone; `decode` does it in steps."""
        self.alone_reason = reason
        self.cache = make_prompt_cache(self.network)
        self.checkpoints = []
        self._pending, self._replayed, self._is_exact = None, 0, True
        self.prefilled = len(self.plan.prompt) - 1

    def end(self) -> None:
        """Let go of the cache."""
        self.cache = self._pending = None

    def report(self) -> dict[str, Any]:
        """Return what the result says of how it was generated."""
        state = "batched" if self.was_batched else "alone"
        return {
            "batching": {"state": state, "reason": self.alone_reason},
            "cache_state": self.cache_state,
        }

    def _begin_to_decode(self) -> list[Any]:
        """Dispatch the rest of the prompt and the first token in one pass. Alone the last token of
        a prompt has a pass of its own; after a reused cache the last bits differ anyway."""
        assert self.cache is not None
        fed = self.tokens[self.prefilled :]
        with mx.stream(self.stream):
            make_room(self.cache, len(fed), len(self.plan.prompt))
            self._pending = self._dispatch(mx.array(fed), 0)
        self.prefilled = len(self.plan.prompt) - 1
        return [entry.state for entry in self.cache]

    def _mark(self) -> None:
        """Keep the states after the prompt, if a session has some: they cannot be cut back to."""
        if self.plan.whose.owner and self.cache is not None:
            states = copy_states(self.cache)
            self.checkpoints = [(self.prefilled, states)] if states else []

    def _dispatch(self, fed: mx.array, position: int) -> _Step:
        logits = self.network(fed[None], cache=self.cache)[:, -1, :]
        known = len(self.plan.prompt) + position - 1
        logits = self.sampler.process(logits, self.tokens, known, fed[-1:])
        is_lazy = self.sampler.is_lazy and self.plan.constraint is None
        chosen = self.sampler.draw(logits, position) if is_lazy else None
        step = _Step(chosen, logits.squeeze(0).astype(mx.float32))
        mx.async_eval(step.logits, *(() if chosen is None else (chosen,)))
        if not is_lazy:
            self.prepare()
        return step

    def _read(self, step: _Step) -> list[Token]:
        logits = np.array(step.logits, copy=False)
        if step.chosen is None:
            return self.take(logits)
        slack = self._slack(check_finite(logits, self.decoded))
        token = int(step.chosen.item())
        if slack > 0.0 and self.sampler.choose(logits, self.decoded, slack) is None:
            return []
        return self._append(token, logits)

    def _append(self, token: int, logits: Floats) -> list[Token]:
        self.tokens.append(token)
        self.decoded += 1
        return [(token, logits)]

    def _slack(self, best: float) -> float:
        """Return by how much a logit may differ from that of the sequence alone."""
        if self._is_exact or not self.is_rounded:
            return 0.0
        return _ROUNDING_UNITS * float(np.finfo(np.float32).eps) * max(1.0, abs(best))

    def _extend(self, tokens: Tokens[int]) -> list[Any]:
        assert self.cache is not None
        with mx.stream(self.stream):
            make_room(self.cache, len(tokens), len(self.plan.prompt), self.layout)
            self.network(mx.array(tokens)[None], cache=self.cache)
        return [entry.state for entry in self.cache]

    def _replay(self) -> None:
        """Evaluate the next chunk of the prompt again, or the next few tokens, one by one."""
        assert self._replayed is not None
        prompt_end, end = len(self.plan.prompt) - 1, len(self.tokens) - 1
        if self._replayed < prompt_end:
            stop = min(self._replayed + self._chunk_tokens, prompt_end)
            mx.eval(self._extend(self.tokens[self._replayed : stop]))
        else:
            stop = min(self._replayed + _REPLAYED_STEPS, end)
            for place in range(self._replayed, stop):
                mx.eval(self._extend(self.tokens[place : place + 1]))
        self._replayed = None if stop == end else stop
