"""Rows computed in parts on several streams are the rows computed at once."""

from __future__ import annotations

import threading

import mlx.core as mx
import pytest

from isthmus.engine import spread as module
from isthmus.engine.spread import PART_TOKENS, spread


@pytest.fixture(autouse=True)
def streams_of_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processors, whatever the machine has."""
    monkeypatch.setattr(module, "_processors", lambda: 3)
    module.processor_streams.cache_clear()


def test_the_parts_follow_one_another() -> None:
    rows = mx.arange(20)
    asked: list[tuple[int, int]] = []

    def run(first: int, stop: int) -> mx.array:
        asked.append((first, stop))
        return rows[first:stop] * 2

    assert spread(20, 20 * PART_TOKENS, run).tolist() == [2 * row for row in range(20)]
    assert asked == [(0, 6), (6, 13), (13, 20)]


@pytest.mark.parametrize(("rows", "tokens"), [(1, 10_000), (20, 2 * PART_TOKENS - 1), (5, 5)])
def test_little_work_stays_whole(rows: int, tokens: int) -> None:
    asked: list[tuple[int, int]] = []
    spread(rows, tokens, lambda first, stop: asked.append((first, stop)) or mx.zeros((1,)))
    assert asked == [(0, rows)]


def test_the_blas_has_its_threads_back_even_after_a_failure() -> None:
    def fail(first: int, stop: int) -> mx.array:
        raise ValueError("no")

    library = module._openblas()
    before = None if library is None else library.openblas_get_num_threads()
    with pytest.raises(ValueError, match="no"):
        spread(10, 10 * PART_TOKENS, fail)
    assert library is None or library.openblas_get_num_threads() == before


def test_it_can_be_used_on_the_thread_that_it_was_first_used_on() -> None:
    found: list[float] = []

    def work() -> None:
        module.processor_streams.cache_clear()
        for _ in range(2):
            made = spread(6, 6 * PART_TOKENS, lambda first, stop: mx.ones((stop - first, 2)))
            found.append(mx.sum(made).item())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    module.processor_streams.cache_clear()
    assert found == [12.0, 12.0]
