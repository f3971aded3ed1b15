"""The figures of `benchmarks.fifty_questions`: what is compared with what, and what to reach."""

from __future__ import annotations

from statistics import fmean, median
from typing import Any, Final

from ..harness import Figure, tidy
from .models import EMBEDDED, FP32, LARGE
from .passes import Record
from .results import Key, Results
from .sides import BATCH_GENERATOR, IN_PROCESS, NODE, PYTHON, SERVER
from .speculation import Gains

_SPECULATION_TARGET: Final = 1.3


def figures(record: Record, gains: Gains) -> list[Figure]:
    """Return the figures that have a target."""
    results = record.results
    return [
        Figure("response_vs_inprocess", _response_ratio(results, LARGE), 1.01, "times"),
        Figure("ttft_vs_inprocess", _ttft_ratio(results), 1.02, "times"),
        Figure(
            "response_vs_inprocess_embedded",
            _response_ratio(results, EMBEDDED),
            1.06,
            "times",
        ),
        Figure("ttft_extra_ms_embedded", _ttft_extra_ms(results), 3, "ms"),
        Figure("throughput8_vs_server", _throughput(results, LARGE, 8), 1.0, "times", True),
        Figure("throughput16_vs_server", _throughput(results, LARGE, 16), 1.0, "times", True),
        Figure("ttft8_vs_server", _first_text(results, LARGE, 8), 0.8, "times"),
        Figure("ttft16_vs_server", _first_text(results, LARGE, 16), 0.8, "times"),
        Figure("batch16_vs_sequential", _batch_gain(results, 1, NODE), 2.5, "times", True),
        Figure(
            "batch16_vs_batch_generator",
            _batch_gain(results, 16, BATCH_GENERATOR),
            0.97,
            "times",
            True,
        ),
        Figure("tokens_equal", record.equality.share((NODE, PYTHON)), 1.0, "share", True),
        # Where drafting gains nothing in mlx-lm itself, the processor is not one on which it pays.
        Figure(
            "speculation_speedup",
            gains.ours,
            _SPECULATION_TARGET if gains.mlx_lm > 1 else 0.0,
            "times",
            True,
        ),
    ]


def further(record: Record, gains: Gains) -> dict[str, Any]:
    """Return what is told beside the figures and has no target."""
    results = record.results
    right, checkable = record.correct
    return {
        "speculation_speedup_mlx_lm": tidy(gains.mlx_lm),
        "throughput16_vs_server_fp32": tidy(_throughput(results, FP32, 16)),
        "ttft16_vs_server_fp32": tidy(_first_text(results, FP32, 16)),
        "tokens_equal_server": tidy(record.equality.share((SERVER,))),
        "embedded_correct": right,
        "embedded_checkable": checkable,
    }


def _response_ratio(results: Results, model: str) -> float:
    """Compare the mean response of ours from Node with in-process, one at a time."""

    def mean(side: str) -> float:
        return fmean(results.values(Key(model, 1, side), lambda answer: answer.response_ms))

    return mean(NODE) / mean(IN_PROCESS)


def _ttft_ratio(results: Results) -> float:
    return median(ours / theirs for ours, theirs in _ttft_pairs(results, LARGE))


def _ttft_extra_ms(results: Results) -> float:
    return median(ours - theirs for ours, theirs in _ttft_pairs(results, EMBEDDED))


def _ttft_pairs(results: Results, model: str) -> list[tuple[float, float]]:
    """Return the TTFT of each question, ours from Node and in-process, one at a time."""

    def values(side: str) -> list[float]:
        return results.values(Key(model, 1, side), lambda answer: answer.ttft_ms)

    return list(zip(values(NODE), values(IN_PROCESS), strict=True))


def _throughput(results: Results, model: str, at_once: int) -> float:
    ours = results.throughput(Key(model, at_once, NODE))
    return ours / results.throughput(Key(model, at_once, SERVER))


def _first_text(results: Results, model: str, at_once: int) -> float:
    """Compare when half of the answers had begun; the server shows its tokens as text only."""

    def seen(side: str) -> float:
        return median(results.values(Key(model, at_once, side), lambda each: each.first_text_ms))

    return seen(NODE) / seen(SERVER)


def _batch_gain(results: Results, at_once: int, side: str) -> float:
    """Compare sixteen at once from Node with another way, on the model where batches pay."""
    return results.throughput(Key(FP32, 16, NODE)) / results.throughput(Key(FP32, at_once, side))
