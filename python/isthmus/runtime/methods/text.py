"""`tokenize`, `detokenize`, `count_tokens`, `apply_chat_template`, each also on lists.

Texts and ids go to the multiplexer, which computes what has arrived together, whatever frames it
came in. In a batch every item has its own result or error.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

from ...errors import InvalidRequest, IsthmusError
from ...models.load import LoadedModel
from ...multiplex.multiplexer import Outcome
from ...text.batch import Result
from ...text.tokenizer import Pieces
from ...wire.codec import token_ids
from ..params import Params
from ..prompts import TemplateRequest, read_template_request, render
from ..requests import Call
from ..router import Router
from ..services import Services
from ..text_operations import is_long

BATCH_LIMIT = 65_536
"""Items of one batch."""

Show = Callable[[Any], dict[str, Any]]


def register(router: Router, services: Services) -> None:
    """Add the methods."""
    methods = TextMethods(services)
    router.register("tokenize", begin=methods.tokenize)
    router.register("count_tokens", begin=methods.count)
    router.register("detokenize", begin=methods.detokenize)
    router.register("apply_chat_template", run=methods.apply_chat_template)
    router.register("batch_tokenize", begin=methods.batch_tokenize)
    router.register("batch_count_tokens", begin=methods.batch_count)
    router.register("batch_detokenize", begin=methods.batch_detokenize)
    router.register("batch_apply_chat_template", run=methods.batch_apply_chat_template)


class TextMethods:
    """Text work on a model's tokenizer."""

    def __init__(self, services: Services) -> None:
        self._models = services.models
        self._multiplexer = services.multiplexer
        self._text = services.text

    def tokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the ids of a text."""
        text, handle = params.get("text"), params.get("model")
        show: Show = _show_ids
        if len(params) == 2 and type(text) is str and type(handle) is str:
            model, result, special = self._models.get(handle), Result.IDS, True
        else:
            fields = Params(params)
            model, text = self._model(fields), fields.typed("text", str)
            result, show = _read_pieces(fields)
            special = _read_special(fields)
        operation = self._text.encode(model, result, special, is_long(text))
        self._multiplexer.add(
            operation, (text,), call, lambda outcomes: _answer(call, outcomes, show)
        )

    def count(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the number of tokens of a text."""
        fields = Params(params)
        model, text = self._model(fields), fields.typed("text", str)
        special = _read_special(fields)
        operation = self._text.encode(model, Result.COUNT, special, is_long(text))
        self._multiplexer.add(
            operation, (text,), call, lambda outcomes: _answer(call, outcomes, _show_count)
        )

    def detokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the text of ids."""
        fields = Params(params)
        model, ids = self._model(fields), fields.take("ids")
        skip = fields.typed("skip_special_tokens", bool, False)
        fields.done()
        operation = self._text.decode(model, skip)
        self._multiplexer.add(
            operation, (("ids", ids),), call, lambda outcomes: _answer(call, outcomes, _show_text)
        )

    def batch_tokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the ids of each text."""
        fields = Params(params)
        model, texts = self._model(fields), _list(fields, "texts")
        result, show = _read_pieces(fields)
        self._encode_batch(call, model, texts, result, _read_special(fields), show)

    def batch_count(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the number of tokens of each text."""
        fields = Params(params)
        model, texts = self._model(fields), _list(fields, "texts")
        self._encode_batch(call, model, texts, Result.COUNT, _read_special(fields), _show_count)

    def batch_detokenize(self, call: Call, params: dict[str, Any]) -> None:
        """Answer with the text of each list of ids."""
        fields = Params(params)
        model, lists = self._model(fields), _list(fields, "ids")
        skip = fields.typed("skip_special_tokens", bool, False)
        fields.done()
        items = [(f"ids[{index}]", ids) for index, ids in enumerate(lists)]
        self._multiplexer.add(
            self._text.decode(model, skip),
            items,
            call,
            lambda outcomes: _answer_all(call, outcomes, _show_text),
        )

    async def apply_chat_template(self, call: Call, params: dict[str, Any]) -> None:
        """Render one conversation."""
        fields = Params(params)
        model = self._model(fields)
        request = read_template_request(fields)
        messages = fields.take("messages")
        is_tokenized = fields.typed("tokenize", bool, False)
        fields.done()
        text = await render(self._text, model, messages, request)
        call.result(await self._shape(model, text, is_tokenized))

    async def batch_apply_chat_template(self, call: Call, params: dict[str, Any]) -> None:
        """Render each conversation."""
        fields = Params(params)
        model = self._model(fields)
        request = read_template_request(fields)
        conversations = _list(fields, "conversations")
        is_tokenized = fields.typed("tokenize", bool, False)
        fields.done()
        results = await asyncio.gather(
            *(
                self._render_one(model, messages, request, is_tokenized)
                for messages in conversations
            )
        )
        call.result({"results": results})

    async def _render_one(
        self, model: LoadedModel, messages: object, request: TemplateRequest, ids: bool
    ) -> dict[str, Any]:
        try:
            text = await render(self._text, model, messages, request)
            return await self._shape(model, text, ids)
        except IsthmusError as error:
            return {"error": error.to_wire()}

    async def _shape(self, model: LoadedModel, text: str, is_tokenized: bool) -> dict[str, Any]:
        if not is_tokenized:
            return {"text": text}
        return {"ids": token_ids(await self._text.ids(model, text, False))}

    def _encode_batch(
        self,
        call: Call,
        model: LoadedModel,
        texts: list[Any],
        result: Result,
        special: bool,
        show: Show,
    ) -> None:
        """Encode short and long texts in batches of their own, and answer when both are done."""
        outcomes: list[Outcome] = [None] * len(texts)
        places: dict[bool, list[int]] = {}
        for index, text in enumerate(texts):
            if type(text) is str:
                places.setdefault(is_long(text), []).append(index)
            else:
                field = f"texts[{index}]"
                outcomes[index] = InvalidRequest(f"{field} must be a string", field=field)
        left = len(places)
        if not places:
            _answer_all(call, outcomes, show)

        def done(indices: list[int], part: list[Outcome]) -> None:
            nonlocal left
            for index, outcome in zip(indices, part, strict=True):
                outcomes[index] = outcome
            left -= 1
            if left == 0:
                _answer_all(call, outcomes, show)

        for are_long, indices in places.items():
            operation = self._text.encode(model, result, special, are_long)
            items = texts if len(indices) == len(texts) else [texts[index] for index in indices]
            self._multiplexer.add(operation, items, call, partial(done, indices))

    def _model(self, fields: Params) -> LoadedModel:
        return self._models.get(fields.typed("model", str))


def _read_special(fields: Params) -> bool:
    """Read the last option of an encoding."""
    special = fields.typed("add_special_tokens", bool, True)
    fields.done()
    return special


def _read_pieces(fields: Params) -> tuple[Result, Show]:
    """Read what is wanted besides ids."""
    has_offsets = fields.typed("offsets", bool, False)
    has_tokens = fields.typed("tokens", bool, False)
    unit = fields.typed("offset_unit", str, "code_point")
    if unit not in ("code_point", "utf16"):
        raise InvalidRequest("`offset_unit` must be code_point or utf16", field="offset_unit")
    if not has_offsets and not has_tokens:
        return Result.IDS, _show_ids

    def show(pieces: Pieces) -> dict[str, Any]:
        shown: dict[str, Any] = {"ids": token_ids(pieces.ids)}
        if has_offsets:
            offsets = pieces.offsets if unit == "code_point" else pieces.offsets_utf16()
            shown["offsets"] = token_ids([place for pair in offsets for place in pair])
        if has_tokens:
            shown["tokens"] = pieces.tokens
        return shown

    return Result.PIECES, show


def _list(fields: Params, name: str) -> list[Any]:
    items = fields.typed(name, list)
    if len(items) > BATCH_LIMIT:
        raise InvalidRequest(f"`{name}` has more than {BATCH_LIMIT} items", field=name)
    return items


def _answer(call: Call, outcomes: list[Outcome], show: Show) -> None:
    outcome = outcomes[0]
    if isinstance(outcome, IsthmusError):
        call.error(outcome)
    else:
        call.result(show(outcome))


def _answer_all(call: Call, outcomes: list[Outcome], show: Show) -> None:
    results = [
        {"error": outcome.to_wire()} if isinstance(outcome, IsthmusError) else show(outcome)
        for outcome in outcomes
    ]
    call.result({"results": results})


def _show_ids(ids: array[int]) -> dict[str, Any]:
    return {"ids": ids}


def _show_count(count: int) -> dict[str, Any]:
    return {"count": count}


def _show_text(text: str) -> dict[str, Any]:
    return {"text": text}
