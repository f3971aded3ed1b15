"""A loaded model of a runtime: text operations and generations.

Maps Python arguments to the protocol's params and back; what an option means, and whether it is
valid, is for the runtime to say. Token ids are lists of integers here.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

from ..errors import InvalidRequest, IsthmusError, from_wire
from ..limits import STREAM_CREDIT
from ..wire.codec import token_ids
from .generation import GenerateOptions, Generation, read_ids
from .streams import Stream

T = TypeVar("T")

Message = Mapping[str, Any]
"""One message of a conversation: `role`, `content`, and whatever else the template reads."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the runtime says of a model (docs/protocol.md, section 3)."""

    model: str
    source: str
    path: str
    architecture: str
    parameters: int
    vocab_size: int
    context_length: int | None
    dtype: str
    quantization: Mapping[str, Any] | None
    weight_bytes: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    references: int
    load_ms: float

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> ModelInfo:
        """Read a model info map; unknown keys are ignored."""
        known = {field.name: wire[field.name] for field in fields(cls)}
        return cls(**{**known, "eos_token_ids": tuple(known["eos_token_ids"])})


class TemplateOptions(TypedDict, total=False):
    """Options of the chat template methods."""

    add_generation_prompt: bool
    tools: Sequence[Mapping[str, Any]]
    template_options: Mapping[str, Any]


class Caller(Protocol):
    """What a model asks of its runtime."""

    async def call(
        self, method: str, params: Mapping[str, Any], *, deadline_ms: float | None = None
    ) -> Any:
        """Send a request and return its result."""
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

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        result = await self._call("tokenize", text=text, add_special_tokens=add_special_tokens)
        return read_ids(result["ids"])

    async def detokenize(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Return the text of token ids."""
        result = await self._call(
            "detokenize", ids=_wire_ids(ids), skip_special_tokens=skip_special_tokens
        )
        return str(result["text"])

    async def count_tokens(self, text: str, *, add_special_tokens: bool = True) -> int:
        """Return how many tokens a text has."""
        result = await self._call("count_tokens", text=text, add_special_tokens=add_special_tokens)
        return int(result["count"])

    @overload
    async def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: Literal[False] = False,
        **options: Unpack[TemplateOptions],
    ) -> str: ...

    @overload
    async def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: Literal[True],
        **options: Unpack[TemplateOptions],
    ) -> list[int]: ...

    async def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: bool = False,
        **options: Unpack[TemplateOptions],
    ) -> str | list[int]:
        """Render a conversation; with `tokenize`, return token ids."""
        result = await self._call(
            "apply_chat_template", messages=messages, tokenize=tokenize, **options
        )
        return _rendered(result)

    async def tokenize_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int] | IsthmusError]:
        """Return the token ids of each text, or its error."""
        result = await self._call(
            "batch_tokenize", texts=texts, add_special_tokens=add_special_tokens
        )
        return _each(result, lambda item: read_ids(item["ids"]))

    async def detokenize_batch(
        self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = False
    ) -> list[str | IsthmusError]:
        """Return the text of each list of token ids, or its error."""
        lists = [_wire_ids(item) for item in ids]
        result = await self._call(
            "batch_detokenize", ids=lists, skip_special_tokens=skip_special_tokens
        )
        return _each(result, lambda item: str(item["text"]))

    async def count_tokens_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[int | IsthmusError]:
        """Return how many tokens each text has, or its error."""
        result = await self._call(
            "batch_count_tokens", texts=texts, add_special_tokens=add_special_tokens
        )
        return _each(result, lambda item: int(item["count"]))

    async def apply_chat_template_batch(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        tokenize: bool = False,
        **options: Unpack[TemplateOptions],
    ) -> list[str | list[int] | IsthmusError]:
        """Render each conversation, or return its error."""
        result = await self._call(
            "batch_apply_chat_template", conversations=conversations, tokenize=tokenize, **options
        )
        return _each(result, _rendered)

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        ids: Sequence[int] | None = None,
        deadline_ms: float | None = None,
        credit: int = STREAM_CREDIT,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Start a generation from a prompt, messages or token ids; it is sent at once.

        Args:
            deadline_ms: Time from its arrival at the runtime to its end.
            credit: Tokens that may be on their way before they are read.

        Raises:
            IsthmusError: The runtime has ended, or an option cannot be sent.
        """
        params: dict[str, Any] = {"model": self.info.model, **options}
        given = {
            "prompt": prompt,
            "messages": messages,
            "ids": ids if ids is None else _wire_ids(ids),
        }
        params.update({name: value for name, value in given.items() if value is not None})
        if isinstance(bias := params.get("logit_bias"), Mapping):
            params["logit_bias"] = [[token, value] for token, value in bias.items()]
        return Generation(
            self._runtime.stream("generate", params, deadline_ms=deadline_ms, credit=credit)
        )

    async def refresh(self) -> ModelInfo:
        """Ask for the model's info again and keep it."""
        self.info = ModelInfo.from_wire(await self._call("model_info"))
        return self.info

    async def unload(self) -> bool:
        """Give this handle back; return whether the model has left memory with it."""
        return bool((await self._call("unload_model"))["unloaded"])

    async def _call(self, method: str, **params: Any) -> Any:
        return await self._runtime.call(method, {"model": self.info.model, **params})


def _wire_ids(ids: Sequence[int]) -> array[int]:
    try:
        return token_ids(list(ids))
    except (TypeError, OverflowError) as error:
        raise InvalidRequest(
            f"token ids must be integers from 0 to 2^32 - 1: {error}", field="ids"
        ) from error


def _rendered(result: Mapping[str, Any]) -> str | list[int]:
    return read_ids(result["ids"]) if "ids" in result else str(result["text"])


def _each(result: Mapping[str, Any], read: Callable[[Any], T]) -> list[T | IsthmusError]:
    return [
        from_wire(item["error"]) if "error" in item else read(item) for item in result["results"]
    ]
