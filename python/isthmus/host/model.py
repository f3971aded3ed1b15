"""A loaded model of a runtime: text operations and generations.

Maps Python arguments to the protocol's params and back; what an option means, and whether it is
valid, is for the runtime to say. Token ids are lists of integers here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from ..errors import IsthmusError, from_wire
from ..limits import STREAM_CREDIT
from .batch import Item, Operation
from .draft import (
    CHECK_DRAFT,
    DraftCheck,
    DraftCompatibility,
    DraftVerdict,
    compatibility_of,
    draft_params,
    verdict_of,
)
from .generation import GenerateOptions, Generation, PromptOptions, wire_bias
from .model_info import ModelInfo
from .streams import Stream
from .text import (
    COUNT_TOKENS,
    DETOKENIZE,
    TOKENIZE,
    TOKENIZE_PIECES,
    Encoding,
    count_of,
    encoding_of,
    ids_of,
    rendered_of,
    text_of,
    wire_ids,
)

T = TypeVar("T")

Message = Mapping[str, Any]
"""One message of a conversation: `role`, `content`, and whatever else the template reads."""


class Caller(Protocol):
    """What a model asks of its runtime."""

    async def call(
        self, method: str, params: Mapping[str, Any], *, deadline_ms: float | None = None
    ) -> Any:
        """Send a request and return its result."""
        ...

    async def call_one(
        self,
        operation: Operation[Item, T],
        item: Item,
        model: str,
        options: Mapping[str, Any],
        deadline_ms: float | None = None,
    ) -> T:
        """Make a call that may share its frame with others."""
        ...

    async def unload(self, handle: str, *, evict: bool) -> bool:
        """Give a model's handle back."""
        ...

    def stream(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        deadline_ms: float | None = None,
        credit: int = STREAM_CREDIT,
    ) -> Stream:
        """Send a request that answers in deltas."""
        ...


class Model:
    """A handle to a loaded model; made by `Runtime.load_model`.

    Args:
        runtime: Takes its requests.
        info: What the runtime said of it.
    """

    def __init__(self, runtime: Caller, info: ModelInfo) -> None:
        self._runtime = runtime
        self.info = info

    @overload
    async def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        offsets: Literal[False] = False,
        tokens: Literal[False] = False,
        deadline_ms: float | None = None,
    ) -> list[int]: ...

    @overload
    async def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        offsets: Literal[True],
        tokens: bool = False,
        deadline_ms: float | None = None,
    ) -> Encoding: ...

    @overload
    async def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        offsets: bool = False,
        tokens: Literal[True],
        deadline_ms: float | None = None,
    ) -> Encoding: ...

    async def tokenize(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        offsets: bool = False,
        tokens: bool = False,
        deadline_ms: float | None = None,
    ) -> list[int] | Encoding:
        """Return the token ids of a text.

        Args:
            offsets: Return an `Encoding` with where each token lies in the text.
            tokens: Return an `Encoding` with what the vocabulary calls each token.
            deadline_ms: Time until it has to be done.
        """
        options = _encoding_options(add_special_tokens, offsets, tokens)
        if offsets or tokens:
            return await self._one(TOKENIZE_PIECES, text, options, deadline_ms)
        return await self._one(TOKENIZE, text, options, deadline_ms)

    async def detokenize(
        self,
        ids: Sequence[int],
        *,
        skip_special_tokens: bool = False,
        deadline_ms: float | None = None,
    ) -> str:
        """Return the text of token ids."""
        options = _other_than(False, skip_special_tokens=skip_special_tokens)
        return await self._one(DETOKENIZE, wire_ids(ids), options, deadline_ms)

    async def count_tokens(
        self, text: str, *, add_special_tokens: bool = True, deadline_ms: float | None = None
    ) -> int:
        """Return how many tokens a text has."""
        options = _encoding_options(add_special_tokens)
        return await self._one(COUNT_TOKENS, text, options, deadline_ms)

    @overload
    async def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: Literal[False] = False,
        **options: Unpack[PromptOptions],
    ) -> str: ...

    @overload
    async def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: Literal[True],
        **options: Unpack[PromptOptions],
    ) -> list[int]: ...

    async def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: bool = False,
        **options: Unpack[PromptOptions],
    ) -> str | list[int]:
        """Render a conversation; with `tokenize`, return token ids."""
        result = await self._call(
            "apply_chat_template", messages=messages, tokenize=tokenize, **options
        )
        return rendered_of(result)

    @overload
    async def tokenize_batch(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        offsets: Literal[False] = False,
        tokens: Literal[False] = False,
    ) -> list[list[int] | IsthmusError]: ...

    @overload
    async def tokenize_batch(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        offsets: Literal[True],
        tokens: bool = False,
    ) -> list[Encoding | IsthmusError]: ...

    @overload
    async def tokenize_batch(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        offsets: bool = False,
        tokens: Literal[True],
    ) -> list[Encoding | IsthmusError]: ...

    async def tokenize_batch(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        offsets: bool = False,
        tokens: bool = False,
    ) -> list[list[int] | IsthmusError] | list[Encoding | IsthmusError]:
        """Return the token ids, or the `Encoding`, of each text, or its error."""
        options = _encoding_options(add_special_tokens, offsets, tokens)
        result = await self._call("batch_tokenize", texts=texts, **options)
        return _each(result, encoding_of) if offsets or tokens else _each(result, ids_of)

    async def detokenize_batch(
        self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = False
    ) -> list[str | IsthmusError]:
        """Return the text of each list of token ids, or its error."""
        options = _other_than(False, skip_special_tokens=skip_special_tokens)
        lists = [wire_ids(item) for item in ids]
        return _each(await self._call("batch_detokenize", ids=lists, **options), text_of)

    async def count_tokens_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[int | IsthmusError]:
        """Return how many tokens each text has, or its error."""
        options = _encoding_options(add_special_tokens)
        return _each(await self._call("batch_count_tokens", texts=texts, **options), count_of)

    async def apply_chat_template_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        tokenize: bool = False,
        **options: Unpack[PromptOptions],
    ) -> list[str | list[int] | IsthmusError]:
        """Render each conversation, or return its error."""
        result = await self._call(
            "batch_apply_chat_template", conversations=conversations, tokenize=tokenize, **options
        )
        return _each(result, rendered_of)

    async def check_draft(
        self, check: DraftCheck, *, deadline_ms: float | None = None
    ) -> DraftVerdict:
        """Have the model judge a draft: how many of its tokens stand, and the token after them."""
        return await self._one(CHECK_DRAFT, draft_params(check), {}, deadline_ms)

    async def check_draft_batch(
        self, checks: Sequence[DraftCheck]
    ) -> list[DraftVerdict | IsthmusError]:
        """Have the model judge drafts, each on its own."""
        items = [draft_params(check) for check in checks]
        return _each(await self._call("batch_check_draft", items=items), verdict_of)

    async def check_draft_compatibility(
        self, draft: Model, *, draft_tokens: int | None = None, measure: bool = True
    ) -> DraftCompatibility:
        """Say whether another model can draft for this one, and whether that can pay here."""
        result = await self._call(
            "check_draft_compatibility",
            draft_model=draft.info.model,
            draft_tokens=draft_tokens,
            measure=measure,
        )
        return compatibility_of(result)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        ids: Sequence[int] | None = None,
        deadline_ms: float | None = None,
        credit: int = STREAM_CREDIT,
        draft_model: Model | None = None,
        prompt_lookup: bool = False,
        max_draft_tokens: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Start a generation from a prompt, messages or token ids; it is sent at once.

        Args:
            draft_model: Speculate with a smaller model of the same vocabulary.
            prompt_lookup: Speculate with what stood in the text before.
            max_draft_tokens: Most tokens to draft in a round.
            deadline_ms: Time from its arrival at the runtime to its end.
            credit: Tokens that may be on their way before they are read.

        Raises:
            IsthmusError: The runtime has ended, or an option cannot be sent.
        """
        params = wire_bias({"model": self.info.model, **options})
        speculation = {
            "draft_model": None if draft_model is None else draft_model.info.model,
            "prompt_lookup": prompt_lookup or None,
            "max_draft_tokens": max_draft_tokens,
        }
        wanted = {name: value for name, value in speculation.items() if value is not None}
        if wanted:
            params["speculation"] = wanted
        given = {
            "prompt": prompt,
            "messages": messages,
            "ids": ids if ids is None else wire_ids(ids),
        }
        params.update({name: value for name, value in given.items() if value is not None})
        return Generation(
            self._runtime.stream("generate", params, deadline_ms=deadline_ms, credit=credit)
        )

    async def refresh(self) -> ModelInfo:
        """Ask for the model's info again and keep it."""
        self.info = ModelInfo.from_wire(await self._call("model_info"))
        return self.info

    async def unload(self, *, evict: bool = False) -> bool:
        """Give this handle back; return whether it was the last reference to the model.

        The weights may stay in memory for the next load. Calls that were made before it are not
        harmed.

        Args:
            evict: Have the weights leave memory at once, if nobody else has the model.
        """
        return await self._runtime.unload(self.info.model, evict=evict)

    async def set_circuit(self, state: Literal["isolated", "closed"]) -> dict[str, Any]:
        """Refuse the model's calls until told otherwise, or take them again.

        Returns:
            What its breaker says of itself: `state`, `generation`, `calls`, `failures`,
            `slow_calls`, `opened_times`, `retry_after_ms`.
        """
        return dict(await self._call("set_circuit", state=state))

    async def _one(
        self,
        operation: Operation[Item, T],
        item: Item,
        options: Mapping[str, Any],
        deadline_ms: float | None,
    ) -> T:
        return await self._runtime.call_one(operation, item, self.info.model, options, deadline_ms)

    async def _call(self, method: str, **params: Any) -> Any:
        return await self._runtime.call(method, {"model": self.info.model, **params})


def _encoding_options(special: bool, offsets: bool = False, tokens: bool = False) -> dict[str, Any]:
    return {
        **_other_than(True, add_special_tokens=special),
        **_other_than(False, offsets=offsets, tokens=tokens),
    }


def _other_than(default: bool, **options: bool) -> dict[str, Any]:
    """Return the options that have to be sent: the runtime knows its defaults."""
    return {name: value for name, value in options.items() if value is not default}


def _each(result: Mapping[str, Any], read: Callable[[Any], T]) -> list[T | IsthmusError]:
    return [
        from_wire(item["error"]) if "error" in item else read(item) for item in result["results"]
    ]
