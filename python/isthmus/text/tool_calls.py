"""Tool calls in a stream of text: taken out of what is shown, and parsed.

Where a model's template has tools, mlx-lm knows the markers around a call and a parser of its text;
only parsers that are part of mlx-lm are run, never code from a model folder. Text that may be the
beginning of a marker is held back until it is decided. What a model writes may be anything, so that
nothing here raises: a call that does not parse is kept as a problem, with its text.

Not known here: tokens, threads, whether a called tool exists.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import orjson

from ..limits import DEPTH_LIMIT, FORBIDDEN_KEYS, SAFE_INTEGER, TOOL_CALL_CHARS_LIMIT
from .stream import TextStream

ToolCall = dict[str, Any]

_PARSERS: Final = "mlx_lm.tool_parsers."
_DEPTH: Final = DEPTH_LIMIT - 12
"""Deepest arguments; the message around them takes the rest of what a host accepts."""


def supports_tool_calls(wrapper: Any) -> bool:
    """Whether tool calls of a model, an mlx-lm `TokenizerWrapper`, can be found and parsed."""
    parser = getattr(wrapper, "tool_parser", None)
    is_own = callable(parser) and str(parser.__module__).startswith(_PARSERS)
    return bool(is_own and wrapper.has_tool_calling and wrapper.tool_call_start)


class ToolCallStream:
    """Finds the tool calls of one generation.

    Args:
        wrapper: mlx-lm's `TokenizerWrapper`; `supports_tool_calls` has said yes to it.
        tools: The tools of the request, as the chat template gets them: some parsers read the
            types of arguments from them.
    """

    def __init__(self, wrapper: Any, tools: list[dict[str, Any]] | None = None) -> None:
        self._start: str = wrapper.tool_call_start
        self._end: str = wrapper.tool_call_end or ""
        self._parse: Callable[[str, Any], Any] = wrapper.tool_parser
        self._tools = tools
        self._held = ""
        self._call: list[str] | None = None
        self.calls: list[ToolCall] = []
        """The calls so far: `name`, `arguments` as a JSON object, `id` if the model gave one."""
        self.problems: list[ToolCall] = []
        """What did not parse: `name` and `arguments` None, `raw` its text, `error` why."""

    def add(self, text: str) -> str:
        """Take more text; return what is no part of a call, nor may begin one."""
        shown: list[str] = []
        self._held += text
        while marker := self._start if self._call is None else self._end:
            before, found, after = self._held.partition(marker)
            if not found:
                break
            self._take(before, shown)
            self._held = after
            if self._call is None:
                self._call = []
            else:
                self._close()
        keep = _open_length(self._held, marker)
        self._take(self._held[: len(self._held) - keep], shown)
        self._held = self._held[len(self._held) - keep :]
        return "".join(shown)

    def finish(self) -> str:
        """Return the rest of the text; a call that is still open ends here."""
        shown: list[str] = []
        self._take(self._held, shown)
        self._held = ""
        if self._call is not None:
            self._close()
        return "".join(shown)

    def _take(self, text: str, shown: list[str]) -> None:
        (shown if self._call is None else self._call).append(text)

    def _close(self) -> None:
        raw, self._call = "".join(self._call or []), None
        try:
            if len(raw) > TOOL_CALL_CHARS_LIMIT:
                raise ValueError(f"it is longer than {TOOL_CALL_CHARS_LIMIT} characters")
            parsed = self._parse(raw, self._tools)
            self.calls += list(map(_check, parsed if isinstance(parsed, list) else [parsed]))
        except Exception as error:  # a parser may raise anything on text that a model made up
            reason = f"{type(error).__name__}: {error}"[:500]
            self.problems.append({"name": None, "arguments": None, "raw": raw, "error": reason})


class ToolText:
    """The text of a stream of tokens without its tool calls.

    Args:
        text: Turns tokens into text.
        calls: Takes them out of it.
    """

    def __init__(self, text: TextStream, calls: ToolCallStream) -> None:
        self._text = text
        self._calls = calls

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._text.stop

    def add(self, token: int) -> str:
        """Take a token; return the text that it completes."""
        return self._calls.add(self._text.add(token))

    def finish(self) -> str:
        """Return the rest of the text."""
        return self._calls.add(self._text.finish()) + self._calls.finish()

    def report(self) -> dict[str, Any]:
        """Return the calls, those that did not parse among them."""
        return {"tool_calls": [*self._calls.calls, *self._calls.problems]}


def _check(call: Any) -> ToolCall:
    """Return a call as plain JSON.

    Raises:
        ValueError: It is none, or has what JSON lacks.
    """
    name, arguments = call["name"], call["arguments"]
    if isinstance(arguments, str):
        arguments = orjson.loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("it has no name, or its arguments are no object")
    # Parsers that read Python's literals give tuples, sets, bytes and numbers of any size.
    plain = orjson.loads(json.dumps(arguments, allow_nan=False))
    if _depth(plain) > _DEPTH:
        raise ValueError(f"its arguments nest deeper than {_DEPTH}")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "name": name, "arguments": plain}


def _depth(value: Any) -> int:
    """Return how deep a JSON value nests.

    Raises:
        ValueError: It holds what the wire cannot carry.
    """
    if isinstance(value, int) and not -SAFE_INTEGER <= value <= SAFE_INTEGER:
        raise ValueError("its arguments hold an integer that JavaScript's numbers cannot")
    if not isinstance(value, dict | list):
        return 0
    if not FORBIDDEN_KEYS.isdisjoint(value if isinstance(value, dict) else ()):
        raise ValueError(f"its arguments have one of the keys {', '.join(sorted(FORBIDDEN_KEYS))}")
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _open_length(text: str, marker: str) -> int:
    """Return the length of the longest end of `text` that begins the marker."""
    lengths = range(min(len(text), len(marker) - 1), 0, -1)
    return next((length for length in lengths if marker.startswith(text[-length:])), 0)
