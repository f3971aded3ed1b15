"""Row 15: one character of a stream is made of several tokens."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.faults.peer import DELTA, Peer, read_ids
from tests.faults.small_models import END_TOKEN, write_chain

WOMAN = list("👩".encode())
"""Four tokens of the byte-level tokenizer, all different."""


def chain(*tokens: int) -> dict[int, int]:
    """Return the table in which each token is followed by the next."""
    return dict(itertools.pairwise(tokens))


def generate(
    peer: Peer, folder: Path, max_tokens: int, **params: object
) -> tuple[list[tuple[str, list[int]]], dict[str, object]]:
    """Return each delta's text and ids, and the end."""
    model = peer.call("load_model", {"source": str(folder)})["model"]
    wanted = {"model": model, "prompt": "A", "max_tokens": max_tokens, **params}
    request = peer.request("generate", wanted)
    deltas = []
    while (message := peer.next_of(request))[0] == DELTA:
        deltas.append((message[3]["text"], read_ids(message[3]["ids"])))
    peer.call("unload_model", {"model": model})
    return deltas, message[2]


def test_no_replacement_character_is_sent_before_a_character_is_whole(
    peer: Peer, tmp_path: Path
) -> None:
    folder = write_chain(tmp_path / "m", chain(65, *WOMAN, 66, END_TOKEN))
    deltas, end = generate(peer, folder, 20)
    texts = [text for text, _ in deltas]
    assert "".join(texts) == "👩B"
    assert not any("�" in text for text in texts)
    assert [token for _, ids in deltas for token in ids] == [*WOMAN, 66]
    assert end["finish_reason"] == "stop"


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_character_cut_by_the_end_is_flushed_as_one_replacement_at_the_end(
    peer: Peer, tmp_path: Path, kept: int
) -> None:
    folder = write_chain(tmp_path / "m", chain(65, 66, *WOMAN))
    deltas, end = generate(peer, folder, 1 + kept)
    assert "".join(text for text, _ in deltas) == "B�"
    assert deltas[-1][0].endswith("�")
    assert [token for _, ids in deltas for token in ids] == [66, *WOMAN[:kept]]
    assert end["finish_reason"] == "length"


@pytest.mark.parametrize(
    "params",
    [
        {"speculation": {"prompt_lookup": True}},
        {"response_format": {"type": "regex", "pattern": "(👩)*"}},
    ],
    ids=["drafted", "constrained"],
)
def test_characters_of_several_tokens_a_step_come_out_whole_too(
    peer: Peer, tmp_path: Path, params: dict[str, object]
) -> None:
    folder = write_chain(tmp_path / "m", chain(65, *WOMAN, WOMAN[0]))
    deltas, end = generate(peer, folder, 82, **params)
    texts = [text for text, _ in deltas]
    assert "".join(texts) == "👩" * 20 + "�"
    assert not any("�" in text for text in texts[:-1])
    assert [token for _, ids in deltas for token in ids] == [*WOMAN * 20, *WOMAN[:2]]
    assert end["finish_reason"] == "length"
