"""How long a runtime that was killed takes to answer again, against one that is started anew."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from ..harness import ROOT, Spread, node_path
from ..processes import Subject

_SUBJECT: Final = Path(__file__).resolve().parent / "isthmus.mjs"


def measure(rounds: int) -> dict[str, Spread]:
    """Return milliseconds of both, and their ratio by paired rounds; through Node."""
    if not (ROOT / "bridge" / "dist" / "index.js").exists():
        raise SystemExit("bridge/dist/index.js is missing; run `npm run build` in bridge/ first")
    found: dict[str, list[float]] = {"restart_ms": [], "fresh_ms": [], "ratio": []}
    with Subject("isthmus", [node_path(), str(_SUBJECT), sys.executable]) as ours:
        ours.ask("open")
        for index in range(rounds + 1):
            fresh_ms = ours.ask("fresh")["ms"]
            restart_ms = ours.ask("restart")["ms"]
            if index > 0:
                found["restart_ms"].append(restart_ms)
                found["fresh_ms"].append(fresh_ms)
                found["ratio"].append(restart_ms / fresh_ms)
    return {name: Spread.of(values) for name, values in found.items()}
