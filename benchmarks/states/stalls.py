"""How long the runtime's event loop stands still while a long session is saved and read again.

The runtime looks at its lag four times a second, so that short stalls are found by chance; the
longest echo there and back, beside it, misses none, and has the host's own delays in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..processes import Subject
from .models import Written
from .talks import tokens


@dataclass(frozen=True, slots=True)
class Stalls:
    """The longest while saving and while reading, ms; `took_ms` is what they took themselves."""

    lag_ms: float
    echo_ms: float
    took_ms: dict[str, float]


def measure(subject: Subject, model: Written, length: int, restores: int) -> Stalls:
    """Save a session of so many tokens, then read it so many times."""
    ids = tokens(length, "stall")
    told = subject.ask("stall", source=model.source, name="stall", ids=ids, restores=restores)
    found: list[dict[str, Any]] = [told["save"], *told["restores"]]
    for each in told["restores"]:
        if each["state"] != "warm":
            raise SystemExit(f"what was to be read from disk is {each['state']}")
    took_ms = {"save": told["save"]["ms"], "restore": max(each["loadMs"] for each in found[1:])}
    return Stalls(
        max(each["lagMs"] for each in found), max(each["echoMs"] for each in found), took_ms
    )
