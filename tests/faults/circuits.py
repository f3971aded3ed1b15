"""What the rows of retries and circuits share: faults in a runtime, and a breaker with a clock."""

from __future__ import annotations

from typing import Any

from isthmus.errors import CircuitOpen
from isthmus.limits import BREAKER_CALLS
from isthmus.resilience.breaker import Breaker, Permit, Transition
from isthmus.resilience.options import BreakerOptions
from tests.faults.peer import EVENT, Peer

OPTIONS = BreakerOptions()
FAILING = "engine.token:fail:code=NUMERIC_ERROR"


class TimedBreaker:
    """A breaker whose time goes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.changes: list[tuple[float, Transition]] = []
        self.breaker = Breaker(OPTIONS, lambda: self.now, self._note)

    def _note(self, change: Transition) -> None:
        self.changes.append((self.now, change))

    def begin(self) -> Permit | None:
        """Begin a call, or return None when it is refused."""
        try:
            return self.breaker.acquire()
        except CircuitOpen:
            return None

    def half_open(self) -> Permit:
        """Open it, and return the probe of the time after that."""
        for _ in range(BREAKER_CALLS):
            self.breaker.acquire().failure(0.1)
        self.now += OPTIONS.open_s
        return self.breaker.acquire()


def inject(peer: Peer, spec: str) -> None:
    """Arm a fault."""
    peer.call("inject_fault", {"spec": spec})


def one_token(model: str, **params: Any) -> dict[str, Any]:
    """Return the params of a short generation."""
    return {"model": model, "prompt": "a", "max_tokens": 1, "stream": False, **params}


def breaker_of(peer: Peer, model: str) -> dict[str, Any]:
    """Return what the runtime says of a model's breaker."""
    snapshot: dict[str, Any] = peer.call("stats")["breakers"][model]
    return snapshot


def open_circuit(peer: Peer, model: str) -> None:
    """Have calls of a model fail until its circuit is open, and no longer."""
    inject(peer, FAILING)
    while peer.answer_code("generate", one_token(model)) != "CIRCUIT_OPEN":
        pass
    peer.call("clear_faults")


def next_event(peer: Peer, name: str) -> dict[str, Any]:
    """Return the next event of a name; answers that come before it are kept."""
    while (message := peer.receive())[:2] != [EVENT, name]:
        if message[0] != EVENT:
            peer.kept.append(message)
    event: dict[str, Any] = message[2]
    return event
