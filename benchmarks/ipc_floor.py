"""What the bridge costs: against raw bytes through the same pipes, a textbook loop and no bridge.

From Node through the public API, all subjects in one run, interleaved round by round. Ratios of
calls are measured with both ends on one processor, because waking an idle virtual one costs more
than the call; the figures without that stand beside them in `detail` (`free`).
"""

from __future__ import annotations

import time

from .harness import read_options, report, show
from .ipc import calls, tokens


def main() -> None:
    """Measure, print the table and the line of JSON."""
    options = read_options(__doc__ or "")
    begun = time.monotonic()
    call_figures, call_detail = calls.measure(calls.QUICK if options.is_quick else calls.FULL)
    show("calls", call_detail["calls"])
    token_figures, token_detail = tokens.measure(tokens.QUICK if options.is_quick else tokens.FULL)
    show("tokens", token_detail["tokens"])
    detail = {**call_detail, **token_detail, "seconds": round(time.monotonic() - begun, 1)}
    report(options, "ipc_floor", [*call_figures, *token_figures], detail)


if __name__ == "__main__":
    main()
