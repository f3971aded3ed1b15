"""Faults on purpose, in the runtime as it is installed: each point, and nothing without asking."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.faults.peer import ERROR, EVENT, PING, PONG, Peer, PeerClosed, wire_ids

MODULE = [sys.executable, "-m", "isthmus", "runtime"]
SHORT = {"prompt": "hello", "max_tokens": 2, "stream": False}


def faulty(*specs: str, greet: bool = True) -> Peer:
    """Start a runtime with faults from the start."""
    arguments = [word for spec in specs for word in ("--fault", spec)]
    return Peer(command=[*MODULE, "--faults", *arguments], greet=greet)


def end_of(peer: Peer) -> int:
    """Read until the output ends, and return how the process ended."""
    list(peer.rest())
    return peer.exit_code()


def test_without_being_asked_for_there_are_no_faults() -> None:
    with Peer(command=MODULE) as peer:
        assert "faults" not in peer.hello
        assert not {"inject_fault", "clear_faults"} & set(peer.hello["methods"])
        assert peer.refusal("inject_fault", {"spec": "loop:hang"})["code"] == "UNKNOWN_METHOD"


def test_a_host_arms_faults_and_removes_them() -> None:
    with faulty() as peer:
        assert peer.hello["faults"] is True
        spec = "request:fail:method=echo,code=MEMORY_LIMIT"
        assert peer.call("inject_fault", {"spec": spec}) == {
            "faults": [{"spec": spec, "passed": 0, "struck": 0}]
        }
        assert peer.refusal("echo", {"data": 1})["code"] == "MEMORY_LIMIT"
        assert peer.call("list_models") == {"models": []}
        assert peer.call("clear_faults") == {"cleared": 1}
        assert peer.is_echoing()
        error = peer.refusal("inject_fault", {"spec": "nowhere:hang"})
        assert (error["code"], error["details"]["field"]) == ("INVALID_REQUEST", "spec")
        assert "there are hello, read, request" in error["message"]


def test_no_fault_of_requests_keeps_faults_from_being_cleared() -> None:
    with faulty("request:fail") as peer:
        for method in ("echo", "list_models", "health"):
            assert peer.refusal(method)["code"] == "UNAVAILABLE"
        assert peer.call("clear_faults") == {"cleared": 1}
        assert peer.is_echoing()


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("hello:exit:code=3", 3),
        ("hello:crash", -9),
        ("engine.prepare:exit:code=4", 4),
        ("engine.prepare:crash:signal=SIGSEGV", -11),
        ("loop:exit:code=5", 5),
        ("write:exit:code=6", 6),
    ],
)
def test_it_ends_where_it_is_told_to(spec: str, code: int) -> None:
    with faulty(spec, greet=False) as peer:
        assert peer.exit_code() == code


@pytest.mark.parametrize(
    ("spec", "method", "params"),
    [
        ("read:crash:after=2", "echo", {"data": 1}),
        ("request:crash:method=echo", "echo", {"data": 1}),
        ("model.load:crash", "load_model", {"source": "default-draft"}),
        ("engine.step:crash", "load_model", {"source": "default-draft"}),
    ],
)
def test_it_crashes_on_the_way_of_a_request(spec: str, method: str, params: dict[str, Any]) -> None:
    with faulty(spec) as peer:
        while peer.process.poll() is None:
            try:
                peer.settled(peer.request(method, params))
            except (PeerClosed, BrokenPipeError):
                break
        assert peer.exit_code() == -9


def test_the_engine_crashes_at_a_token_or_a_draft() -> None:
    for spec, method, params in (
        ("engine.token:crash:after=1", "generate", SHORT),
        ("draft:crash", "check_draft", {"ids": wire_ids([1]), "draft": wire_ids([2])}),
    ):
        with faulty(spec) as peer:
            model = peer.load("default-draft")
            peer.request(method, {"model": model, **params})
            assert end_of(peer) == -9


def test_texts_fail_on_the_loop_and_in_threads() -> None:
    with faulty("text:fail") as peer:
        model = peer.load("default-draft")
        for text in ("short", "long " * 4_000):
            params = {"model": model, "text": text}
            assert peer.refusal("tokenize", params)["code"] == "UNAVAILABLE"
        messages = {"model": model, "messages": [{"role": "user", "content": "x"}]}
        assert peer.refusal("apply_chat_template", messages)["code"] == "UNAVAILABLE"
        peer.call("clear_faults")
        for text in ("short", "long " * 4_000):
            assert peer.call("count_tokens", {"model": model, "text": text})["count"] > 0


@pytest.mark.parametrize("keys", ["at=0", "mode=truncate,at=2"])
def test_what_it_reads_can_be_corrupt(keys: str) -> None:
    with faulty() as peer:
        peer.call("inject_fault", {"spec": f"read:corrupt:{keys}"})
        peer.request("echo", {"data": 1})
        peer.request("echo", {"data": 2})
        peer.close_input()
        codes = [message[2]["code"] for message in peer.rest() if message[0] == ERROR]
        assert codes and codes[-1] in ("FRAME_TOO_LARGE", "REMOTE_PROTOCOL_ERROR")


def test_what_it_writes_can_be_corrupt() -> None:
    with faulty("write:corrupt:after=1,times=1,at=3") as peer:
        peer.send([PING, 1])
        with pytest.raises((ValueError, TimeoutError, AssertionError, PeerClosed)):
            while peer.receive(1.0) != [PONG, 1]:
                pass


def test_a_slow_method_is_slow_alone() -> None:
    with faulty("request:slow:ms=60,method=health,times=2") as peer:
        for _ in range(2):
            peer.call("health")
        assert peer.call("health")["loop_lag_max_ms"] >= 0
        assert peer.call("stats")["uptime_ms"] >= 120


def test_an_engine_that_dies_is_told_as_an_event() -> None:
    with faulty("engine.prepare:fail:code=INTERNAL") as peer:
        while (message := peer.receive())[0] != EVENT or message[1] != "engine_dead":
            pass
        assert "a fault was injected" in message[2]["message"]
        assert peer.refusal("load_model", {"source": "default"})["code"] == "ENGINE_DEAD"
