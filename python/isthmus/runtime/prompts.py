"""From what a request gives (messages, a prompt or ids) to the token ids of a prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequest
from ..models.load import LoadedModel
from .params import Params
from .text_operations import TextOperations

MESSAGES_LIMIT = 10_000
"""Messages of one conversation."""


@dataclass(frozen=True, slots=True)
class TemplateRequest:
    """How a conversation is rendered."""

    variables: dict[str, Any]


def read_template_request(fields: Params) -> TemplateRequest:
    """Read the options of a chat template."""
    variables = dict(fields.typed("template_options", dict, {}))
    variables["add_generation_prompt"] = fields.typed("add_generation_prompt", bool, True)
    tools = fields.typed("tools", list, None)
    if tools is not None:
        variables["tools"] = tools
    return TemplateRequest(variables)


async def render(
    text: TextOperations, model: LoadedModel, messages: object, request: TemplateRequest
) -> str:
    """Render a conversation.

    Raises:
        InvalidRequest: The messages have a wrong shape, or the template refuses them.
        DeadlineExceeded: The template does not end.
    """
    return await text.render(model, _check_messages(messages), request.variables)


async def prompt_ids(text: TextOperations, model: LoadedModel, fields: Params) -> list[int]:
    """Read exactly one of `prompt`, `messages` and `ids`, and return token ids.

    Raises:
        InvalidRequest: None or several are there, or the one has a wrong shape.
    """
    given = [name for name in ("prompt", "messages", "ids") if name in fields]
    if len(given) != 1:
        raise InvalidRequest(
            f"give exactly one of `prompt`, `messages` and `ids`, not {', '.join(given) or 'none'}",
            field=given[1] if given else "prompt",
        )
    if given == ["ids"]:
        ids = fields.token_ids("ids")
        model.tokenizer.check(ids)
        return ids
    if given == ["prompt"]:
        prompt = fields.typed("prompt", str)
        # As mlx_lm.stream_generate: a prompt that begins with the BOS token gets no second one.
        bos = model.tokenizer.wrapper.bos_token
        return await text.ids(model, prompt, bos is None or not prompt.startswith(bos))
    request = read_template_request(fields)
    rendered = await render(text, model, fields.take("messages"), request)
    return await text.ids(model, rendered, False)


def _check_messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not 0 < len(messages) <= MESSAGES_LIMIT:
        raise InvalidRequest(
            f"`messages` must be an array of 1 to {MESSAGES_LIMIT} messages", field="messages"
        )
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or type(message.get("role")) is not str:
            raise InvalidRequest(
                f"messages[{index}] must be a map with a string `role` and a `content`",
                field=f"messages[{index}]",
            )
    return messages
