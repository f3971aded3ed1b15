"""Speculative decoding: several tokens a pass, drafted by a small model or from the text itself.

Lossless for every sampler. The target's token at each position is the one that it would choose
there anyway (a token is a function of the logits, the seed and the position), and a drafted token
stands while it is that one: greedy output is the target's own, and so is sampled output, token for
token. The draft model draws with the same noise, so that it agrees often. (Rounds and their costs:
Leviathan et al. 2023, arXiv 2211.17192; drafts from the text: Saxena 2023, prompt look-up
decoding.) How many tokens are drafted follows the measured acceptance and costs; plain steps take
over while speculation does not pay. Called on the engine thread only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

from .arrays import Floats
from .generate import Sequence
from .plan import Plan, Token
from .sampling import LogitRows, Sampler
from .speculation import DraftLength, PromptLookup, SpeculationCosts

_CATCH_UP_TOKENS: Final = 256
"""Tokens that the draft model evaluates in one step of the scheduler before it drafts."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """How tokens are drafted.

    Attributes:
        draft: The draft model's network, or None for prompt look-up.
        vocab_size: Columns of the draft model's logits.
        costs: What was measured of this pair, shared by its generations.
        limit: Most drafted tokens of a round.
    """

    draft: Any | None
    vocab_size: int
    costs: SpeculationCosts
    limit: int


class Drafter(Protocol):
    """Proposes what may come next."""

    def is_behind(self, tokens: list[int]) -> bool:
        """Evaluate some of the tokens that it has not seen; return whether many are left."""
        ...

    def propose(self, tokens: list[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow."""
        ...

    def keep(self, tokens: list[int]) -> bool:
        """Go back to where the text agrees with `tokens`; return whether it can go on."""
        ...


class SpeculativeSequence(Sequence):
    """A generation that drafts; the arguments are those of `Sequence` and how it drafts."""

    def __init__(
        self,
        network: Any,
        vocab_size: int,
        plan: Plan,
        chunk_tokens: int,
        stream: Any,
        is_rounded: bool,
        speculation: Speculation,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(network, vocab_size, plan, chunk_tokens, stream, is_rounded)
        self.alone_reason = "speculation"
        self._vocab_size = vocab_size
        self._speculation = speculation
        self._length = DraftLength(speculation.costs, speculation.limit)
        self._clock = clock
        self._stopped: str | None = None
        self._failure: Exception | None = None
        self._drafter: Drafter
        if speculation.draft is None:
            self._drafter = _TextDrafter(plan)
        else:
            self._drafter = _ModelDrafter(speculation.draft, speculation.vocab_size, plan, stream)

    def decode(self, keeps_going: bool = True) -> list[Token]:
        """Return the next tokens: one, or those of a round."""
        if self._failure is not None:
            raise self._failure
        if self.is_replaying or self._stopped is not None:
            return super().decode(keeps_going)
        room = min(self.room, self.plan.max_tokens - self.decoded) - 1
        count = self._length.next(room) if keeps_going else 0
        if count == 0:
            return self._plain(keeps_going)
        if self.has_pending:
            return super().decode(keeps_going=False)
        try:
            if self._drafter.is_behind(self.tokens):
                return []
            started = self._clock()
            drafted = self._draft(count)
        except Exception:  # whatever the draft raises, the target can do without it
            self._stopped = "draft_failed"
            return super().decode(keeps_going)
        return self._round(drafted, self._clock() - started)

    def end(self) -> None:
        """Let go of the caches."""
        super().end()
        del self._drafter

    def replay(self, reason: str) -> None:
        """Evaluate everything again, and go on without drafts."""
        super().replay(reason)
        self._stopped = self._stopped or reason

    def report(self) -> dict[str, Any]:
        """Return what the result says of how it was generated."""
        length = self._length
        speculation = {
            "kind": "prompt_lookup" if self._speculation.draft is None else "draft_model",
            "rounds": length.rounds,
            "drafted": length.drafted,
            "accepted": length.accepted,
            "acceptance_rate": length.acceptance_rate if length.drafted else None,
            "speedup": length.speedup,
            "stopped": self._stopped,
        }
        return {**super().report(), "speculation": speculation}

    def _plain(self, keeps_going: bool) -> list[Token]:
        is_steady = self.has_pending
        started = self._clock()
        found = super().decode(keeps_going)
        if is_steady and keeps_going:
            self._length.plain(self._clock() - started)
        return found

    def _draft(self, count: int) -> list[int]:
        """Return up to `count` tokens that the target knows."""
        with mx.stream(self.stream):
            drafted = self._drafter.propose(self.tokens, count)
        place = next((i for i, token in enumerate(drafted) if token >= self._vocab_size), None)
        return drafted[:place]

    def _round(self, drafted: list[int], draft_s: float) -> list[Token]:
        """Verify a draft in one pass, and keep what the target agrees with."""
        with mx.stream(self.stream):
            if self.plan.constraint is not None:
                drafted = drafted[: self.plan.constraint.validate(drafted)]
            started = self._clock()
            rows, best = self._verify(drafted)
            found = self._agreed(drafted, rows, best)
            accepted = len(found) - 1
            verify_s = self._clock() - started
            self._length.round(len(drafted), max(accepted, 0), draft_s, verify_s)
            if not self.is_replaying:
                self._rewind(len(drafted) - max(accepted, 0))
        return found

    def _verify(self, drafted: list[int]) -> tuple[Floats, list[int] | list[None]]:
        """Return the target's logits after the last token and after each drafted one, and the
        greedy tokens where logits do not tell them."""
        fed = mx.array([self.tokens[-1], *drafted], dtype=mx.uint32)
        logits = self.network(fed[None], cache=self.cache)[0]
        if self.sampler.processors:
            logits = self.sampler.process_rows(logits, [*self.tokens, *drafted])
        self.shared_pass()
        return LogitRows(logits).read()

    def _agreed(
        self, drafted: list[int], rows: Floats, best: list[int] | list[None]
    ) -> list[Token]:
        """Choose the target's tokens, up to the first that was not drafted."""
        found: list[Token] = []
        for place in range(len(drafted) + 1):
            try:
                taken = self.take(rows[place], best[place])
            except Exception as error:
                if not found:
                    raise
                # What came before it is still good.
                self._failure = error
                break
            if not taken:
                self.replay("near_tie")
                break
            found += taken
            if self.is_finished or [taken[0][0]] != drafted[place : place + 1]:
                break
        return found

    def _rewind(self, rejected: int) -> None:
        """Cut both caches back to the text."""
        assert self.cache is not None
        if rejected > 0 and trim_prompt_cache(self.cache, rejected) != rejected:
            self.replay("cache_not_trimmable")
        elif not can_trim_prompt_cache(self.cache):
            self._stopped = "cache_not_trimmable"
        elif not self._drafter.keep(self.tokens):
            self._stopped = "draft_cache_not_trimmable"


class _TextDrafter:
    """Drafts from the prompt and what was generated."""

    def __init__(self, plan: Plan) -> None:
        self._lookup = PromptLookup(plan.prompt)
        self._seen = len(plan.prompt)

    def is_behind(self, tokens: list[int]) -> bool:
        """Take new tokens."""
        self._lookup.extend(tokens[self._seen :])
        self._seen = len(tokens)
        return False

    def propose(self, tokens: list[int], count: int) -> list[int]:
        """Return what followed the last time that the text went like this."""
        proposed: list[int] = self._lookup.propose(count)
        return proposed

    def keep(self, tokens: list[int]) -> bool:
        """It never runs ahead of the text."""
        return True


class _ModelDrafter:
    """Drafts with a small model, with the sampler and the noise of the target."""

    def __init__(self, network: Any, vocab_size: int, plan: Plan, stream: Any) -> None:
        self._network = network
        self._sampler = Sampler(plan.sampling, vocab_size)
        self._prompt_tokens = len(plan.prompt)
        self._cache = make_prompt_cache(self._network)
        self._stream = stream
        self._held: list[int] = []
        self._begun = 0

    def is_behind(self, tokens: list[int]) -> bool:
        """Evaluate some of the tokens that it has not seen; return whether many are left."""
        missing = tokens[len(self._held) : -1]
        if len(missing) < _CATCH_UP_TOKENS:
            return False
        self._feed(missing[:_CATCH_UP_TOKENS])
        mx.eval([entry.state for entry in self._cache])
        return True

    def propose(self, tokens: list[int], count: int) -> list[int]:
        """Draw `count` tokens."""
        drafted: list[int] = []
        position, self._begun = len(tokens) - self._prompt_tokens, len(tokens)
        fed = tokens[len(self._held) :]
        for place in range(count):
            logits = self._feed(fed)
            if self._sampler.processors:
                logits = self._sampler.process_rows(logits, [*tokens, *drafted])
            values = np.array(logits[0].astype(mx.float32), copy=False)
            token = self._sampler.choose(values, position + place)
            assert token is not None  # without slack there always is one
            drafted.append(token)
            fed = [token]
        return drafted

    def keep(self, tokens: list[int]) -> bool:
        """Go back to where its cache agrees with `tokens`; return whether it can go on."""
        agreed, most = self._begun, min(len(self._held), len(tokens))
        while agreed < most and self._held[agreed] == tokens[agreed]:
            agreed += 1
        surplus = len(self._held) - agreed
        self._held = self._held[:agreed]
        can_trim: bool = can_trim_prompt_cache(self._cache)
        return can_trim and trim_prompt_cache(self._cache, surplus) == surplus

    def _feed(self, tokens: list[int]) -> mx.array:
        """Evaluate tokens; return the logits after the last one, shape [1, vocabulary]."""
        with mx.stream(self._stream):
            logits: mx.array = self._network(mx.array([tokens]), cache=self._cache)[:, -1, :]
        self._held += tokens
        return logits
