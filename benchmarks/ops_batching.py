"""What batching is worth: many small calls from Node, through the public API.

Against one in-process `encode_batch_fast` of the same texts, a serial loop of JSON lines, the same
runtime with multiplexing off, and drafts verified one at a time. Texts are new in every round, and
every answer is compared. Figures without a place were measured with all processors free.
"""

from __future__ import annotations

import time

from .harness import read_options, report, show
from .ops import measures


def main() -> None:
    """Measure, print the tables and the line of JSON."""
    options = read_options(__doc__ or "")
    begun = time.monotonic()
    figures, detail = measures.measure(measures.QUICK if options.is_quick else measures.FULL)
    show("ops", detail["ops"])
    for name, summary in detail["poisson"].items():
        p50, p99 = summary["p50_us"], summary["p99_us"]
        print(f"  random arrivals: {name:<18} p50 {p50:>8} us   p99 {p99:>8} us")
    detail["seconds"] = round(time.monotonic() - begun, 1)
    report(options, "ops_batching", figures, detail)


if __name__ == "__main__":
    main()
