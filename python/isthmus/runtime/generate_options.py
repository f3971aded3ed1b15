"""The params of `generate`, read and checked (docs/protocol.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..errors import InvalidRequest
from ..limits import (
    CONTEXT_LIMIT,
    MAX_TOKENS_DEFAULT,
    PRIORITY_LIMIT,
    SPECULATED_TOKENS_DEFAULT,
    SPECULATED_TOKENS_LIMIT,
    STOP_STRING_CHARS_LIMIT,
    STOP_STRINGS_LIMIT,
    TOP_LOGPROBS_LIMIT,
)
from ..models.load import LoadedModel
from ..sessions.reference import SessionReference
from .params import Params
from .response_format import ResponseFormat, read_response_format
from .sampling_params import read_sampling
from .session_params import read_optional_session

_STOP_IDS_LIMIT: Final = 65_536


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """How tokens are drafted.

    Attributes:
        draft_model: Handle of the model that drafts; None for prompt look-up.
        limit: Most drafted tokens of a round.
    """

    draft_model: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The params of `generate` besides the prompt."""

    sampling: dict[str, Any]
    max_tokens: int | None
    stops: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool
    logprobs: int | None
    is_streamed: bool
    priority: int
    may_batch: bool
    may_reuse: bool
    tools: list[Any] | None
    speculation: SpeculationOptions | None
    response_format: ResponseFormat | None
    session: SessionReference | None


def read_options(fields: Params, model: LoadedModel) -> GenerateOptions:
    """Read everything but the prompt.

    Raises:
        InvalidRequest: A field has a wrong type or range.
    """
    stops = tuple(fields.items("stop", str, STOP_STRINGS_LIMIT, []))
    for index, stop in enumerate(stops):
        if not 0 < len(stop) <= STOP_STRING_CHARS_LIMIT:
            raise InvalidRequest(
                f"stop[{index}] must have 1 to {STOP_STRING_CHARS_LIMIT} characters",
                field=f"stop[{index}]",
            )
    stop_token_ids = tuple(fields.items("stop_token_ids", int, _STOP_IDS_LIMIT, []))
    model.tokenizer.check(list(stop_token_ids), "stop_token_ids")
    may_reuse = fields.typed("cache_prompt", bool, True)
    session = read_optional_session(fields)
    if session is not None and not may_reuse:
        raise InvalidRequest(
            "a session keeps its KV cache; leave `cache_prompt` out", field="cache_prompt"
        )
    return GenerateOptions(
        sampling=read_sampling(fields, model),
        max_tokens=fields.integer("max_tokens", 1, CONTEXT_LIMIT, None),
        stops=stops,
        stop_token_ids=stop_token_ids,
        ignore_eos=fields.typed("ignore_eos", bool, False),
        logprobs=fields.integer("logprobs", 0, TOP_LOGPROBS_LIMIT, None),
        is_streamed=fields.typed("stream", bool, True),
        priority=fields.integer("priority", -PRIORITY_LIMIT, PRIORITY_LIMIT, 0),
        may_batch=fields.typed("batch", bool, True),
        may_reuse=may_reuse,
        tools=_read_tools(fields),
        speculation=_read_speculation(fields),
        response_format=read_response_format(fields),
        session=session,
    )


def read_room(model: LoadedModel, prompt: list[int], field: str, options: GenerateOptions) -> int:
    """Return how many tokens may be generated.

    Raises:
        InvalidRequest: The prompt is empty, or leaves no room in the context.
    """
    if not prompt:
        raise InvalidRequest("the prompt has no tokens", field=field)
    wanted = options.max_tokens if options.max_tokens is not None else MAX_TOKENS_DEFAULT
    context = model.verified.context_length
    if context is None:
        return wanted
    if len(prompt) >= context:
        raise InvalidRequest(
            f"the prompt has {len(prompt)} tokens, the model's context {context}; shorten it",
            field=field,
            prompt_tokens=len(prompt),
            context_length=context,
        )
    return min(wanted, context - len(prompt))


def _read_tools(fields: Params) -> list[Any] | None:
    """Return the tools, which the prompt's template takes as well."""
    tools = fields.peek("tools") if "messages" in fields else None
    return tools if isinstance(tools, list) else None


def _read_speculation(fields: Params) -> SpeculationOptions | None:
    raw = fields.typed("speculation", dict, None)
    if raw is None:
        return None
    inner = Params(raw)
    try:
        draft_model = inner.typed("draft_model", str, None)
        is_lookup = inner.typed("prompt_lookup", bool, False)
        limit = inner.integer(
            "max_draft_tokens", 1, SPECULATED_TOKENS_LIMIT, SPECULATED_TOKENS_DEFAULT
        )
        inner.done()
        if (draft_model is None) != is_lookup:
            raise InvalidRequest(
                "give `draft_model`, a handle, or `prompt_lookup: true`", field="draft_model"
            )
    except InvalidRequest as error:
        field = f"speculation.{error.details['field']}"
        raise InvalidRequest(f"in `speculation`, {error.message}", field=field) from None
    return SpeculationOptions(draft_model, limit)
