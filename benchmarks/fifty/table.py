"""The result as a table, for the terminal and for the documentation, and as a picture."""

from __future__ import annotations

from typing import Final

from .. import chart
from ..chart import Bar, Panel
from ..publish import markdown, number
from .models import EMBEDDED, FP32, LARGE
from .passes import Record
from .results import Key, Results, Summary
from .sides import BATCH_GENERATOR, IN_PROCESS, NODE, PYTHON, SERVER

_TITLES: Final = (
    *("model", "at once", "side", "response, ms: mean", "median", "p95", "p99"),
    *("TTFT, ms: mean", "median", "p99", "tokens/s of an answer", "of all", "all, s"),
    *("bytes sent", "received"),
)
_NAMES: Final = 3

_COLOURS: Final = {
    NODE: chart.OURS,
    PYTHON: chart.OURS,
    SERVER: chart.RIVAL,
    IN_PROCESS: chart.UNCOUNTED,
    BATCH_GENERATOR: chart.UNCOUNTED,
}
_PANELS: Final = (
    ("about 100 M in 4 bits, one at a time: mean response, ms", LARGE, 1, "response"),
    ("the same, 16 at once: median TTFT, ms", LARGE, 16, "ttft"),
    ("about 30 M in fp32, 16 at once: tokens/s", FP32, 16, "rate"),
    ("the embedded model, one at a time: mean response, ms", EMBEDDED, 1, "response"),
)


def show(results: Results) -> None:
    """Print the table."""
    print(
        f"\n  {'model':<10}{'at once':>8}  {'side':<18}{'response ms: mean':>18}{'median':>9}"
        f"{'p95':>9}{'p99':>9}{'TTFT ms':>9}{'tokens/s':>10}{'all s':>8}{'sent':>9}{'received':>10}"
    )
    for key in results:
        summary = results.summary(key)
        response, ttft = summary.response_ms, summary.ttft_ms
        print(
            f"  {key.model:<10}{key.at_once:>8}  {key.side:<18}{number(response['mean']):>18}"
            f"{number(response['median']):>9}{number(response['p95']):>9}"
            f"{number(response['p99']):>9}{number(ttft['median']):>9}"
            f"{number(summary.tokens_per_s):>10}{number(summary.wall_s):>8}"
            f"{_count(summary.bytes_sent):>9}{_count(summary.bytes_received):>10}"
        )


def to_markdown(record: Record, source: str) -> str:
    """Return the tables for the documentation; `source` says where the figures come from."""
    rows = [_cells(key, record.results.summary(key)) for key in record.results]
    sides = list(record.starts[EMBEDDED])
    starts = [
        [model, *(number(found[side]) if side in found else "-" for side in sides)]
        for model, found in record.starts.items()
    ]
    note = (
        "TTFT is until the first token was seen; the server shows its tokens as text only."
        f" From nothing to the first token, process and model included, s:\n\n"
        f"{markdown(['model', *sides], starts)}\n\n{source}"
    )
    return f"{markdown(_TITLES, rows, _NAMES)}\n\n{note}"


def to_svg(record: Record, source: str) -> str:
    """Return the picture."""
    panels = [
        Panel(title, _bars(record.results, model, at_once, what), what == "rate")
        for title, model, at_once, what in _PANELS
    ]
    legend = "Pale: mlx-lm in the process that asks, without requests, pipes or a second language."
    return chart.to_svg("Fifty questions: Isthmus beside mlx-lm", panels, (legend, source))


def _bars(results: Results, model: str, at_once: int, what: str) -> list[Bar]:
    return [
        Bar(key.side, _value(results.summary(key), what), _COLOURS[key.side])
        for key in results
        if (key.model, key.at_once) == (model, at_once)
    ]


def _value(summary: Summary, what: str) -> float:
    if what == "rate":
        return summary.tokens_per_s
    if what == "ttft":
        return summary.first_text_ms["median"]
    return summary.response_ms["mean"]


def _cells(key: Key, summary: Summary) -> list[str]:
    response, ttft = summary.response_ms, summary.ttft_ms
    cells = [
        *(key.model, str(key.at_once), key.side),
        *(number(response[part]) for part in ("mean", "median", "p95", "p99")),
        *(number(ttft[part]) for part in ("mean", "median", "p99")),
        *(number(summary.answer_tokens_per_s["median"]), number(summary.tokens_per_s)),
        *(number(summary.wall_s), _count(summary.bytes_sent), _count(summary.bytes_received)),
    ]
    return [f"**{cell}**" for cell in cells] if key.side == NODE else cells


def _count(value: int) -> str:
    return f"{value:,}" if value else "-"
