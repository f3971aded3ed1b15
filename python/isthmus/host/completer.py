"""What generates: a model, or a session of one.

The Python arguments of a generation become the protocol's params here, once for both; what an
option means, and whether it is valid, is for the runtime to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from ..limits import STREAM_CREDIT
from .caller import Caller
from .generation import GenerateOptions, Generation, wire_bias
from .text import wire_ids

if TYPE_CHECKING:
    from .model import Model

Message = Mapping[str, Any]
"""One message of a conversation: `role`, `content`, and whatever else the template reads."""


class Completer:
    """Goes on from a prompt.

    Args:
        runtime: Takes its requests.
    """

    def __init__(self, runtime: Caller) -> None:
        self._runtime = runtime

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
        params = wire_bias({**self._named(), **options})
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

    def _named(self) -> dict[str, Any]:
        """Return the params that say what generates."""
        raise NotImplementedError
