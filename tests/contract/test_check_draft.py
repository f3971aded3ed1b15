"""check_draft through the whole runtime: verdicts, batches, errors, compatibility."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isthmus import host
from isthmus.errors import Cancelled, DeadlineExceeded, InvalidRequest, ModelNotLoaded

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTIONS = ["What is the capital of France?", "What is 7 plus 5?", "Describe the sea.", "Hi"]


def chat(question: str) -> list[dict[str, str]]:
    """One question as a conversation."""
    return [{"role": "user", "content": question}]


async def check(runtime: host.Runtime, model: host.Model, **params: Any) -> dict[str, Any]:
    """Have one draft verified."""
    return dict(await runtime.call("check_draft", {"model": model.info.model, **params}))


async def drafts(model: host.Model, **options: Any) -> list[tuple[dict[str, Any], int, list[int]]]:
    """Return params, what is to be accepted and the wanted ids, for drafts wrong at each place."""
    made = []
    for question in QUESTIONS:
        wanted = await model.generate(
            messages=chat(question), max_tokens=6, ignore_eos=True, **options
        )
        for wrong in range(6):
            draft = list(wanted.ids[:5])
            if wrong < 5:
                draft[wrong] = (draft[wrong] + 1) % model.info.vocab_size
            params = {"messages": chat(question), "draft": draft, **options}
            made.append((params, min(wrong, 5), wanted.ids))
    return made


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 11}, {"temperature": 1.2, "top_p": 0.9, "seed": 5}]
)
async def test_a_verdict_is_what_generate_would_have_chosen(
    runtime: host.Runtime, model: host.Model, options: dict[str, Any]
) -> None:
    made = await drafts(model, **options)
    alone = [await check(runtime, model, **params) for params, _, _ in made]
    together = await asyncio.gather(*(check(runtime, model, **params) for params, _, _ in made))
    handle = model.info.model
    batch = {"model": handle, "items": [params for params, _, _ in made]}
    in_one_call = (await runtime.call("batch_check_draft", batch))["results"]
    for verdicts in (alone, together, in_one_call):
        for verdict, (_, accepted, wanted) in zip(verdicts, made, strict=True):
            assert (verdict["accepted"], verdict["token"]) == (accepted, wanted[accepted])
            assert verdict["prompt_tokens"] > 0


async def test_calls_of_one_moment_share_forward_passes(
    runtime: host.Runtime, model: host.Model
) -> None:
    label = f"check_draft {model.info.model}"
    before = (await runtime.stats())["batches"].get(label, {"batches": 0, "items": 0})
    calls = [check(runtime, model, prompt="Once upon", draft=[20, size]) for size in range(40)]
    await asyncio.gather(*calls)
    after = (await runtime.stats())["batches"][label]
    assert after["items"] - before["items"] == 40
    assert after["batches"] - before["batches"] <= 10


async def test_log_probabilities_are_those_of_generate(
    runtime: host.Runtime, model: host.Model
) -> None:
    wanted = await model.generate("Once upon a time", max_tokens=4, logprobs=2, ignore_eos=True)
    verdict = await check(
        runtime, model, prompt="Once upon a time", draft=wanted.ids[:3], logprobs=2
    )
    assert verdict["accepted"] == 3
    for shown, entry in zip(verdict["logprobs"], wanted.logprobs or [], strict=True):
        assert shown["id"] == entry.id
        assert shown["logprob"] == pytest.approx(entry.logprob, abs=1e-4)


async def test_a_proposal_that_is_the_target_s_own_is_always_accepted(
    runtime: host.Runtime, model: host.Model
) -> None:
    sampling = {"temperature": 1.0, "top_k": 1}
    (token,) = (await model.generate("Once", max_tokens=1, ignore_eos=True)).ids
    proposal = [{"ids": [token], "probs": [1.0]}]
    for seed in range(5):
        verdict = await check(
            runtime, model, prompt="Once", draft=[token], proposal=proposal, seed=seed, **sampling
        )
        assert verdict["accepted"] == 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "x", "draft": []}, "draft"),
    ({"prompt": "x", "draft": [1] * 257}, "draft"),
    ({"prompt": "x", "draft": [768]}, "draft"),
    ({"prompt": "x", "draft": [-1]}, "draft"),
    ({"prompt": "x", "draft": "text"}, "draft"),
    ({"prompt": "x"}, "draft"),
    ({"draft": [1]}, "prompt"),
    ({"prompt": "", "draft": [1]}, "prompt"),
    ({"ids": [], "draft": [1]}, "ids"),
    ({"ids": [768], "draft": [1]}, "ids"),
    ({"ids": [1] * 4_096, "draft": [1]}, "ids"),
    ({"prompt": "x", "ids": [1], "draft": [1]}, "ids"),
    ({"prompt": "x", "draft": [1], "temperature": -1}, "temperature"),
    ({"prompt": "x", "draft": [1], "position": -1}, "position"),
    ({"prompt": "x", "draft": [1], "max_tokens": 5}, "max_tokens"),
    ({"prompt": "x", "draft": [1], "proposal": [{"ids": [2], "probs": [1]}]}, "proposal"),
    ({"prompt": "x", "draft": [1], "proposal": []}, "proposal"),
    ({"prompt": "x", "draft": [1], "proposal": [{"ids": [1]}]}, "probs"),
]


@pytest.mark.parametrize(("params", "field"), BAD, ids=str)
async def test_a_bad_draft_names_its_field_and_fails_alone(
    runtime: host.Runtime, model: host.Model, params: dict[str, Any], field: str
) -> None:
    good = {"prompt": "Once upon", "draft": [20]}
    with pytest.raises(InvalidRequest) as caught:
        await check(runtime, model, **params)
    assert caught.value.details["field"] == field
    batch = {"model": model.info.model, "items": [good, params, good]}
    first, bad, last = (await runtime.call("batch_check_draft", batch))["results"]
    assert first["token"] == last["token"] == (await check(runtime, model, **good))["token"]
    assert bad["error"]["code"] == "INVALID_REQUEST"
    assert bad["error"]["details"]["field"] == f"items[1].{field}"


async def test_an_item_that_is_no_map_and_an_empty_batch(
    runtime: host.Runtime, model: host.Model
) -> None:
    handle = model.info.model
    (bad,) = (await runtime.call("batch_check_draft", {"model": handle, "items": [5]}))["results"]
    assert bad["error"]["details"]["field"] == "items[0]"
    assert await runtime.call("batch_check_draft", {"model": handle, "items": []}) == {
        "results": []
    }


async def test_a_deadline_and_a_cancel_settle_a_verification(
    runtime: host.Runtime, model: host.Model
) -> None:
    params = {"model": model.info.model, "ids": [20] * 3_000, "draft": [20]}
    with pytest.raises(DeadlineExceeded):
        await runtime.call("check_draft", params, deadline_ms=1)
    call = asyncio.ensure_future(runtime.call("check_draft", params))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises((Cancelled, asyncio.CancelledError)):
        await call
    assert (await check(runtime, model, prompt="Once", draft=[20]))["prompt_tokens"] > 0


async def test_a_model_unloaded_in_the_middle_is_an_error_of_its_own_calls_only(
    runtime: host.Runtime, model: host.Model, tiny_folder: Any, tiny_answers: Any
) -> None:
    other = await runtime.load_model(str(tiny_folder), local_files_only=True)
    mine = [check(runtime, other, ids=[1] * 200, draft=[1, size]) for size in range(20)]
    others = [check(runtime, model, prompt="Once", draft=[20, size]) for size in range(20)]
    calls = asyncio.gather(*mine, *others, return_exceptions=True)
    await asyncio.sleep(0)
    await other.unload()
    outcomes = await calls
    for outcome in outcomes[:20]:
        assert isinstance(outcome, dict | ModelNotLoaded)
    assert all(isinstance(outcome, dict) for outcome in outcomes[20:])
    with pytest.raises(ModelNotLoaded):
        await check(runtime, other, prompt="x", draft=[1])


async def test_compatibility_says_whether_a_draft_model_fits_and_pays(
    runtime: host.Runtime, model: host.Model, party: host.Model
) -> None:
    draft = await runtime.load_model("default-draft")
    params = {"model": model.info.model, "draft_model": draft.info.model}
    answer = await runtime.call("check_draft_compatibility", params)
    assert answer["is_compatible"] and answer["differences"] == []
    assert answer["vocab_sizes"] == [768, 768] and answer["draft_tokens"] == 4
    assert all(value > 0 for value in answer["costs"].values())
    assert answer["can_pay"] is (answer["break_even_acceptance"] is not None)
    unmeasured = await runtime.call("check_draft_compatibility", {**params, "measure": False})
    assert unmeasured["costs"] is None and unmeasured["can_pay"] is None
    await draft.unload(evict=True)
    misfit = await runtime.call(
        "check_draft_compatibility", {"model": model.info.model, "draft_model": party.info.model}
    )
    assert not misfit["is_compatible"] and misfit["differences"]
    assert misfit["costs"] is None
    with pytest.raises(ModelNotLoaded):
        await runtime.call("check_draft_compatibility", params)


async def test_the_python_host_asks_and_reads_as_node_does(
    runtime: host.Runtime, model: host.Model
) -> None:
    wanted = await model.generate("Once upon a time", max_tokens=4, ignore_eos=True)
    good: host.DraftCheck = {"prompt": "Once upon a time", "draft": wanted.ids[:3], "seed": 1}
    bad: host.DraftCheck = {"prompt": "Once", "draft": [model.info.vocab_size]}
    verdict = await model.check_draft(good)
    assert (verdict.accepted, verdict.token) == (3, wanted.ids[3])
    shown = await model.check_draft({**good, "logprobs": 1})
    assert [entry.id for entry in shown.logprobs or []] == wanted.ids
    calls = await asyncio.gather(*map(model.check_draft, (good, bad, good)), return_exceptions=True)
    assert calls[0] == calls[2] and isinstance(calls[1], InvalidRequest)
    assert calls[1].details["field"] == "draft"
    first, failed = await model.check_draft_batch([good, bad])
    assert isinstance(first, host.DraftVerdict) and first.token == wanted.ids[3]
    assert isinstance(failed, InvalidRequest)
    proposal = [([token], [1.0]) for token in wanted.ids[:3]]
    sampled = await model.check_draft(
        {**good, "proposal": proposal, "temperature": 0.5, "top_k": 1}
    )
    assert sampled.accepted == 3
    draft = await runtime.load_model("default-draft")
    answer = await model.check_draft_compatibility(draft, draft_tokens=2)
    assert answer.is_compatible and answer.draft_tokens == 2 and answer.costs is not None
    await draft.unload(evict=True)
