"""The engine's arithmetic is mlx-lm's: the same greedy tokens for the same prompts."""

from __future__ import annotations

from tests.fixtures.oracle import Answers
from tests.fixtures.prompts import PROMPTS


def test_the_built_in_model_gives_mlx_lm_s_tokens(builtin_answers: Answers) -> None:
    assert len(builtin_answers.reference) == len(PROMPTS) >= 50
    assert builtin_answers.engine == builtin_answers.reference


def test_a_quantised_llama_gives_mlx_lm_s_tokens(tiny_answers: Answers) -> None:
    assert len(tiny_answers.reference) == len(PROMPTS)
    assert tiny_answers.engine == tiny_answers.reference


def test_penalties_and_biases_are_those_of_mlx_lm(
    builtin_answers: Answers, tiny_answers: Answers
) -> None:
    for answers in (builtin_answers, tiny_answers):
        assert answers.engine_with_penalties == answers.reference_with_penalties
        assert answers.reference_with_penalties != answers.reference[::6]


def test_the_prompts_show_both_ways_to_end_and_different_answers(
    builtin_answers: Answers, tiny_answers: Answers
) -> None:
    reasons = {answer.finish_reason for answer in builtin_answers.reference}
    assert reasons == {"stop", "length"}
    for answers in (builtin_answers, tiny_answers):
        assert len({tuple(answer.ids) for answer in answers.reference}) > 20
