"""Row 61: a model's logits become NaN, infinite, or minus infinity everywhere."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.faults.peer import DELTA, ERROR, Peer, read_ids
from tests.faults.small_models import write_chain

STEPS = list(b"abcd")
"""A chain of tokens; after the last the logits break."""


@pytest.mark.parametrize("kind", ["nan", "inf", "masked"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "drawn"])
def test_the_error_comes_at_that_step_after_the_tokens_before_it(
    peer: Peer, tmp_path: Path, chain_folder: Path, kind: str, options: dict[str, float]
) -> None:
    follows = dict(itertools.pairwise(STEPS))
    folder = write_chain(tmp_path / "model", follows, overflow={STEPS[-1]: kind})
    model, sound = peer.load(folder), peer.load(chain_folder)
    bystander = peer.request("generate", {"model": sound, "prompt": "z", "max_tokens": 200})
    # Greedy for certain, whatever the temperature: the others are 18 lower.
    params = {"model": model, "prompt": "a", "max_tokens": 50, "top_p": 0.5, **options}
    request = peer.request("generate", params)
    ids: list[int] = []
    while (message := peer.next_of(request))[0] == DELTA:
        ids += read_ids(message[3]["ids"])
    kind_of_message, _, error = message
    assert (kind_of_message, error["code"]) == (ERROR, "NUMERIC_ERROR")
    assert ids == STEPS[1:]
    assert error["details"]["completion_tokens"] == len(ids)
    assert peer.settled(bystander)[2]["finish_reason"] == "length"
    again = peer.refusal("generate", params)
    assert again["code"] == "NUMERIC_ERROR"
    peer.call("unload_model", {"model": model})
