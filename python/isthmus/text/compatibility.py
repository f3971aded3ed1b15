"""Whether one model can draft for another: their tokenizers must give the same ids.

A drafted id is read by the target as its own, and the target's ids are fed to the draft model, so
every id must mean the same text in both and lie within both embeddings. Embeddings padded to
different sizes do not matter. Knows no weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .tokenizer import TextTokenizer

_EXAMPLES: Final = 3
"""Tokens named in a difference; the rest is counted."""

_PROBES: Final = (
    "Hello, world! 12 x 3 = 36.",
    "  two  spaces\n\n\ttab and a line\r\n",
    "def f(x):\n    return {'a': [1, 2]}  # code",
    "naïve façade 中文 русский العربية 👩‍👩‍👧 é",
)
"""Texts that differ where normalizers, splits or merges do."""


@dataclass(frozen=True, slots=True)
class Compatibility:
    """What two tokenizers have in common.

    Attributes:
        is_compatible: Whether there is no difference.
        differences: A sentence each.
        shared_tokens: Tokens with the same id in both.
        target_vocab: Tokens of the target's tokenizer.
        draft_vocab: Tokens of the draft's.
    """

    is_compatible: bool
    differences: tuple[str, ...]
    shared_tokens: int
    target_vocab: int
    draft_vocab: int


def compare(target: TextTokenizer, draft: TextTokenizer) -> Compatibility:
    """Compare the tokenizers of a target and of the model that is to draft for it."""
    ours, theirs = target.wrapper.get_vocab(), draft.wrapper.get_vocab()
    differences = (
        *_vocabularies(ours, theirs),
        *_ranges(target, draft, ours, theirs),
        *_special_tokens(target, draft),
        *_probes(target, draft),
    )
    return Compatibility(
        is_compatible=not differences,
        differences=differences,
        shared_tokens=len(ours.items() & theirs.items()),
        target_vocab=len(ours),
        draft_vocab=len(theirs),
    )


def _vocabularies(ours: dict[str, int], theirs: dict[str, int]) -> Iterator[str]:
    by_id = sorted(ours, key=lambda token: ours[token])
    moved = [token for token in by_id if token in theirs and theirs[token] != ours[token]]
    if moved:
        named = (f"{token!r} ({ours[token]} and {theirs[token]})" for token in moved[:_EXAMPLES])
        yield f"{_count(moved)} other ids in the draft: {_list(moved, named)}."
    for name, tokens in (
        ("target", [token for token in by_id if token not in theirs]),
        ("draft", sorted(theirs.keys() - ours.keys(), key=lambda token: theirs[token])),
    ):
        if tokens:
            named = (repr(token) for token in tokens[:_EXAMPLES])
            verb = "is" if len(tokens) == 1 else "are"
            only = f"{len(tokens)} token{'s' * (len(tokens) > 1)} {verb} only in the {name}"
            yield f"{only}: {_list(tokens, named)}."


def _ranges(
    target: TextTokenizer, draft: TextTokenizer, ours: dict[str, int], theirs: dict[str, int]
) -> Iterator[str]:
    """Ids that the other model has no row for could end the process inside MLX."""
    for name, ids, other, size in (
        ("draft", theirs, "target", target.vocab_size),
        ("target", ours, "draft", draft.vocab_size),
    ):
        highest = max(ids.values(), default=-1)
        if highest >= size:
            yield f"The {name}'s ids reach {highest}, but the {other} model has {size} rows."


def _special_tokens(target: TextTokenizer, draft: TextTokenizer) -> Iterator[str]:
    for name in ("bos", "eos", "pad"):
        ours, theirs = (getattr(side.wrapper, f"{name}_token_id", None) for side in (target, draft))
        if ours != theirs:
            yield f"The {name.upper()} token is {ours} in the target and {theirs} in the draft."
    if target.end_tokens != draft.end_tokens:
        yield (
            f"A generation ends at {sorted(target.end_tokens)} in the target and at "
            f"{sorted(draft.end_tokens)} in the draft."
        )


def _probes(target: TextTokenizer, draft: TextTokenizer) -> Iterator[str]:
    differing = [text for text in _PROBES if target.encode(text) != draft.encode(text)]
    if differing:
        yield f"{len(differing)} of {len(_PROBES)} texts get other ids: {differing[0]!r}."


def _count(tokens: list[str]) -> str:
    return "1 token has" if len(tokens) == 1 else f"{len(tokens)} tokens have"


def _list(tokens: list[str], named: Iterator[str]) -> str:
    rest = len(tokens) - _EXAMPLES
    return ", ".join(named) + (f" and {rest} more" if rest > 0 else "")
