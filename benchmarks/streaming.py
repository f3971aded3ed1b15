"""What streams cost: a token over in-process mlx-lm, and eight of them at once.

With a slow reader on one of eight streams; with echoes there and back while the engine is busy, at
200 a second; with texts tokenized meanwhile; and with a JSON schema that the output must match. The
echoes show the lag of the runtime's loop as a caller feels it, with both ways through the pipes in
it.
"""

from __future__ import annotations

import time

from .harness import read_options, report, show
from .stream import measures


def main() -> None:
    """Measure, print the tables and the line of JSON."""
    options = read_options(__doc__ or "")
    begun = time.monotonic()
    plan = measures.QUICK if options.is_quick else measures.FULL
    if options.is_quick:
        print("  quick: fewer tokens and a smaller large model; its figures decide nothing")
    outcome = measures.measure(plan, options.is_quick)
    show("streams", outcome.detail["streams"])
    for name in ("echo_ms", "tokenize_ms"):
        found = outcome.detail[name]
        print(f"  {name:<20}" + "".join(f"{part:>6} {value:<8g}" for part, value in found.items()))
    for name, value in outcome.further.items():
        print(f"  {name:<40}{value:>10.4g}")
    detail = {**outcome.detail, "seconds": round(time.monotonic() - begun, 1)}
    report(options, "streaming", outcome.figures, detail, outcome.further)


if __name__ == "__main__":
    main()
