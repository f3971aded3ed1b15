"""One generation: its deltas, its result, its cancel.

Knows how the protocol's payloads of `generate` map to Python values, and nothing else of it. Token
ids are lists of integers here.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypedDict

from ..errors import IsthmusError
from .streams import Stream

_UNSENT: Final[Mapping[str, Any]] = {
    "finish_reason": "cancelled",
    "stop": None,
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0},
    "timing": {},
    "seed": 0,
    "batching": None,
    "speculation": None,
    "is_complete": None,
    "tool_calls": None,
    "cache": None,
}
"""The end of a generation that was cancelled before the runtime had it."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's log-probability, and those of the best alternatives as (id, log-probability)."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """What a generation brought; `text` lags behind `ids` by what is held back."""

    text: str
    ids: list[int]
    logprobs: list[TokenLogprobs] | None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation.

    Attributes:
        finish_reason: `stop`, `length` or `cancelled`.
        stop: The string or token id that ended it, if one did.
        timing: Milliseconds and rates; docs/protocol.md, section 4.
        seed: Gives the same tokens again.
        batching: Whether it shared passes with others, `state`, and if not, why, `reason`.
        speculation: How drafting went; None when it was not asked for.
        is_complete: With a response format, whether the output is a whole match.
        tool_calls: Calls that the model made; None when it was given no tools, or its tokenizer has
            no parser for them.
        cache: Where the prompt's KV cache came from; docs/protocol.md, section 4. None when it was
            cancelled before it ran, or the runtime is older than this.
    """

    text: str
    ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: str
    stop: str | int | None
    usage: Usage
    timing: Mapping[str, float]
    seed: int
    batching: Mapping[str, Any] | None
    speculation: Mapping[str, Any] | None
    is_complete: bool | None
    tool_calls: Sequence[Mapping[str, Any]] | None
    cache: Mapping[str, Any] | None


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen; docs/protocol.md, section 4, has defaults and ranges."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    repetition_context_size: int
    presence_penalty: float
    frequency_penalty: float
    penalty_context_size: int
    logit_bias: Mapping[int, float]
    seed: int
    logprobs: int


class PromptOptions(TypedDict, total=False):
    """What goes with the messages of a prompt."""

    tools: Sequence[Mapping[str, Any]]
    template_options: Mapping[str, Any]
    add_generation_prompt: bool


class GenerateOptions(SamplingOptions, PromptOptions, total=False):
    """Options of `Model.generate`."""

    max_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    stream: bool
    priority: int
    batch: bool
    cache_prompt: bool
    response_format: Mapping[str, Any]


class Generation:
    """A generation: iterate over its deltas, or await its result, or both in that order.

    `break`, an exception or a cancelled task cancels the request, and so does letting it go. The
    result is made of the deltas that were read and of those that are left.

    The error of a generation has what was delivered before it in `details["partial"]`: `text`,
    `ids` and `completion_tokens`. With any of it the error is never `retryable`.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        stream.unsent_end = _UNSENT
        self._text: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprobs] | None = None

    def cancel(self) -> None:
        """Stop it; it then ends with `finish_reason` `cancelled` and what it has."""
        self._stream.cancel()

    async def __aiter__(self) -> AsyncGenerator[Delta, None]:
        """Yield the deltas that have not been read."""
        deltas = self._stream.read()
        try:
            async for payload in deltas:
                yield self._keep(payload)
        except IsthmusError as error:
            if error is self._stream.error:
                error.details["partial"] = self._partial()
            raise
        finally:
            await deltas.aclose()

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        """Read what is left and return the result."""
        return self._result().__await__()

    def __del__(self) -> None:
        """Cancel what nobody can read any more."""
        if not self._stream.is_settled:
            self._stream.abandon_soon()

    def _keep(self, payload: Mapping[str, Any]) -> Delta:
        delta = Delta(
            payload["text"], read_ids(payload["ids"]), read_logprobs(payload.get("logprobs"))
        )
        self._text.append(delta.text)
        self._ids += delta.ids
        if delta.logprobs is not None:
            self._logprobs = (self._logprobs or []) + delta.logprobs
        return delta

    def _partial(self) -> dict[str, Any]:
        text, ids = "".join(self._text), list(self._ids)
        return {"text": text, "ids": ids, "completion_tokens": len(ids)}

    async def _result(self) -> GenerationResult:
        async for _ in self:
            pass
        end = self._stream.end
        if "text" in end:
            self._keep(end)
        return GenerationResult(
            text="".join(self._text),
            ids=self._ids,
            logprobs=self._logprobs,
            finish_reason=end["finish_reason"],
            stop=end["stop"],
            usage=Usage(**{field.name: end["usage"][field.name] for field in fields(Usage)}),
            timing=end["timing"],
            seed=end["seed"],
            batching=end["batching"],
            speculation=end["speculation"],
            is_complete=end["is_complete"],
            tool_calls=end["tool_calls"],
            cache=end.get("cache"),
        )


def read_ids(wire: bytes) -> list[int]:
    """Return token ids from their wire form."""
    return array("I", wire).tolist()


def wire_bias(params: dict[str, Any]) -> dict[str, Any]:
    """Return params whose logit bias, if there is one, is the list of pairs that travels."""
    if isinstance(bias := params.get("logit_bias"), Mapping):
        params["logit_bias"] = [[token, value] for token, value in bias.items()]
    return params


def read_logprobs(wire: list[Mapping[str, Any]] | None) -> list[TokenLogprobs] | None:
    """Read log-probabilities; None when there are none."""
    if wire is None:
        return None
    return [
        TokenLogprobs(entry["id"], entry["logprob"], tuple((i, p) for i, p in entry["top"]))
        for entry in wire
    ]
