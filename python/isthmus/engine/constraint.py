"""Which tokens may come next, so that the whole text matches a grammar.

llguidance keeps the state: it compiles grammars, walks them by bytes and gives a bit for each token
of a vocabulary; here the bits become minus infinity in a row of logits. Masks depend on the text so
far alone, not on how it was cut into tokens, so that rolling back rejected tokens leaves the same
masks as never having taken them. A grammar may have several sources, each of which the text must
match; whoever writes them sees to it that one does not lead where another forbids all.

Not known here: where a grammar comes from, models, MLX. A matcher is used by one thread at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConstraintFailed
from .grammar import compile_source, first_line, refused
from .vocabulary import Bits, Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["Constraint", "Grammar", "Vocabulary", "compile_grammar", "read_vocabulary"]

Logits = np.ndarray[Any, np.dtype[np.float32]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class Grammar:
    """A compiled constraint, shared by the requests of one model.

    Args:
        vocabulary: What it was compiled against.
        matchers: One for each source, at the beginning of the text.
    """

    def __init__(self, vocabulary: Vocabulary, matchers: tuple[LLMatcher, ...]) -> None:
        self._vocabulary = vocabulary
        self._matchers = matchers

    def start(self) -> Constraint:
        """Return a constraint at the beginning of a text."""
        return Constraint(self._vocabulary, [matcher.deep_copy() for matcher in self._matchers])


class Constraint:
    """The state of one generation.

    Args:
        vocabulary: What the matchers were compiled against.
        matchers: Its own; each must match the text.
    """

    def __init__(self, vocabulary: Vocabulary, matchers: list[LLMatcher]) -> None:
        self._vocabulary = vocabulary
        self._matchers = matchers
        self._forbidden: Flags | None = None
        self._taken = 0
        self._has_ended = False

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is a whole match, so that the model may stop."""
        return all(matcher.is_accepting() for matcher in self._matchers)

    @property
    def must_stop(self) -> bool:
        """Whether the text is a whole match that nothing but the end may follow."""
        is_stopped = self._has_ended or any(matcher.is_stopped() for matcher in self._matchers)
        return is_stopped and self.is_complete

    def prepare(self) -> None:
        """Find what may come next, ahead of `mask`; without the GIL, so beside a forward pass.

        Raises:
            ConstraintFailed: Nothing may, or the grammar is too complex to tell.
        """
        if self._forbidden is not None:
            return
        allowed = self._find_allowed()
        if self._has_ended or not allowed.any():
            raise self._failed("no token may come next")
        flags = np.unpackbits(~allowed, count=self._vocabulary.size, bitorder="little")
        self._forbidden = flags.view(np.bool_)

    def allowed(self) -> list[int]:
        """Return the tokens that may come next, in ascending order.

        Raises:
            ConstraintFailed: As `prepare`.
        """
        self.prepare()
        assert self._forbidden is not None
        return np.flatnonzero(~self._forbidden).tolist()

    def mask(self, logits: Logits) -> None:
        """Write minus infinity on every token that may not come next.

        Args:
            logits: Shape [columns], writable. Columns beyond the vocabulary are forbidden too.

        Raises:
            ConstraintFailed: As `prepare`.
        """
        self.prepare()
        assert self._forbidden is not None
        known = logits[: self._vocabulary.size]
        np.putmask(known, self._forbidden[: len(known)], -np.inf)
        logits[self._vocabulary.size :] = -np.inf

    def advance(self, token: int) -> None:
        """Take the next token of the text, or an end token after the whole of it.

        Raises:
            ConstraintFailed: It may not come next; the state is as before.
        """
        if token in self._vocabulary.end_tokens:
            is_allowed = self.is_complete and not self._has_ended
            self._has_ended |= is_allowed
        else:
            is_allowed = not self._has_ended and self._consume([token]) == 1
        if not is_allowed:
            raise self._failed(f"token {token} may not come next")
        self._taken += 1
        self._forbidden = None

    def rollback(self, tokens: int) -> None:
        """Take back the last tokens, end tokens included.

        Raises:
            ValueError: There were not so many.
            ConstraintFailed: The grammar has failed before.
        """
        if not 0 <= tokens <= self._taken:
            raise ValueError(f"{tokens} tokens cannot be taken back, {self._taken} were taken")
        if tokens == 0:
            return
        self._forbidden = None
        self._taken -= tokens
        self._give_back(tokens - self._has_ended)
        self._has_ended = False

    def validate(self, tokens: Sequence[int]) -> int:
        """Return how many of these tokens, in a row, may come next; the state stays."""
        if self._has_ended:
            return 0
        ends, size = self._vocabulary.end_tokens, self._vocabulary.size
        text: list[int] = []
        for token in tokens:
            if token in ends or not 0 <= token < size:
                break
            text.append(token)
        count = self._consume(text)
        is_end = count == len(text) < len(tokens) and tokens[count] in ends
        valid = count + (is_end and self.is_complete)
        self._give_back(count)
        return valid

    def _find_allowed(self) -> Bits:
        """Return a bit for each token; end tokens only where the text is complete."""
        allowed = np.full(len(self._vocabulary.ends), 0xFF, dtype=np.uint8)
        for matcher in self._matchers:
            # It may have a word more than the vocabulary needs.
            allowed &= np.frombuffer(matcher.compute_bitmask(), np.uint8, count=len(allowed))
            if matcher.is_error():
                raise self._failed("the grammar leads nowhere, or is too complex")
        if not self.is_complete:
            # A model may end its texts with a token that a grammar takes for text.
            allowed &= ~self._vocabulary.ends
        return allowed

    def _consume(self, tokens: list[int]) -> int:
        """Let each matcher take as many tokens as all of them do; return how many."""
        if not tokens or not 0 <= min(tokens) <= max(tokens) < self._vocabulary.size:
            return 0
        taken: list[int] = []
        for matcher in self._matchers:
            taken.append(matcher.try_consume_tokens(tokens[: min(taken, default=None)]))
        for matcher, count in zip(self._matchers, taken, strict=True):
            matcher.rollback(count - min(taken))
        return min(taken)

    def _give_back(self, tokens: int) -> None:
        if tokens and not all([matcher.rollback(tokens) for matcher in self._matchers]):
            raise self._failed("the grammar cannot go back")

    def _failed(self, reason: str) -> ConstraintFailed:
        errors = [matcher.get_error() for matcher in self._matchers if matcher.is_error()]
        cause = f" ({first_line(errors[0])})" if errors else ""
        return ConstraintFailed(
            f"the output cannot go on as `response_format` demands: {reason}{cause}; simplify it",
            phase="decode",
            completion_tokens=self._taken,
        )


def compile_grammar(vocabulary: Vocabulary, *sources: str) -> Grammar:
    """Compile a constraint; takes up to a second, so not on the event loop.

    Args:
        vocabulary: The model's.
        sources: In llguidance's Lark syntax; the text must match each of them.

    Raises:
        InvalidRequest: One is malformed or too large, no text matches, or it cannot go back.
    """
    matchers = tuple(compile_source(vocabulary.tokenizer, source) for source in sources)
    grammar = Grammar(vocabulary, matchers)
    trial = grammar.start()
    try:
        first = trial.allowed()
    except ConstraintFailed as error:
        raise refused("no text can match it") from error
    for token in itertools.islice((each for each in first if each not in vocabulary.end_tokens), 1):
        try:
            trial.advance(token)
            trial.rollback(1)
        except ConstraintFailed as error:
            raise refused("`stop` and `max_tokens` are not taken; use `suffix`") from error
    return grammar
