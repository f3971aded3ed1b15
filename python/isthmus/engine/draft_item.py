"""A draft to be verified, what it was drawn from, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidRequest
from .arrays import Doubles, Ids
from .sampling import SamplingOptions


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a draft was drawn from: per drafted token, ids and their probabilities."""

    ids: tuple[Ids, ...]
    probabilities: tuple[Doubles, ...]


@dataclass(frozen=True, slots=True)
class DraftItem:
    """A draft to be verified.

    Attributes:
        prompt: Token ids, at least one, each below the vocabulary size.
        draft: Token ids, at least one, each below the vocabulary size.
        sampling: The model's own sampling; temperature 0 is greedy.
        position: Index in its completion of the first drafted token; picks the random bits.
        logprobs: How many of the best tokens to report with each emitted one; None: no report.
        proposal: What the draft was drawn from; None: it was certain of each token.
    """

    prompt: list[int]
    draft: list[int]
    sampling: SamplingOptions
    position: int = 0
    logprobs: int | None = None
    proposal: Proposal | None = None


@dataclass(slots=True)
class Verdict:
    """How many drafted tokens are accepted, the token that follows them, and for each of these
    what `describe` says of it in `generate`."""

    accepted: int
    token: int
    logprobs: list[dict[str, Any]] | None


def read_proposal(
    draft: Sequence[int], rows: Sequence[tuple[Sequence[int], Sequence[float]]], vocab_size: int
) -> Proposal:
    """Check the distributions that a draft was drawn from, and scale each to the sum 1.

    Args:
        rows: Per drafted token, ids and their probabilities; ids left out have none.

    Raises:
        InvalidRequest: Of field `proposal`.
    """
    if len(rows) != len(draft):
        raise _refused(f"proposal must have {len(draft)} rows, one for each drafted token")
    kept: list[tuple[Ids, Doubles]] = []
    for index, (token, (row_ids, row)) in enumerate(zip(draft, rows, strict=True)):
        ids, probabilities = np.array(row_ids, dtype=np.int64), np.array(row, dtype=np.float64)
        if len(ids) != len(probabilities) or len(set(row_ids)) != len(ids):
            raise _refused(f"proposal[{index}] must have one probability for each of different ids")
        if not len(ids) or ids.min() < 0 or ids.max() >= vocab_size:
            raise _refused(f"proposal[{index}] must have ids from 0 to {vocab_size - 1}")
        if not np.isfinite(probabilities).all() or probabilities.min() < 0:
            raise _refused(f"proposal[{index}] must have finite probabilities from 0")
        if not probabilities[ids == token].sum() > 0:
            raise _refused(f"proposal[{index}] gives the drafted token {token} no probability")
        kept.append((ids, probabilities / probabilities.sum()))
    return Proposal(tuple(ids for ids, _ in kept), tuple(row for _, row in kept))


def _refused(message: str) -> InvalidRequest:
    return InvalidRequest(message, field="proposal")
