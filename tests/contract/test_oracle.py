"""Through the whole bridge the greedy tokens are those of `mlx_lm.stream_generate`."""

from __future__ import annotations

import asyncio

import pytest

from isthmus import host
from tests.conftest import BUILTIN_TOKENS, TINY_TOKENS
from tests.fixtures.oracle import PENALTIES, Answer, Answers
from tests.fixtures.prompts import PROMPTS

pytestmark = pytest.mark.asyncio(loop_scope="session")

AT_ONCE = 8


def as_answer(result: host.GenerationResult) -> Answer:
    """Return what is compared."""
    return Answer(result.ids, result.text, result.finish_reason)


async def answers(model: host.Model, limit: int, *, stream: bool, at_once: int) -> list[Answer]:
    """Generate for all prompts, `at_once` at a time."""
    room = asyncio.Semaphore(at_once)

    async def one(prompt: str) -> Answer:
        async with room:
            return as_answer(await model.generate(prompt, max_tokens=limit, stream=stream))

    return list(await asyncio.gather(*map(one, PROMPTS)))


@pytest.mark.parametrize("at_once", [1, AT_ONCE], ids=["alone", "8 at once"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_the_built_in_model_answers_as_in_mlx_lm(
    model: host.Model, builtin_answers: Answers, stream: bool, at_once: int
) -> None:
    assert await answers(model, BUILTIN_TOKENS, stream=stream, at_once=at_once) == (
        builtin_answers.reference
    )


@pytest.mark.parametrize("at_once", [1, AT_ONCE], ids=["alone", "8 at once"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_quantised_llama_answers_as_in_mlx_lm(
    tiny: host.Model, tiny_answers: Answers, stream: bool, at_once: int
) -> None:
    assert await answers(tiny, TINY_TOKENS, stream=stream, at_once=at_once) == (
        tiny_answers.reference
    )


async def test_two_models_at_once_do_not_mix(
    model: host.Model, tiny: host.Model, builtin_answers: Answers, tiny_answers: Answers
) -> None:
    both = await asyncio.gather(
        answers(model, BUILTIN_TOKENS, stream=True, at_once=4),
        answers(tiny, TINY_TOKENS, stream=True, at_once=4),
    )
    assert both == [builtin_answers.reference, tiny_answers.reference]


async def test_penalties_and_biases_reach_the_model(
    model: host.Model, builtin_answers: Answers
) -> None:
    few = PROMPTS[::6]
    results = [
        as_answer(await model.generate(prompt, max_tokens=BUILTIN_TOKENS, **PENALTIES))
        for prompt in few
    ]
    assert results == builtin_answers.reference_with_penalties
