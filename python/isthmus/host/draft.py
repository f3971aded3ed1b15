"""Verification of drafts as Python has it: what is asked of the target model, and its verdict.

The rules (greedy, sampled, with the draft's own distributions) are the runtime's; docs/protocol.md,
section 5, has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NotRequired, Required

from ..errors import RemoteProtocolError
from .batch import Operation
from .generation import PromptOptions, SamplingOptions, TokenLogprobs, read_logprobs, wire_bias
from .text import wire_ids


class DraftCheck(SamplingOptions, PromptOptions, total=False):
    """A prompt, the tokens drafted after it, and how the target would have chosen.

    Exactly one of `prompt`, `messages` and `ids` is given. With `position`, the index of the first
    drafted token in its completion, the seed picks the random bits. `proposal` is what each drafted
    token was drawn from: `(ids, probabilities)`; ids left out have none.
    """

    prompt: str
    messages: Sequence[Mapping[str, Any]]
    ids: Sequence[int]
    draft: Required[Sequence[int]]
    position: NotRequired[int]
    proposal: NotRequired[Sequence[tuple[Sequence[int], Sequence[float]]]]


@dataclass(frozen=True, slots=True)
class DraftVerdict:
    """What the target makes of a draft.

    Attributes:
        accepted: Drafted tokens that stand, from the first.
        token: The token after them: the correction, or one more when all stand.
        prompt_tokens: Length of the prompt.
        seed: Gives the same verdict again.
        logprobs: Of the accepted tokens and of `token`, if they were asked for.
    """

    accepted: int
    token: int
    prompt_tokens: int
    seed: int
    logprobs: list[TokenLogprobs] | None


@dataclass(frozen=True, slots=True)
class DraftCosts:
    """What passes cost on this machine, in milliseconds."""

    target_step_ms: float
    verify_ms: float
    draft_step_ms: float


@dataclass(frozen=True, slots=True)
class DraftCompatibility:
    """Whether one model can draft for another, and whether that can pay.

    Attributes:
        differences: Why it cannot, a sentence each.
        shared_tokens: Tokens with the same id in both.
        vocab_sizes: Tokens of the target's and of the draft's tokenizer.
        draft_tokens: Drafted tokens of a round.
        costs: None when the models do not fit, or were not measured.
        break_even_acceptance: Acceptance rate from which speculation is faster, if any is.
        can_pay: None when it was not measured.
    """

    is_compatible: bool
    differences: tuple[str, ...]
    shared_tokens: int
    vocab_sizes: tuple[int, int]
    draft_tokens: int
    costs: DraftCosts | None
    break_even_acceptance: float | None
    can_pay: bool | None


def draft_params(check: DraftCheck) -> dict[str, Any]:
    """Write a draft as it travels.

    Raises:
        InvalidRequest: Ids cannot travel.
    """
    params = wire_bias(dict(check))
    for name in ("ids", "draft"):
        if name in params:
            params[name] = wire_ids(params[name])
    if (rows := check.get("proposal")) is not None:
        params["proposal"] = [{"ids": wire_ids(ids), "probs": list(probs)} for ids, probs in rows]
    return params


def verdict_of(result: Any) -> DraftVerdict:
    """Read a verdict."""
    try:
        logprobs = result.get("logprobs")
        return DraftVerdict(
            accepted=int(result["accepted"]),
            token=int(result["token"]),
            prompt_tokens=int(result["prompt_tokens"]),
            seed=int(result["seed"]),
            logprobs=read_logprobs(logprobs),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RemoteProtocolError(
            f"the runtime sent no verdict: {error}", kind="message"
        ) from error


def compatibility_of(result: Mapping[str, Any]) -> DraftCompatibility:
    """Read whether two models fit."""
    costs = result["costs"]
    target, draft = result["vocab_sizes"]
    return DraftCompatibility(
        is_compatible=result["is_compatible"],
        differences=tuple(result["differences"]),
        shared_tokens=result["shared_tokens"],
        vocab_sizes=(target, draft),
        draft_tokens=result["draft_tokens"],
        costs=None if costs is None else DraftCosts(**costs),
        break_even_acceptance=result["break_even_acceptance"],
        can_pay=result["can_pay"],
    )


def _size(params: Mapping[str, Any]) -> int:
    """Return what a draft weighs on the wire, about."""
    if "messages" in params:
        return _MESSAGE_BYTES * _length(params["messages"])
    prompt, ids, draft = (_length(params.get(name)) for name in ("prompt", "ids", "draft"))
    return prompt + 4 * (ids + draft)


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


_MESSAGE_BYTES: Final = 1_024
"""A message of a conversation, for want of a look into it."""

CHECK_DRAFT: Final[Operation[Mapping[str, Any], DraftVerdict]] = Operation(
    "check_draft", "items", None, _size, verdict_of
)
