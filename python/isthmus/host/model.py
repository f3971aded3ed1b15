"""A loaded model of a runtime: text operations and generations.

Maps Python arguments to the protocol's params and back; what an option means, and whether it is
valid, is for the runtime to say. Token ids are lists of integers here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack, overload

from ..errors import IsthmusError, from_wire
from .batch import Item, Operation
from .caller import Caller
from .completer import Completer, Message
from .draft import (
    CHECK_DRAFT,
    DraftCheck,
    DraftCompatibility,
    DraftVerdict,
    compatibility_of,
    draft_params,
    verdict_of,
)
from .generation import PromptOptions
from .model_info import ModelInfo
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


class Model(Completer):
    """A handle to a loaded model; made by `Runtime.load_model`.

    Args:
        runtime: Takes its requests.
        info: What the runtime said of it.
    """

    def __init__(self, runtime: Caller, info: ModelInfo) -> None:
        super().__init__(runtime)
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

    def _named(self) -> dict[str, Any]:
        return {"model": self.info.model}

    async def _one(
        self,
        operation: Operation[Item, T],
        item: Item,
        options: Mapping[str, Any],
        deadline_ms: float | None,
    ) -> T:
        return await self._runtime.call_one(operation, item, self.info.model, options, deadline_ms)

    async def _call(self, method: str, **params: Any) -> Any:
        return await self._runtime.call(method, {**self._named(), **params})


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
