"""Row 64: a chat template that never ends or eats memory, and a huge list of stop strings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peer import ERROR, Peer
from tests.faults.small_models import write_chain

MIB = 1 << 20
MESSAGES = [{"role": "user", "content": "hi"}]
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"
ENDLESS = (
    PLAIN + "{% if messages[0].content == 'loop' %}"
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}{% endif %}"
)
BOMBS = {
    "repeat": "{{ 'x' * 10**10 }}",
    "range": "{% for i in range(10**12) %}{{ i }}{% endfor %}",
    "width": "{{ '%10000000000d' % 1 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
}


@pytest.fixture
def own_peer() -> Iterator[Peer]:
    """A runtime of the test's own: a bomb's traces are looked for in its memory and threads."""
    with Peer() as peer:
        yield peer


def load(peer: Peer, folder: Path, template: str) -> str:
    """Load a small model that has this chat template."""
    return peer.load(write_chain(folder, {}, chat_template=template))


def test_a_template_that_never_ends_fails_its_request_and_no_other(
    own_peer: Peer, tmp_path: Path
) -> None:
    peer = own_peer
    good, bad = load(peer, tmp_path / "good", PLAIN), load(peer, tmp_path / "bad", ENDLESS)
    render = "apply_chat_template"
    assert peer.call(render, {"model": bad, "messages": MESSAGES})["text"] == "hi"
    loop = [{"role": "user", "content": "loop"}]
    endless = peer.request("generate", {"model": bad, "messages": loop})
    behind = [
        peer.request(render, {"model": bad, "messages": MESSAGES}),
        peer.request(render, {"model": good, "messages": MESSAGES}),
        peer.request("generate", {"model": good, "messages": MESSAGES, "max_tokens": 3}),
    ]
    assert peer.call("count_tokens", {"model": bad, "text": "abc"})["count"] == 3
    assert len(peer.generate(good, "q", max_tokens=5)[0]) == 5
    kind, _, error = peer.settled(endless)
    assert (kind, error["code"], error["phase"]) == (ERROR, "DEADLINE_EXCEEDED", "template")
    for request in behind:
        assert peer.settled(request)[0] != ERROR
    assert peer.call(render, {"model": bad, "messages": MESSAGES})["text"] == "hi"
    peer.becomes_idle()
    # A thread that loops on would use the processor for ever.
    peer.wait_until_stalled()


def test_in_a_batch_the_others_are_rendered(own_peer: Peer, tmp_path: Path) -> None:
    bad = load(own_peer, tmp_path / "bad", ENDLESS)
    conversations = [[{"role": "user", "content": what}] for what in ("a", "loop", "b")]
    results = own_peer.call(
        "batch_apply_chat_template", {"model": bad, "conversations": conversations}
    )["results"]
    assert [result.get("text") for result in results] == ["a", None, "b"]
    assert results[1]["error"]["phase"] == "template"


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_eats_memory_is_refused_and_takes_none(
    own_peer: Peer, tmp_path: Path, name: str
) -> None:
    bad = load(own_peer, tmp_path / "bad", BOMBS[name])
    before = own_peer.resident_bytes()
    error = own_peer.refusal("generate", {"model": bad, "messages": MESSAGES})
    assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", "messages")
    assert "template is at fault" in error["message"] and error["retryable"] is False
    assert own_peer.resident_bytes() - before < 256 * MIB
    assert own_peer.generate(bad, "q", max_tokens=3)[0] == [ord("q")] * 3


def test_many_long_stop_strings_that_nearly_match_keep_nobody_waiting(
    peer: Peer, chain_folder: Path
) -> None:
    model = peer.load(chain_folder)
    stops = ["a" * (1_023 - index) + "b" for index in range(64)]
    bystander = peer.request("generate", {"model": model, "prompt": "z", "max_tokens": 200})
    params = {"model": model, "prompt": "a", "max_tokens": 3_000, "stop": stops, "stream": False}
    end = peer.call("generate", params)
    assert (end["finish_reason"], end["text"]) == ("length", "a" * 3_000)
    assert peer.settled(bystander)[2]["finish_reason"] == "length"


def test_a_stop_string_is_no_pattern(peer: Peer, chain_folder: Path) -> None:
    params = {"model": peer.load(chain_folder), "prompt": "a", "max_tokens": 50, "stream": False}
    end = peer.call("generate", {**params, "stop": ["(a+)+$", "a*", ".", "[", "\\"]})
    assert (end["finish_reason"], end["text"]) == ("length", "a" * 50)
