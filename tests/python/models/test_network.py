"""Weights are read in steps of bounded size, looked at for NaN, and let go when nobody waits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from isthmus.errors import ModelLoadFailed
from isthmus.limits import LOAD_GROUP_BYTES
from isthmus.models import BUILTIN_ROOT, network
from isthmus.models.network import NetworkLoad, is_finite, load_network
from tests.faults.small_models import write_deep

CHAT = BUILTIN_ROOT / "chat"


def load_of(folder: Path, told: list[tuple[Any, ...]]) -> NetworkLoad:
    """Begin a load."""
    return NetworkLoad(folder, None, False, lambda *step: told.append(step))


def test_each_step_reads_a_group_and_the_last_runs_a_token(tmp_path: Path) -> None:
    folder = write_deep(tmp_path / "model", layers=6, width=512)
    told: list[tuple[Any, ...]] = []
    load = load_of(folder, told)
    steps = 0
    while not load.is_done:
        assert load.step() is True
        steps += 1
    assert load.vocab_size == 320
    reads = [step for step in told if step[0] == "load"]
    sizes = [after[1] - before[1] for before, after in pairwise(reads)]
    # The first step builds the network, the last runs the token.
    assert len(sizes) == steps - 2 > 1
    assert all(0 < size <= LOAD_GROUP_BYTES for size in sizes)
    assert reads[0][1] == 0 and reads[-1][1] == reads[-1][2] == sum(sizes)
    assert [step[0] for step in told[-2:]] == ["warm_up"] * 2
    assert all(unit == "bytes" for _, _, _, unit in reads)


def test_a_load_that_is_dropped_lets_go_of_what_it_had(tmp_path: Path) -> None:
    folder = write_deep(tmp_path / "model", layers=6, width=512)
    load = load_of(folder, [])
    load.step()
    before = mx.get_active_memory()
    load.step()
    load.step()
    assert mx.get_active_memory() > before
    load.drop()
    assert mx.get_active_memory() <= before and load.network is None


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_found_wherever_it_is(dtype: Any, bad: float) -> None:
    for size in (1, 70_000, 65_536 * 2):
        numbers = mx.ones((size,)).astype(dtype)
        assert is_finite(numbers)
        numbers[size - 1] = bad
        mx.eval(numbers)
        assert not is_finite(numbers)


def test_large_numbers_zeros_integers_and_single_numbers_are_finite() -> None:
    assert is_finite(mx.full((4, 4), 3.4e38))
    assert is_finite(mx.full((4,), 65_504.0).astype(mx.float16))
    assert is_finite(mx.zeros((0, 3)))
    assert is_finite(mx.array(2**31, dtype=mx.uint32))
    assert is_finite(mx.array(1.5)) and not is_finite(mx.array(float("nan")))
    assert is_finite(mx.ones((3, 5)).T)
    assert not is_finite(mx.array([complex(0, float("inf"))]))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("Model type x not supported."), "unsupported_type"),
        (RuntimeError("shape"), "load_failed"),
        (OSError(5, "disk"), "io_error"),
    ],
)
def test_what_mlx_lm_raises_has_a_cause(
    error: Exception, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("mlx_lm.utils.load_model", fail)
    with pytest.raises(ModelLoadFailed) as caught:
        load_network(CHAT, None, False)
    assert caught.value.details["cause"] == cause and caught.value.__cause__ is error


def test_memory_is_given_back_where_the_system_has_no_heap_to_trim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "_heap_trim", lambda: None)
    network.return_memory()
