"""Handles stay the caller's when the process that had the models has ended."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from isthmus import host
from isthmus.errors import IsthmusError, MemoryLimit, ModelLoadFailed, RuntimeExited
from isthmus.host.registry import ModelState
from isthmus.host.restarts import RestartOptions
from tests.python.host.fakes import ERROR
from tests.python.host.kept import BACKOFF_MS, KeptBench, kept

SOURCE = {
    "source": "a",
    "revision": None,
    "adapter_path": None,
    "trust_remote_code": False,
    "local_files_only": False,
}


@pytest.fixture
def bench() -> Iterator[KeptBench]:
    """A runtime that is kept as by default."""
    with kept() as one:
        yield one


def refuse(bench: KeptBench, index: int, code: str, **details: object) -> None:
    """Answer a request by an error."""
    error = {"code": code, "message": "no", "details": details}
    bench.process.say((ERROR, bench.process.requests[index][0], error))
    bench.turn()


def named(bench: KeptBench) -> list[Any]:
    """Return what arrived at the newest process, and about which model."""
    return [
        (method, params.get("handle", params.get("model")))
        for _, method, params in bench.process.requests
    ]


def test_the_first_call_that_names_it_has_a_model_loaded_again_once(bench: KeptBench) -> None:
    model = bench.load("a", pin=True, kv_tokens=100)
    bench.load("a")
    bench.follow()
    assert bench.process.requests == []
    calls = [bench.start(model.apply_chat_template([])) for _ in range(3)]
    (_, method, params) = bench.process.requests[0]
    assert method == "load_model" and params == {
        **SOURCE,
        "pin": True,
        "kv_tokens": 100,
        "handle": "a",
        "references": 2,
        "prior_failures": 0,
    }
    assert bench.process.methods == ["load_model"] and not any(call.done() for call in calls)
    bench.answer({})
    assert bench.process.methods == ["load_model", *["apply_chat_template"] * 3]
    for index in (1, 2, 3):
        bench.answer({"text": str(index)}, index)
    assert [call.result() for call in calls] == ["1", "2", "3"]
    bench.start(model.tokenize("x"))
    assert len(bench.process.requests) == 5
    bench.answer({"ids": b""})


def test_what_names_no_stale_model_does_not_wait(bench: KeptBench) -> None:
    stale = bench.load("a")
    bench.follow()
    waits, echo = bench.start(stale.count_tokens("x")), bench.call("echo", data=1)
    fresh = bench.start(bench.runtime.load_model("b"))
    assert bench.process.methods == ["load_model", "echo", "load_model"]
    bench.answer("now", 1)
    assert echo.result() == "now" and not waits.done() and not fresh.done()
    refuse(bench, 0, "MEMORY_LIMIT")
    assert isinstance(bench.error(waits), MemoryLimit)


def test_calls_of_one_model_keep_their_order_whatever_else_they_name(bench: KeptBench) -> None:
    target, draft = bench.load("a"), bench.load("b")
    bench.follow()
    bench.call("tokenize", model="b")
    bench.call("check_draft_compatibility", model="a", draft_model="b")
    bench.call("tokenize", model="a")
    assert named(bench) == [("load_model", "b"), ("load_model", "a")]
    bench.answer({}, 1)
    assert len(bench.process.requests) == 2
    bench.answer({}, 0)
    assert named(bench)[2:] == [
        ("tokenize", "b"),
        ("check_draft_compatibility", "a"),
        ("tokenize", "a"),
    ]
    assert target.info.model == "a" and draft.info.model == "b"


def test_a_generation_with_a_draft_model_waits_for_both(bench: KeptBench) -> None:
    target, draft = bench.load("a"), bench.load("b")

    async def generate() -> host.GenerationResult:
        return await target.generate("x", draft_model=draft)

    running = bench.start(generate())
    bench.follow()
    assert named(bench) == [("load_model", "a"), ("load_model", "b")]
    assert [params["prior_failures"] for _, _, params in bench.process.requests] == [1, 1]
    bench.answer({}, 0)
    assert len(bench.process.requests) == 2
    bench.answer({}, 1)
    assert bench.process.methods[2:] == ["generate"]
    bench.end()
    assert running.result().finish_reason == "stop"


def test_what_cannot_be_loaded_again_fails_its_callers_each_with_its_own_error(
    bench: KeptBench,
) -> None:
    gone, other = bench.load("a"), bench.load("b")
    bench.follow()
    calls = [bench.start(gone.apply_chat_template([])) for _ in range(2)]
    good = bench.start(other.apply_chat_template([]))
    refuse(bench, 0, "MODEL_LOAD_FAILED", cause="missing")
    first, second = (bench.error(call) for call in calls)
    assert isinstance(first, ModelLoadFailed) and first is not second
    assert first.details == {"cause": "missing"} and not good.done()
    bench.answer({}, 1)
    bench.answer({"text": "fine"})
    assert good.result() == "fine"
    bench.start(gone.apply_chat_template([]))
    assert named(bench)[-1] == ("load_model", "a")
    bench.answer({})
    assert named(bench)[-1] == ("apply_chat_template", "a")


def test_a_model_that_ends_the_process_that_loads_it_again_is_not_loaded_a_third_time(
    bench: KeptBench,
) -> None:
    heavy, other = bench.load("a"), bench.load("b")
    bench.follow()
    calls = [bench.start(heavy.apply_chat_template([])) for _ in range(2)]
    bench.die()
    for call in calls:
        error = bench.error(call)
        assert isinstance(error, ModelLoadFailed) and error.details["cause"] == "crashed"
        assert error.details["model"] == "a" and "`load_model`" in error.message
    bench.advance(2 * BACKOFF_MS)
    refused = bench.start(heavy.apply_chat_template([]))
    assert isinstance(bench.error(refused), ModelLoadFailed) and bench.process.requests == []
    fine = bench.start(other.apply_chat_template([]))
    bench.answer({})
    bench.answer({"text": "fine"})
    assert fine.result() == "fine"
    again = bench.start(bench.runtime.load_model("a"))
    params = bench.process.requests[-1][2]
    assert (params["handle"], params["references"]) == ("a", 2)
    info = {**model_info("a")}
    bench.answer(info)
    assert again.result().info.model == "a"
    bench.start(heavy.apply_chat_template([]))
    assert named(bench)[-1] == ("apply_chat_template", "a")
    bench.answer({"text": ""})


def model_info(handle: str) -> dict[str, Any]:
    """Return a model's info as it travels."""
    from tests.python.host.fakes import model_info as make

    info = make(handle)
    return {name: getattr(info, name) for name in info.__slots__}


def test_a_restart_by_hand_while_a_model_is_loaded_again_loses_none(bench: KeptBench) -> None:
    model = bench.load("a")
    bench.follow()
    call = bench.start(model.apply_chat_template([]))
    restarting = bench.start(bench.runtime.restart())
    bench.die(None)
    assert restarting.done() and named(bench) == [("load_model", "a")]
    bench.answer({})
    bench.answer({"text": "yes"})
    assert call.result() == "yes"


def test_a_stale_model_is_given_back_here(bench: KeptBench) -> None:
    first, second = bench.load("a"), bench.load("a")
    bench.die()
    unloading = bench.start(first.unload())
    assert unloading.result() is False
    bench.advance(BACKOFF_MS)
    last = bench.start(second.unload())
    assert last.result() is True and bench.process.requests == []
    unknown = bench.start(second.tokenize("x"))
    refuse(bench, 0, "MODEL_NOT_LOADED")
    error = bench.error(unknown)
    assert isinstance(error, IsthmusError) and error.code == "MODEL_NOT_LOADED"


def test_an_unload_does_not_overtake_what_waits_for_the_model(bench: KeptBench) -> None:
    model = bench.load("a")
    bench.follow()
    call, unloading = bench.start(model.count_tokens("x")), bench.start(model.unload())
    assert named(bench) == [("load_model", "a")]
    bench.answer({})
    assert bench.process.methods[1:] == ["count_tokens", "unload_model"]
    bench.answer({"count": 1}, 1)
    bench.answer({"unloaded": True, "references": 0, "resident": True}, 2)
    assert (call.result(), unloading.result()) == (1, True)
    bench.follow()
    bench.start(model.count_tokens("x"))
    assert bench.process.methods == ["count_tokens"]
    bench.answer({"count": 1})


def test_an_unload_behind_a_model_that_cannot_be_loaded_gives_it_back(bench: KeptBench) -> None:
    model = bench.load("a")
    bench.follow()
    call, unloading = bench.start(model.count_tokens("x")), bench.start(model.unload())
    refuse(bench, 0, "MODEL_LOAD_FAILED")
    assert isinstance(bench.error(call), ModelLoadFailed) and unloading.result() is True


def test_an_unload_that_the_process_took_with_it_has_given_the_model_back(
    bench: KeptBench,
) -> None:
    first, _ = bench.load("a"), bench.load("a")
    unloading = bench.start(first.unload())
    bench.die()
    assert unloading.result() is False
    bench.advance(BACKOFF_MS)
    assert bench.connection.registry._records["a"].references == 1
    last = bench.start(first.unload())
    assert last.result() is True and bench.connection.registry._records == {}


def test_an_unload_behind_a_call_that_is_kept_goes_with_it_to_the_next_process(
    bench: KeptBench,
) -> None:
    model = bench.load("a")
    call, unloading = bench.start(model.count_tokens("x")), bench.start(model.unload())
    assert bench.process.methods[1:] == ["count_tokens", "unload_model"]
    bench.follow()
    assert named(bench) == [("load_model", "a")] and not unloading.done()
    bench.answer({})
    assert bench.process.methods[1:] == ["count_tokens", "unload_model"]
    bench.answer({"count": 1}, 1)
    bench.answer({"unloaded": True, "references": 0, "resident": True}, 2)
    assert (call.result(), unloading.result()) == (1, True)


def test_an_unload_that_no_other_process_follows_fails() -> None:
    with kept(restart=RestartOptions(limit=0)) as bench:
        unloading = bench.start(bench.load("a").unload())
        bench.die()
        assert isinstance(bench.error(unloading), RuntimeExited)


def test_an_unload_that_waits_for_a_restart_by_hand_needs_no_model(bench: KeptBench) -> None:
    model = bench.load("a")
    bench.start(bench.runtime.restart())
    unloading = bench.start(model.unload())
    assert not unloading.done()
    bench.die(None)
    assert unloading.result() is True and bench.process.requests == []


def test_a_model_takes_the_place_of_another(bench: KeptBench) -> None:
    old = bench.load("a")
    new = bench.load("b", replace=old)
    assert bench.process.requests[-1][2]["replace"] == "a"
    bench.follow()
    bench.call("tokenize", model="a")
    assert named(bench) == [("tokenize", "a")]
    bench.start(new.tokenize("x"))
    params = bench.process.requests[-1][2]
    assert params["handle"] == "b" and "replace" not in params
    bench.answer({})
    bench.answer({"ids": b""}, 0)


def test_a_model_that_is_gone_though_nothing_took_its_place_is_not_loaded_again(
    bench: KeptBench,
) -> None:
    old = bench.load("a")
    failing = bench.start(bench.runtime.load_model("b", replace=old))
    refuse(bench, -1, "MODEL_LOAD_FAILED", replaced=True)
    assert isinstance(bench.error(failing), ModelLoadFailed)
    bench.follow()
    bench.start(old.tokenize("x"))
    assert bench.process.methods == ["tokenize"]
    bench.answer({"ids": b""})


def test_a_lost_model_can_be_replaced(bench: KeptBench) -> None:
    heavy = bench.load("a")
    bench.follow()
    bench.start(heavy.count_tokens("x"))
    bench.die()
    bench.advance(2 * BACKOFF_MS)
    light = bench.load("b", replace=heavy)
    assert "replace" not in bench.process.requests[-1][2] and light.info.model == "b"
    assert bench.connection.registry._records.keys() == {"b"}


def test_only_work_with_a_model_counts_as_its_failure(bench: KeptBench) -> None:
    model, other = bench.load("a"), bench.load("b")
    bench.call("check_draft", model="a")
    bench.call("tokenize", model="b")
    bench.follow()
    failures = {
        params["handle"]: params["prior_failures"]
        for _, method, params in bench.process.requests
        if method == "load_model"
    }
    assert failures == {"a": 1, "b": 0}
    assert model.info.model == "a" and other.info.model == "b"


def test_a_load_whose_caller_has_left_is_given_back_when_it_has_succeeded(
    bench: KeptBench,
) -> None:
    loading = bench.start(bench.runtime.load_model("a"))
    loading.cancel()
    bench.turn()
    bench.answer(model_info("a"), 0)
    assert bench.process.methods == ["load_model", "unload_model"]
    bench.answer({"unloaded": True, "references": 0, "resident": True})
    assert bench.connection.registry._records == {}


def test_a_model_that_is_given_back_as_the_process_ends_is_nobody_s(bench: KeptBench) -> None:
    bench.load("a")
    loading = bench.start(bench.runtime.load_model("a"))
    loading.cancel()
    bench.turn()
    bench.answer(model_info("a"), 1)
    assert bench.process.methods[-1] == "unload_model"
    bench.die()
    bench.advance(BACKOFF_MS)
    assert bench.connection.registry._records["a"].references == 1
    assert bench.process.requests == []


def test_nobody_hears_that_a_model_could_not_be_given_back() -> None:
    with kept(restart=RestartOptions(limit=0)) as bench:
        loading = bench.start(bench.runtime.load_model("a"))
        loading.cancel()
        bench.turn()
        bench.answer(model_info("a"), 0)
        bench.die()
        gc.collect()
        bench.turn()
        assert bench.loop.defects == [] and bench.connection.registry._records == {}


def test_such_a_load_that_comes_after_the_end_breaks_nothing(bench: KeptBench) -> None:
    loading = bench.start(bench.runtime.load_model("a"))
    loading.cancel()
    bench.start(bench.runtime.close())
    bench.answer(model_info("a"), 0)
    assert not bench.process.is_killed
    bench.die(None)


@pytest.mark.parametrize("answer", [{"path": "x"}, {"model": 7}, None, "a"])
def test_a_model_without_a_handle_is_the_runtime_s_fault(bench: KeptBench, answer: object) -> None:
    loading = bench.start(bench.runtime.load_model("a"))
    bench.answer(answer)
    error = bench.error(loading)
    assert isinstance(error, IsthmusError) and error.code == "REMOTE_PROTOCOL_ERROR"
    assert not bench.process.is_killed


def test_loading_it_again_forgives_all_that_was_lost_of_a_model(bench: KeptBench) -> None:
    bench.load("a", "a1")
    bench.load("a", "a2")
    bench.follow()
    for handle in ("a1", "a2"):
        bench.call("tokenize", model=handle)
    bench.follow()
    assert isinstance(bench.error(bench.call("tokenize", model="a2")), ModelLoadFailed)
    again = bench.start(bench.runtime.load_model("a"))
    bench.answer(model_info(bench.process.requests[-1][2]["handle"]))
    assert again.result().info.model == "a1"
    bench.call("tokenize", model="a2")
    assert bench.process.requests[-1][2]["handle"] == "a2"
    bench.answer({})
    bench.answer({"ids": b""})


def lose(bench: KeptBench) -> host.Model:
    """Load a model, and let a process end while it is loaded again."""
    model = bench.load("a")
    bench.follow()
    bench.start(model.count_tokens("x"))
    bench.follow()
    return model


def test_of_two_loads_of_a_lost_model_one_brings_its_handle_back(bench: KeptBench) -> None:
    lose(bench)
    loads = [bench.start(bench.runtime.load_model("a")) for _ in range(2)]
    first, second = (params for _, _, params in bench.process.requests)
    assert (first["handle"], first["references"]) == ("a", 2)
    assert "handle" not in second and "references" not in second
    for index in range(2):
        bench.answer(model_info("a"), index)
    assert [load.result().info.model for load in loads] == ["a", "a"]
    assert bench.connection.registry._records["a"].references == 3


def test_what_names_a_lost_model_waits_for_its_caller_s_load(bench: KeptBench) -> None:
    model = lose(bench)
    bench.start(bench.runtime.load_model("a"))
    call, unloading = bench.start(model.count_tokens("x")), bench.start(model.unload())
    assert bench.process.methods == ["load_model"] and not unloading.done()
    bench.answer(model_info("a"))
    assert bench.process.methods[1:] == ["count_tokens", "unload_model"]
    bench.answer({"count": 1}, 1)
    bench.answer({"unloaded": False, "references": 1, "resident": True}, 2)
    assert (call.result(), unloading.result()) == (1, False)


@pytest.mark.parametrize("way", ["error", "nonsense", "end", "unsendable", "cancel"])
def test_a_lost_model_whose_load_fails_is_lost_as_before(bench: KeptBench, way: str) -> None:
    model = lose(bench)
    kv_tokens: Any = object() if way == "unsendable" else None
    loading = bench.start(bench.runtime.load_model("a", kv_tokens=kv_tokens))
    call = bench.start(model.count_tokens("x"))
    if way == "error":
        refuse(bench, 0, "MEMORY_LIMIT")
    elif way == "nonsense":
        bench.answer({"path": "x"})
    elif way == "end":
        bench.follow()
    elif way == "cancel":
        loading.cancel()
        bench.turn()
        refuse(bench, 0, "CANCELLED")
    assert isinstance(bench.error(call), ModelLoadFailed)
    assert bench.connection.registry.state_of("a") is ModelState.LOST
    unloading = bench.start(model.unload())
    assert unloading.result() is True


def test_a_lost_model_that_comes_back_by_another_name_is_loaded_again(bench: KeptBench) -> None:
    model = lose(bench)
    loading = bench.start(bench.runtime.load_model("a"))
    call = bench.start(model.count_tokens("x"))
    bench.answer(model_info("b"))
    assert loading.result().info.model == "b"
    params = bench.process.requests[-1][2]
    assert (params["handle"], params["references"]) == ("a", 1)
    bench.answer({})
    bench.answer({"count": 1})
    assert call.result() == 1


def test_a_load_of_a_lost_model_that_was_not_written_keeps_the_handle_to_itself(
    bench: KeptBench,
) -> None:
    model = lose(bench)
    before = bench.process
    loading = bench.begin(bench.runtime.load_model("a"))
    bench.loop.call_soon(before.exit, "SIGKILL")
    bench.turn()
    assert before.requests == [] and not loading.done()
    call = bench.start(model.count_tokens("x"))
    bench.advance(bench.steps[-1].delay_ms or 0.0)
    assert named(bench) == [("load_model", "a")]
    assert bench.process.requests[0][2]["references"] == 2
    bench.answer(model_info("a"))
    bench.answer({"count": 1})
    assert loading.done() and call.result() == 1


def test_a_lost_model_can_take_its_own_place(bench: KeptBench) -> None:
    model = lose(bench)
    loading = bench.start(bench.runtime.load_model("a", replace=model))
    params = bench.process.requests[0][2]
    assert params["references"] == 1 and "replace" not in params
    bench.answer(model_info("a"))
    assert loading.done() and bench.connection.registry._records["a"].references == 1


def test_the_models_that_were_loaded_again_are_counted(bench: KeptBench) -> None:
    model = bench.load("a")
    bench.follow()
    bench.start(model.count_tokens("x"))
    bench.answer({})
    bench.answer({"count": 1})
    stats = bench.start(bench.runtime.stats())
    bench.answer({})
    assert stats.result()["supervision"]["restored"] == 1
