"""Every method of the protocol answers as its table says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isthmus import host
from isthmus.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    IsthmusError,
    ModelNotLoaded,
    UnknownMethod,
)
from tests.contract.waiting import settled

pytestmark = pytest.mark.asyncio(loop_scope="session")

METHODS = {
    *("echo", "stream_echo", "load_model", "unload_model", "list_models", "model_info"),
    *("generate", "tokenize", "detokenize", "count_tokens", "apply_chat_template"),
    *("batch_tokenize", "batch_detokenize", "batch_count_tokens", "batch_apply_chat_template"),
    *("health", "stats"),
}
CHAT = [{"role": "user", "content": "hi"}]


async def test_the_hello_names_limits_methods_and_blas(runtime: host.Runtime) -> None:
    hello = runtime.hello
    assert (hello["protocol"], hello["codec"], hello["pid"]) == (1, "msgpack", runtime.pid)
    assert set(hello["limits"]) >= {
        "frame_bytes",
        "message_bytes",
        "depth",
        "piece_bytes",
        "in_flight",
    }
    assert set(hello["methods"]) >= METHODS
    assert set(hello["blas"]) == {"name", "path"}
    assert hello["runtime"] and hello["python"] and hello["platform"]


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**53) + 1, 1.5, "", "ü🎉", b"", b"\x00\xff", [], {}, {"a": [{"b": None}]}],
    ids=repr,
)
async def test_echo_returns_the_same_value(runtime: host.Runtime, value: object) -> None:
    echoed = await runtime.echo(value)
    assert echoed == value and type(echoed) is type(value)


async def test_stream_echo_counts_or_repeats(runtime: host.Runtime) -> None:
    assert [item async for item in runtime.stream_echo(1_000)] == list(range(1_000))
    assert [item async for item in runtime.stream_echo(3, {"a": 1}, credit=1)] == [{"a": 1}] * 3
    assert [item async for item in runtime.stream_echo(0)] == []


async def test_many_calls_at_once_are_each_answered(
    runtime: host.Runtime, model: host.Model
) -> None:
    texts = [f"text number {number}" for number in range(300)]
    together = await asyncio.gather(*map(model.tokenize, texts))
    assert together == [await model.tokenize(text) for text in texts[:20]] + together[20:]
    assert [len(ids) for ids in together] == await asyncio.gather(*map(model.count_tokens, texts))
    assert await asyncio.gather(*map(model.detokenize, together)) == texts


async def test_text_becomes_tokens_and_text_again(model: host.Model) -> None:
    for text in ("", "plain", "  odd \n spacing\t", "naïve 日本語 👩‍👩‍👧", "<|user|>hi<|end|>"):
        ids = await model.tokenize(text)
        assert all(0 <= token < model.info.vocab_size for token in ids)
        assert await model.detokenize(ids) == text
        assert await model.count_tokens(text) == len(ids)


async def test_special_tokens_can_be_skipped(model: host.Model) -> None:
    ids = await model.tokenize("<|user|>hi<|end|>")
    assert await model.detokenize(ids, skip_special_tokens=True) == "hi"


async def test_a_long_text_gives_the_same_tokens_as_its_parts(model: host.Model) -> None:
    line = "The quick brown fox jumps over the lazy dog.\n"
    ids = await model.tokenize(line * 5_000)
    assert ids == await model.tokenize(line) * 5_000
    assert await model.detokenize(ids) == line * 5_000


async def test_a_conversation_is_rendered_as_text_or_as_tokens(model: host.Model) -> None:
    text = await model.apply_chat_template(CHAT)
    assert text == "<|user|>hi<|end|><|assistant|>"
    assert await model.apply_chat_template(CHAT, tokenize=True) == await model.tokenize(text)
    assert await model.apply_chat_template(CHAT, add_generation_prompt=False) == "<|user|>hi<|end|>"


async def test_template_options_and_tools_reach_the_template(model: host.Model) -> None:
    template = "{{ colour }}{{ tools[0].name }}{{ messages[0].content }}"
    text = await model.apply_chat_template(
        CHAT,
        tools=[{"name": "look"}],
        template_options={"chat_template": template, "colour": "red"},
    )
    assert text == "redlookhi"


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ("hi", "messages"),
        ([{"content": "no role"}], "messages[0]"),
        ([*CHAT, 7], "messages[1]"),
        ([{"role": 7, "content": "x"}], "messages[0]"),
        ([{"role": "user"}], "messages"),
    ],
    ids=str,
)
async def test_messages_that_cannot_be_rendered_are_refused(
    model: host.Model, messages: Any, field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await model.apply_chat_template(messages)
    assert caught.value.details["field"] == field


async def test_one_bad_item_of_a_batch_fails_alone_and_order_is_kept(
    runtime: host.Runtime, model: host.Model
) -> None:
    texts = [f"text {number}" for number in range(63)]
    single = [await model.tokenize(text) for text in texts]
    mixed: list[Any] = [*texts[:20], 7, *texts[20:]]
    for method, counts in (("tokenize_batch", False), ("count_tokens_batch", True)):
        results = await getattr(model, method)(mixed)
        error = results.pop(20)
        assert isinstance(error, InvalidRequest) and error.details["field"] == "texts[20]"
        assert results == ([len(ids) for ids in single] if counts else single)
    decoded = await model.detokenize_batch([single[0], [0, 10**6], single[1]])
    assert (decoded[0], decoded[2]) == (texts[0], texts[1])
    assert isinstance(decoded[1], InvalidRequest)
    rendered = await model.apply_chat_template_batch([CHAT, [], CHAT], tokenize=True)
    assert rendered[0] == rendered[2] == await model.apply_chat_template(CHAT, tokenize=True)
    assert isinstance(rendered[1], InvalidRequest)


async def test_empty_batches_have_empty_results(model: host.Model) -> None:
    assert await model.tokenize_batch([]) == []
    assert await model.detokenize_batch([]) == []
    assert await model.count_tokens_batch([]) == []
    assert await model.apply_chat_template_batch([]) == []


@pytest.mark.parametrize("ids", [[768], [-1], [2**32], [0, 1, 2**31], [1.5], ["1"]], ids=str)
async def test_ids_out_of_range_never_reach_the_model(
    runtime: host.Runtime, model: host.Model, ids: list[Any]
) -> None:
    for method in ("detokenize", "generate"):
        with pytest.raises(InvalidRequest) as caught:
            await runtime.call(method, {"model": model.info.model, "ids": ids})
        assert caught.value.details["field"] == "ids"


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("tokenize", {"text": "x", "add_special_token": True}, "add_special_token"),
        ("tokenize", {"text": 7}, "text"),
        ("tokenize", {}, "text"),
        ("count_tokens", {"text": "x", "add_special_tokens": 1}, "add_special_tokens"),
        ("detokenize", {"ids": b"123"}, "ids"),
        ("batch_tokenize", {"texts": "x"}, "texts"),
        ("model_info", {"more": 1}, "more"),
        ("generate", {"prompt": "x", "temprature": 1}, "temprature"),
    ],
)
async def test_a_wrong_or_unknown_parameter_is_refused_by_name(
    runtime: host.Runtime, model: host.Model, method: str, params: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await runtime.call(method, {"model": model.info.model, **params})
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "method",
    sorted(METHODS - {"echo", "stream_echo", "load_model", "health", "stats", "list_models"}),
)
async def test_a_handle_that_nobody_gave_is_refused(runtime: host.Runtime, method: str) -> None:
    with pytest.raises(ModelNotLoaded):
        await runtime.call(method, {"model": "no-such-model-1"})


async def test_an_unknown_method_is_refused(runtime: host.Runtime) -> None:
    with pytest.raises(UnknownMethod):
        await runtime.call("no_such_method")


async def test_health_stats_and_ping_say_how_it_is(
    runtime: host.Runtime, model: host.Model
) -> None:
    seen = await runtime.health()
    assert (seen["state"], seen["is_ready"], seen["reason"]) == ("running", True, None)
    for health in (seen["runtime"], await runtime.call("health"), await runtime.ping()):
        assert health["engine"]["state"] in ("idle", "busy")
        assert health["loop_lag_ms"] >= 0 and health["loop_lag_max_ms"] >= 0
        assert health["rss_bytes"] > 10**7 and health["uptime_ms"] > 0
    assert (await runtime.stats())["bytes_written"] > 0


async def test_a_cancelled_call_settles_and_others_go_on(runtime: host.Runtime) -> None:
    stream = runtime.stream("stream_echo", {"count": 10}, credit=1)
    reading = stream.read()
    assert await anext(reading) == [0]
    stream.cancel()
    with pytest.raises(Cancelled):
        async for _ in reading:
            pass
    assert await runtime.echo("still here") == "still here"


async def test_a_deadline_of_a_call_is_kept_by_the_runtime(runtime: host.Runtime) -> None:
    stream = runtime.stream("stream_echo", {"count": 10}, credit=1, deadline_ms=50)
    await settled(runtime)
    with pytest.raises(DeadlineExceeded) as caught:
        async for payload in stream.read():
            assert payload == [0]
    assert caught.value.details["received"] == 1


@pytest.mark.parametrize("bad", [{"deadline_ms": 0}, {"deadline_ms": -5}])
async def test_an_impossible_deadline_is_refused(
    runtime: host.Runtime, bad: dict[str, float]
) -> None:
    with pytest.raises(InvalidRequest):
        await runtime.echo(1, deadline_ms=bad["deadline_ms"])


async def test_an_integer_that_javascript_cannot_hold_fails_its_own_request(
    runtime: host.Runtime,
) -> None:
    with pytest.raises(IsthmusError):
        await runtime.echo(2**53)
    assert await runtime.echo(2**53 - 1) == 2**53 - 1


KEYS = st.text(max_size=5).filter(lambda key: key not in ("__proto__", "constructor", "prototype"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


async def test_any_value_survives_the_round_trip(runtime: host.Runtime) -> None:
    values: list[Any] = []

    @settings(
        max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(VALUES)
    def collect(value: object) -> None:
        values.append(value)

    collect()
    assert await asyncio.gather(*map(runtime.echo, values)) == values
