"""Row 47: everything fails, and everything that may be tried again is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from isthmus.errors import Unavailable
from isthmus.limits import RETRY_BUDGET_TOKENS
from isthmus.resilience.retry import Retrier
from tests.faults.circuits import inject, one_token
from tests.faults.peer import ERROR, Peer

CALLS = 1_000


class Storm:
    """A thousand calls of what always fails in passing."""

    def __init__(self, attempts: int) -> None:
        self.now = 0.0
        self.attempts = 0
        self.retrier = Retrier(attempts=attempts, clock=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        """Let time pass, and others go first."""
        self.now += seconds
        await asyncio.sleep(0)

    async def attempt(self) -> None:
        """Fail."""
        self.attempts += 1
        raise Unavailable("everything fails")

    async def call(self, deadline: float | None = None) -> None:
        """Make a call."""
        with pytest.raises(Unavailable):
            await self.retrier.call(
                self.attempt, is_retryable=lambda error: True, deadline=deadline
            )


@pytest.mark.parametrize("attempts", [2, 3, 50])
@pytest.mark.parametrize("is_at_once", [False, True])
async def test_a_thousand_failing_calls_make_at_most_a_tenth_more_attempts(
    attempts: int, is_at_once: bool
) -> None:
    storm = Storm(attempts)
    if is_at_once:
        await asyncio.gather(*(storm.call() for _ in range(CALLS)))
    else:
        for _ in range(CALLS):
            await storm.call()
    assert CALLS < storm.attempts <= CALLS * 1.1
    assert storm.retrier.stats()["refused_by_budget"] > 0


async def test_the_waits_of_a_call_never_pass_its_deadline() -> None:
    for _ in range(200):
        storm = Storm(attempts=20)
        deadline = 0.4
        await storm.call(deadline)
        assert storm.now < deadline


def test_through_the_runtime_the_budget_bounds_what_is_tried_again(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        inject(peer, "engine.token:fail:code=UNAVAILABLE")
        requests = []
        for _ in range(CALLS // 10):
            # A circuit would end the storm at once: here it is closed again and again.
            peer.call("set_circuit", {"model": model, "state": "closed"})
            requests += [peer.request("generate", one_token(model)) for _ in range(10)]
        errors = [peer.settled(request) for request in requests]
        assert {message[0] for message in errors} == {ERROR}
        retries = peer.call("stats")["retries"]
        assert retries["retries"] <= RETRY_BUDGET_TOKENS / 2
        assert retries["attempts"] <= CALLS * 1.1


@pytest.mark.parametrize("point", ["engine.token", "draft", "model.load"])
def test_what_passes_is_tried_again_unseen_by_the_caller(chain_folder: Path, point: str) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        method, params = {
            "engine.token": ("generate", one_token(model)),
            "draft": ("check_draft", {"model": model, "ids": [97], "draft": [97]}),
            "model.load": ("load_model", {"source": "default"}),
        }[point]
        inject(peer, f"{point}:fail:times=2")
        assert peer.answer_code(method, params) is None
        assert peer.call("stats")["retries"]["retries"] == 2


def test_nothing_is_tried_again_once_a_token_is_out(chain_folder: Path) -> None:
    with Peer("--faults") as peer:
        model = peer.load(chain_folder)
        inject(peer, "engine.token:fail:after=3,times=1")
        ids, error = peer.generate(model, "a", max_tokens=10)
        assert (error["code"], len(ids)) == ("UNAVAILABLE", 3)
        assert error["details"]["completion_tokens"] == 3
        assert peer.call("stats")["retries"]["retries"] == 0
