"""Row 61: a model's logits become NaN, infinite, or minus infinity everywhere."""

from __future__ import annotations

import itertools
import string
from pathlib import Path

import pytest

from tests.faults.peer import DELTA, ERROR, Peer, keeping_command, read_ids
from tests.faults.small_models import write_chain
from tests.faults.ways import WAYS, assert_batched, options_of

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


@pytest.mark.parametrize("kind", ["nan", "inf", "masked"])
def test_in_a_batch_that_one_fails_and_the_others_keep_their_tokens(
    peer: Peer, tmp_path: Path, kind: str
) -> None:
    follows = dict(itertools.pairwise(STEPS))
    model = peer.load(
        write_chain(tmp_path / "model", follows, overflow={STEPS[-1]: kind}),
    )
    prompts = ("x", "a", "y", "c", "z")
    requests = {
        prompt: peer.request("generate", {"model": model, "prompt": prompt, "max_tokens": 40})
        for prompt in prompts
    }
    for prompt, request in requests.items():
        ids: list[int] = []
        while (message := peer.next_of(request))[0] == DELTA:
            ids += read_ids(message[3]["ids"])
        if prompt in "xyz":
            assert ids == [ord(prompt)] * 40
            assert_batched(peer, message[2])
        else:
            assert (message[0], message[2]["code"]) == (ERROR, "NUMERIC_ERROR")
            assert ids == STEPS[STEPS.index(ord(prompt)) + 1 :]
    peer.call("unload_model", {"model": model})


@pytest.mark.parametrize("way", WAYS)
def test_what_came_before_it_is_delivered_however_it_is_generated(
    peer: Peer, tmp_path: Path, way: str
) -> None:
    letters = string.ascii_lowercase
    follows = dict(itertools.pairwise(letters.encode()))
    model = peer.load(
        write_chain(tmp_path / "model", follows, overflow={ord("z"): "nan"}),
    )
    # The alphabet is in the prompt already, so that all of it can be drafted.
    params = {"prompt": f"{letters}-{letters}-a", "max_tokens": 50, **options_of(way, model)}
    ids, error = peer.generate(model, **params)
    assert error["code"] == "NUMERIC_ERROR"
    assert ids == list(letters[1:].encode())
    assert error["details"]["completion_tokens"] == len(ids)
    peer.call("unload_model", {"model": model})


@pytest.mark.parametrize("kind", ["nan", "inf", "masked"])
def test_a_session_is_not_kept_with_it_and_goes_on_from_what_it_had(
    tmp_path: Path, kind: str
) -> None:
    follows = dict(itertools.pairwise(STEPS))
    folder = write_chain(tmp_path / "model", follows, overflow={STEPS[-1]: kind})
    with Peer(command=keeping_command(tmp_path / "sessions")) as peer:
        model = peer.load(folder)
        session = {"session": {"id": "s"}}
        sound = "x" * 40
        kept = {"model": model, "max_tokens": 5, **session}
        assert peer.call("generate", {"prompt": sound, **kept})["finish_reason"] == "length"
        before = peer.call("save_session", session)
        assert before["saved"] and before["tokens"] == 44
        # It breaks after "d": when that was drawn, or is the prompt's last token.
        for prompt in (sound + "x" * 5 + "a", sound + "x" * 5 + "d"):
            error = peer.refusal("generate", {"prompt": prompt, **kept})
            assert error["code"] == "NUMERIC_ERROR"
            after = peer.call("open_session", {"model": model, **session})
            assert after["tokens"] <= 44 and after["saved_tokens"] == 44
        again = peer.call("save_session", session)
        assert again["saved"] and again["written_bytes"] == 0
        end = peer.call("generate", {"prompt": sound + "x" * 5 + "y", **kept})
        assert end["cache"]["reused_tokens"] == 44
        peer.call("evict_session", session)
        ids, end = peer.generate(model, sound + "x" * 5 + "yyy", max_tokens=3, **session)
        assert (ids, end["cache"]["state"]) == ([ord("y")] * 3, "warm")
        assert end["cache"]["reused_tokens"] >= 46


def test_a_session_that_begins_with_it_is_not_kept_at_all(tmp_path: Path) -> None:
    folder = write_chain(tmp_path / "model", {}, overflow={STEPS[-1]: "nan"})
    with Peer(command=keeping_command(tmp_path / "sessions")) as peer:
        model, session = peer.load(folder), {"session": {"id": "s"}}
        params = {"model": model, "prompt": "x" * 400 + "d", "max_tokens": 5, **session}
        assert peer.refusal("generate", params)["code"] == "NUMERIC_ERROR"
        peer.call("save_session", session)
        info = peer.call("open_session", {"model": model, **session})
        assert (info["state"], info["tokens"], info["disk_bytes"]) == ("cold", 0, 0)
        assert peer.call("session_stats")["saves"] == 0
