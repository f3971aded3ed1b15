"""Through Node the greedy tokens are those of `mlx_lm.stream_generate`: streamed and awaited,
alone and eight at once, on the built-in model and on a quantised one of random weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tests.conftest import BUILTIN_TOKENS, TINY_TOKENS
from tests.contract.node import run_node
from tests.fixtures.oracle import CHUNK_TOKENS, Answers
from tests.fixtures.prompts import PROMPTS

WAYS = 4


def generate_all(folder: str, max_tokens: int) -> dict[str, list[dict[str, object]]]:
    """Generate for all prompts in each way, in a Node process."""
    answers: dict[str, list[dict[str, object]]] = run_node(
        "generate_all.mjs",
        folder=folder,
        prompts=PROMPTS,
        maxTokens=max_tokens,
        runtimeArgs=["--prefill-chunk-tokens", str(CHUNK_TOKENS)],
        atOnce=8,
    )
    assert len(answers) == WAYS
    return answers


def expect_all(answers: dict[str, list[dict[str, object]]], oracle: Answers) -> None:
    """Compare each way with the oracle, prompt by prompt."""
    expected = [asdict(answer) for answer in oracle.reference]
    for way, given in answers.items():
        for prompt, mine, theirs in zip(PROMPTS, given, expected, strict=True):
            assert mine == theirs, (way, prompt)


def test_fifty_prompts_are_compared() -> None:
    assert len(set(PROMPTS)) >= 50


def test_the_built_in_model_answers_through_node_as_in_mlx_lm(builtin_answers: Answers) -> None:
    expect_all(generate_all("default", BUILTIN_TOKENS), builtin_answers)


def test_a_quantised_llama_answers_through_node_as_in_mlx_lm(
    tiny_folder: Path, tiny_answers: Answers
) -> None:
    expect_all(generate_all(str(tiny_folder), TINY_TOKENS), tiny_answers)
