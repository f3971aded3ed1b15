"""Tool calls are taken out of the text and parsed, however it is cut; no text raises."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tool_parsers import json_tools, kimi_k2, mistral, pythonic, qwen3_coder

from isthmus.text.tool_calls import ToolCallStream, supports_tool_calls

MANY = settings(max_examples=200, deadline=None, database=None)
PIECES = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "<tool", "_call>", "<", "/", "a", '{"name": "f",']
    )
    | st.text(alphabet="<a/{}>", max_size=3),
    max_size=12,
)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=8)


@dataclass
class FakeWrapper:
    """What is read of mlx-lm's `TokenizerWrapper`."""

    tool_parser: Any
    tool_call_start: str | None
    tool_call_end: str | None
    has_tool_calling: bool = True
    has_thinking: bool = False
    response_transitions: Any = ()
    structural_markers: tuple[str, ...] = ()


def of(module: Any) -> FakeWrapper:
    """Return a wrapper of one of mlx-lm's parsers."""
    transitions: dict[str, Any] = {}
    return FakeWrapper(
        module.parse_tool_call,
        module.tool_call_start,
        module.tool_call_end,
        response_transitions=transitions,
    )


def call(text: str) -> str:
    """Put a call's markers around it."""
    return f"<tool_call>{text}</tool_call>"


def stream(module: Any, text: str, size: int = 1, tools: Any = None) -> tuple[ToolCallStream, str]:
    """Return the stream after a text in parts of one size, and what was shown."""
    calls = ToolCallStream(of(module), tools)
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    return calls, "".join([calls.add(part) for part in parts] + [calls.finish()])


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_a_call_is_parsed_and_not_shown(size: int) -> None:
    text = "Let me see." + call('{"name": "now", "arguments": {"zone": "é😀"}}') + " Done <to"
    calls, shown = stream(json_tools, text, size)
    assert shown == "Let me see. Done <to"
    assert calls.calls == [{"name": "now", "arguments": {"zone": "é😀"}}]
    assert calls.problems == []


def test_what_may_begin_a_call_is_held_back_until_it_is_decided() -> None:
    calls = ToolCallStream(of(json_tools))
    assert [calls.add(part) for part in ("a <", "tool", "s> <", "too", "l_call>x")] == [
        "a ",
        "",
        "<tools> ",
        "",
        "",
    ]


def test_several_calls_follow_each_other() -> None:
    one, two = '{"name": "a", "arguments": {}}', '{"name": "b", "arguments": {"n": 1}}'
    calls, shown = stream(json_tools, f"{call(one)}\n{call(two)}")
    assert shown == "\n"
    assert [each["name"] for each in calls.calls] == ["a", "b"]


@pytest.mark.parametrize(
    ("module", "text", "expected"),
    [
        (
            kimi_k2,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
            '<|tool_call_argument_begin|>{"a": 2}<|tool_call_end|><|tool_calls_section_end|>',
            [{"id": "functions.add:0", "name": "add", "arguments": {"a": 2}}],
        ),
        (
            mistral,
            '[TOOL_CALLS]add[ARGS]{"a": 2}add[ARGS]{"a": 3}',
            [{"name": "add", "arguments": {"a": 2}}, {"name": "add", "arguments": {"a": 3}}],
        ),
        (
            pythonic,
            "<|tool_call_start|>[add(a=2, pair=(1, None))]<|tool_call_end|>",
            [{"name": "add", "arguments": {"a": 2, "pair": [1, None]}}],
        ),
    ],
)
def test_the_parsers_of_mlx_lm_are_used(module: Any, text: str, expected: list[Any]) -> None:
    calls, shown = stream(module, text)
    assert (shown, calls.calls, calls.problems) == ("", expected, [])


def test_arguments_have_the_types_that_the_tools_give_them() -> None:
    tool = {"name": "add", "parameters": {"properties": {"a": {"type": "string"}}}}
    text = call("<function=add><parameter=a>\n2\n</parameter></function>")
    tools = [{"type": "function", "function": tool}]
    assert stream(qwen3_coder, text, tools=tools)[0].calls[0]["arguments"] == {"a": "2"}


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "{",
        "[]" * 2,
        '{"name": "f"}',
        '{"name": 1, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "x"}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": "\\ud800"}}',
        '{"name": "f", "arguments": ' + '{"x":' * 30 + "1" + "}" * 31,
        "[" * 100_000,
        " " * 300_000,
    ],
)
def test_a_call_that_does_not_parse_is_kept_with_its_text(raw: str) -> None:
    calls, shown = stream(json_tools, f"a{call(raw)}b", size=1000)
    assert (shown, calls.calls) == ("ab", [])
    (problem,) = calls.problems
    assert (problem["name"], problem["arguments"], problem["raw"]) == (None, None, raw)
    assert problem["error"]


def test_values_that_json_lacks_do_not_get_through() -> None:
    text = "<|tool_call_start|>[f(a={1, 2})][f(a=b'x')]<|tool_call_end|>"
    calls, _ = stream(pythonic, text)
    assert json.loads(json.dumps(calls.calls)) == calls.calls


def test_a_call_that_the_end_cuts_off_is_parsed_or_kept() -> None:
    whole, _ = stream(json_tools, '<tool_call>{"name": "f", "arguments": {}}')
    assert whole.calls == [{"name": "f", "arguments": {}}]
    cut, shown = stream(json_tools, 'a<tool_call>{"name": "f", "argu</tool')
    assert (shown, cut.calls) == ("a", [])
    assert cut.problems[0]["raw"] == '{"name": "f", "argu</tool'


@MANY
@given(PIECES, CUTS)
def test_any_cutting_shows_the_same_and_finds_the_same(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    whole, expected = stream(json_tools, text, max(len(text), 1))
    calls, shown, start = ToolCallStream(of(json_tools)), "", 0
    for index in range(len(text)):
        size = cuts[index % len(cuts)]
        shown += calls.add(text[start : start + size])
        start += size
    shown += calls.finish()
    assert (shown, calls.calls, calls.problems) == (expected, whole.calls, whole.problems)


@MANY
@given(PIECES)
def test_what_is_shown_is_what_mlx_lm_shows(pieces: list[str]) -> None:
    machine = make_text_state_machine(of(json_tools))
    state, theirs = machine.make_state("normal"), ""
    for piece in pieces:
        state, segments = TextStateMachine.split(state, piece)
        theirs += "".join(text for name, text in segments if name == "normal")
    state, rest, name = TextStateMachine.flush(state)
    theirs += rest if name == "normal" else ""
    calls = ToolCallStream(of(json_tools))
    assert "".join([calls.add(piece) for piece in pieces] + [calls.finish()]) == theirs


def test_a_model_without_tools_or_with_a_parser_of_its_own_is_not_supported(wrapper: Any) -> None:
    assert supports_tool_calls(of(json_tools))
    assert not supports_tool_calls(wrapper)
    foreign = of(json_tools)
    foreign.tool_parser = stream
    assert not supports_tool_calls(foreign)
