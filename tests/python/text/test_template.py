"""A template renders as transformers renders it, and builds no more than its budget."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest

from isthmus.errors import InvalidRequest
from isthmus.text import template
from isthmus.text.tokenizer import TextTokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The <weather> of 'a place' & time",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
]
CALL = {"name": "weather", "arguments": {"place": "Zürich", "days": 2, "exact": None}}
MESSAGES = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "Hello {name} 100% <b>"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": "14 °C", "name": "weather"},
    {"role": "assistant", "content": "<think>warm?</think>\n\nIt is\n14 °C.", "reasoning": "warm?"},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image"}]},
]

LIKE_QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and message.content is string %}
        {%- set ns.multi = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<think>' ~ thought.strip('\\n') ~ '</think>' + content ~ loop.index0 * 2 }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content }}
    {%- for call in message.tool_calls or [] %}
        {%- if call.function %}{%- set call = call.function %}{%- endif %}
        {{- '\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
        {{- call.arguments if call.arguments is string else call.arguments | tojson(indent=2) }}
        {{- '}' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
LIKE_LLAMA = """\
{{- bos_token }}{%- set date = strftime_now("%d %b %Y") if strftime_now is defined else "?" %}
{%- macro part(message, depth=1) %}
    {%- for block in message.content if block is mapping %}{{ block.text | default('[image]') }}
    {%- else %}{{ message.content | trim }}{%- endfor %}{{ '.' * depth }}{{ caller() if caller }}
{%- endmacro %}
{{- "Today is %s, %d messages, {}" % (date, messages | length) }}
{%- for message in messages %}
{%- if loop.first and message['role'] == 'system' %}{%- continue %}{%- endif %}
{{- '<|start|>{0:>9}<|end|>{1}'.format(message.role, 2 ** loop.index) }}
{{ part(message, loop.index) }}
{%- call part(message) %} and {{ message.role | upper | replace('U', 'u') }}{% endcall %}
{%- if loop.index > 4 %}{%- break %}{%- endif %}
{%- endfor %}
{%- set block %} {{ messages | map(attribute='role') | unique | join(', ') }} {% endset %}
{{- block | center(60) }}{{ none }}{{ [1, 'a', {'b': 2.5}] }}{{ undefined_thing }}{{ 7 % 4 }}
{{- "\\n a\\n b" | indent(4) }}{{ 'a,b'.split(',') | list }}{{ dict(a=1) | dictsort }}
{{- "-".join(['x', 'y']) }}{{ 'ab'.center(9, '*') }}{{ "%s: %05.1f" | format('t', 3.14159) }}
{{- [3, 1] + [2] | sort }}{{ '<&>' | e }}{{ 'long line of words' | wordwrap(9) }}
"""
REFUSING = """\
{%- for message in messages %}{%- if message.role == 'tool' %}
{{- raise_exception('No tools, please') }}{%- endif %}{%- endfor %}"""

BOMBS = {
    "repeated text": "{{ 'x' * 10**10 }}",
    "repeated list": "{{ [0] * 10**9 }}",
    "long loop": "{% for i in range(10**12) %}{% endfor %}",
    "long integer": "{{ 10 ** (10 ** 9) }}",
    "products": "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}",
    "wide field": "{{ '%10000000000d' % 1 }}",
    "width as a value": "{{ '%*d' % (10000000000, 1) }}",
    "formatted": "{{ '{:>10000000000}'.format(1) }}",
    "formatted by a filter": "{{ '%10000000000d' | format(1) }}",
    "centred": "{{ 'x'.center(10 ** 10) }}",
    "centred by a filter": "{{ ['x'] | map('center', 10 ** 10) | join }}",
    "padded": "{{ 'x'.zfill(10 ** 10) }}",
    "tabs": "{{ ('\\t' * 10 ** 5).expandtabs(10 ** 5) }}",
    "indented": "{{ ('a\\n' * 10 ** 4) | indent(10 ** 5) }}",
    "indented json": "{{ tools | tojson(indent=10 ** 9) }}",
    "filled rows": "{{ [1] | batch(10 ** 10, 0) | list }}",
    "doubled": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = STEP %}"
    "{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}
STEPS = {
    "plus": "n.x + n.x",
    "tilde": "n.x ~ n.x",
    "joined": "''.join([n.x, n.x])",
    "joined by a filter": "[n.x, n.x] | join",
    "replaced": "n.x.replace('a', 'aab')",
    "replaced by a filter": "n.x | replace('a', 'aab')",
    "rendered": "'%s%s' % (n.x, n.x)",
    "by a macro": "m(n.x)",
    "nested": "[n.x, n.x]",
}


def plain(tokenizer: TextTokenizer) -> Any:
    """Return a tokenizer of transformers that renders without a budget."""
    other = copy.copy(tokenizer.wrapper._tokenizer)
    del other.apply_chat_template
    return other


@pytest.mark.parametrize("source", [None, LIKE_QWEN, LIKE_LLAMA], ids=["own", "qwen", "llama"])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("prompt", [True, False])
def test_it_renders_what_transformers_renders(
    tokenizer: TextTokenizer, source: str | None, tools: Any, prompt: bool
) -> None:
    messages = [dict(message, content=message["content"] or "") for message in MESSAGES]
    if source is None:
        messages = [message for message in messages if isinstance(message["content"], str)]
    options = {"add_generation_prompt": prompt, "chat_template": source, "tools": tools}
    expected = plain(tokenizer).apply_chat_template(messages, tokenize=False, **options)
    assert tokenizer.render(messages, options) == expected
    assert source != LIKE_LLAMA or f"{datetime.date.today():%b %Y}, 6 messages" in expected


def test_what_a_template_refuses_is_told_in_its_own_words(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidRequest, match="No tools, please") as caught:
        tokenizer.render(MESSAGES, {"chat_template": REFUSING})
    assert "at fault" not in caught.value.message


@pytest.mark.parametrize("name", [name for name in BOMBS if name != "doubled"])
def test_a_bomb_is_refused_before_it_is_built(tokenizer: TextTokenizer, name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.render(MESSAGES, {"chat_template": BOMBS[name], "tools": TOOLS})
    assert "template is at fault, not the messages" in caught.value.message
    assert caught.value.details["field"] == "messages"


@pytest.mark.parametrize("step", STEPS)
def test_what_doubles_at_every_step_is_stopped_in_time(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(template, "TEMPLATE_BUDGET_CHARS", 1 << 20)
    macro = "{% macro m(text) %}{{ text }}{{ text }}{% endmacro %}"
    source = macro + BOMBS["doubled"].replace("STEP", STEPS[step]) + "{{ n.x | string | length }}"
    with pytest.raises(InvalidRequest, match="more than 1048576 characters"):
        tokenizer.render(MESSAGES, {"chat_template": source})


def test_every_rendering_has_the_whole_budget(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template, "TEMPLATE_BUDGET_CHARS", 10_000)
    options = {"chat_template": "{{ 'x' * 4000 }}"}
    assert {tokenizer.render(MESSAGES, options) for _ in range(5)} == {"x" * 4_000}
    with pytest.raises(InvalidRequest, match="10000 characters"):
        tokenizer.render(MESSAGES, {"chat_template": "{{ 'x' * 4000 }}{{ 'x' * 4000 }}"})


def test_a_tokenizer_without_a_template_of_jinja_is_left_alone() -> None:
    class OwnRenderer:
        def apply_chat_template(self) -> str:
            """Render in Python."""
            return "own"

    tokenizer = OwnRenderer()
    template.bind_template_budget(tokenizer)
    template.bind_template_budget(object())
    assert tokenizer.apply_chat_template() == "own" and not vars(tokenizer)
