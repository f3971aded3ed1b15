"""`tokenize`, `detokenize`, `count_tokens`, `apply_chat_template`, each also on lists.

Short texts are answered on the loop; long ones and batches go to the text worker. In a batch every
item has its own result or error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import InvalidRequest, IsthmusError
from ...limits import INLINE_TEXT_CHARS
from ...text.tokenizer import TextTokenizer
from ...wire.codec import token_ids
from ..params import Params, read_token_ids
from ..prompts import TemplateRequest, read_template_request, render
from ..requests import Call
from ..router import DEFER, Router
from ..services import Services

BATCH_LIMIT = 65_536
"""Items of one batch."""

Show = Callable[[list[int]], dict[str, Any]]


def register(router: Router, services: Services) -> None:
    """Add the methods."""
    methods = TextMethods(services)
    router.register("tokenize", inline=methods.tokenize_inline, run=methods.tokenize)
    router.register("count_tokens", inline=methods.count_inline, run=methods.count)
    router.register("detokenize", inline=methods.detokenize_inline, run=methods.detokenize)
    router.register("apply_chat_template", run=methods.apply_chat_template)
    router.register("batch_tokenize", run=methods.batch_tokenize)
    router.register("batch_count_tokens", run=methods.batch_count)
    router.register("batch_detokenize", run=methods.batch_detokenize)
    router.register("batch_apply_chat_template", run=methods.batch_apply_chat_template)


class TextMethods:
    """Text work on a model's tokenizer."""

    def __init__(self, services: Services) -> None:
        self._models = services.models
        self._text = services.text

    def tokenize_inline(self, params: dict[str, Any]) -> object:
        """Answer for a short text."""
        ids = self._encode_inline(params)
        return DEFER if ids is None else {"ids": token_ids(ids)}

    def count_inline(self, params: dict[str, Any]) -> object:
        """Answer for a short text."""
        ids = self._encode_inline(params)
        return DEFER if ids is None else {"count": len(ids)}

    async def tokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Answer for a long text."""
        call.result(_show_ids(await self._encode_long(params)))

    async def count(self, call: Call, params: dict[str, Any]) -> None:
        """Answer for a long text."""
        call.result(_show_count(await self._encode_long(params)))

    async def batch_tokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Return the ids of each text."""
        await self._batch_encode(call, params, _show_ids)

    async def batch_count(self, call: Call, params: dict[str, Any]) -> None:
        """Return the number of tokens of each text."""
        await self._batch_encode(call, params, _show_count)

    def detokenize_inline(self, params: dict[str, Any]) -> object:
        """Answer for few ids."""
        tokenizer, ids, skip = self._read_detokenize(params)
        if len(ids) > INLINE_TEXT_CHARS:
            return DEFER
        return {"text": tokenizer.decode(ids, skip)}

    async def detokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Answer for many ids."""
        tokenizer, ids, skip = self._read_detokenize(params)
        call.result({"text": await self._text.run(lambda: tokenizer.decode(ids, skip))})

    async def batch_detokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Return the text of each list of ids."""
        fields = Params(params)
        tokenizer = self._tokenizer(fields)
        lists = _list(fields, "ids")
        skip = fields.typed("skip_special_tokens", bool, False)
        fields.done()

        def decode(index: int, item: object) -> dict[str, Any]:
            return {"text": tokenizer.decode(read_token_ids(f"ids[{index}]", item), skip)}

        call.result({"results": await self._text.run(lambda: _each(lists, decode))})

    async def apply_chat_template(self, call: Call, params: dict[str, Any]) -> None:
        """Render one conversation."""
        fields = Params(params)
        tokenizer = self._tokenizer(fields)
        request = read_template_request(fields)
        messages = fields.take("messages")
        is_tokenized = fields.typed("tokenize", bool, False)
        fields.done()
        text = await render(self._text, tokenizer, messages, request)
        call.result(await self._shape(tokenizer, text, is_tokenized))

    async def batch_apply_chat_template(self, call: Call, params: dict[str, Any]) -> None:
        """Render each conversation."""
        fields = Params(params)
        tokenizer = self._tokenizer(fields)
        request = read_template_request(fields)
        conversations = _list(fields, "conversations")
        is_tokenized = fields.typed("tokenize", bool, False)
        fields.done()
        results = [
            await self._render_one(tokenizer, messages, request, is_tokenized)
            for messages in conversations
        ]
        call.result({"results": results})

    async def _render_one(
        self, tokenizer: TextTokenizer, messages: object, request: TemplateRequest, ids: bool
    ) -> dict[str, Any]:
        try:
            text = await render(self._text, tokenizer, messages, request)
            return await self._shape(tokenizer, text, ids)
        except IsthmusError as error:
            return {"error": error.to_wire()}

    async def _shape(
        self, tokenizer: TextTokenizer, text: str, is_tokenized: bool
    ) -> dict[str, Any]:
        if not is_tokenized:
            return {"text": text}
        (ids,) = await self._text.encode(tokenizer, [text], False)
        return _show_ids(ids)

    def _encode_inline(self, params: dict[str, Any]) -> list[int] | None:
        """Return the ids of a short text, or None when it is long."""
        text = params.get("text")
        handle = params.get("model")
        if len(params) == 2 and type(text) is str and type(handle) is str:
            tokenizer, special = self._models.get(handle).tokenizer, True
        else:
            tokenizer, text, special = self._read_encode(params)
        if len(text) > INLINE_TEXT_CHARS:
            return None
        return tokenizer.encode(text, special)

    async def _encode_long(self, params: dict[str, Any]) -> list[int]:
        tokenizer, text, special = self._read_encode(params)
        (ids,) = await self._text.encode(tokenizer, [text], special)
        return ids

    async def _batch_encode(self, call: Call, params: dict[str, Any], show: Show) -> None:
        fields = Params(params)
        tokenizer = self._tokenizer(fields)
        texts = _list(fields, "texts")
        special = fields.typed("add_special_tokens", bool, True)
        fields.done()
        good = [text for text in texts if type(text) is str]
        encoded = iter(await self._text.encode(tokenizer, good, special))

        def shape(index: int, text: object) -> dict[str, Any]:
            if type(text) is not str:
                raise InvalidRequest(f"texts[{index}] must be a string", field=f"texts[{index}]")
            return show(next(encoded))

        call.result({"results": _each(texts, shape)})

    def _read_encode(self, params: dict[str, Any]) -> tuple[TextTokenizer, str, bool]:
        fields = Params(params)
        tokenizer = self._tokenizer(fields)
        text = fields.typed("text", str)
        special = fields.typed("add_special_tokens", bool, True)
        fields.done()
        return tokenizer, text, special

    def _read_detokenize(self, params: dict[str, Any]) -> tuple[TextTokenizer, list[int], bool]:
        fields = Params(params)
        tokenizer = self._tokenizer(fields)
        ids = fields.token_ids("ids")
        skip = fields.typed("skip_special_tokens", bool, False)
        fields.done()
        return tokenizer, ids, skip

    def _tokenizer(self, fields: Params) -> TextTokenizer:
        return self._models.get(fields.typed("model", str)).tokenizer


def _list(fields: Params, name: str) -> list[Any]:
    items = fields.typed(name, list)
    if len(items) > BATCH_LIMIT:
        raise InvalidRequest(f"`{name}` has more than {BATCH_LIMIT} items", field=name)
    return items


def _each(items: list[Any], work: Callable[[int, Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Apply `work` to each item; an item that fails has its error in its place."""
    results = []
    for index, item in enumerate(items):
        try:
            results.append(work(index, item))
        except IsthmusError as error:
            results.append({"error": error.to_wire()})
    return results


def _show_ids(ids: list[int]) -> dict[str, Any]:
    return {"ids": token_ids(ids)}


def _show_count(ids: list[int]) -> dict[str, Any]:
    return {"count": len(ids)}
