"""What quantising a KV cache at rest costs in quality, and how fast it is packed and unpacked.

A model reads a prefix; keys and values of its cache go through a format and back, and the tokens
that follow are read on top of them. The logits are compared with those on top of the cache as it
was: Kullback-Leibler divergence, and whether the best token is the same. Every model reads the same
conversations, from the corpus of the embedded one but of a seed that it was not taught with. The
formats of `mx.quantize` with groups of 64 are measured beside ours. On the processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from isthmus.engine.blas import interpose
from isthmus.models import BUILTIN_ROOT
from isthmus.models.training.corpus import training_conversations
from isthmus.models.training.tokenizer import render
from isthmus.sessions.quantise import BITS, FORMS, Natives, pack, packed_bytes, unpack

from . import chart
from .chart import Bar, Panel
from .fifty.models import Shape, write_random
from .harness import ROOT, Figure, Options, Spread, option_parser, report, show, tidy
from .publish import Publication, markdown, number, provenance

_PUBLICATION: Final = Publication("kv", ROOT / "benchmarks" / "results" / "kv_formats.svg")
_SEED: Final = 1_000_003
EMBEDDED: Final = "embedded"
RANDOM: Final = "random"
SUBJECTS: Final = (
    (EMBEDDED, "float32"),
    (EMBEDDED, "bfloat16"),
    (RANDOM, "float32"),
    (RANDOM, "float16"),
)
"""Models and what their weights and caches are in."""

NATIVE: Final = "native"
FORMATS: Final = {"q8": (8, 8), "k8v4": (8, 4), "q4": (4, 4)}
"""Bits of keys and of values."""

WAYS: Final = ("pack", "unpack")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; the random Llama has heads of 64, two of four for keys and values."""

    texts: int
    speed_rounds: int
    shape: Shape
    prefix: int = 384
    following: int = 64
    speed_numbers: int = 1 << 22


FULL: Final = Plan(texts=16, speed_rounds=9, shape=Shape(256, 688, 6, 2_048))
QUICK: Final = replace(
    FULL, texts=1, speed_rounds=3, shape=replace(FULL.shape, layers=2), speed_numbers=1 << 20
)

Layers = list[tuple[Any, Any]]
"""Keys and values of each layer, arrays of mlx."""


@dataclass(slots=True)
class Cost:
    """What one format costs on one model.

    Attributes:
        divergences: Nats, of each position.
        same: Of each position, whether its best token is the same.
        size: Of the packed form against the cache as it was.
    """

    divergences: list[float]
    same: list[bool]
    size: float = 1.0

    @property
    def same_percent(self) -> float:
        """Return how many of the best tokens are the same."""
        return 100.0 * fmean(self.same)


Costs = dict[tuple[str, str], dict[str, Cost]]


def through_ours(array: Any, bits: int) -> tuple[Any, int]:
    """Pack and unpack an array; return it and the size between."""
    import mlx.core as mx

    dtype = str(array.dtype).removeprefix("mlx.core.")
    is_foreign = dtype == "bfloat16"  # numpy has no such type
    values = np.ascontiguousarray(np.array(array.view(mx.uint16) if is_foreign else array))
    packed = np.empty(packed_bytes(values.size, bits, dtype), np.uint8)
    pack(values, dtype, bits, packed)
    unpack(packed, dtype, bits, values)
    back = mx.array(values)
    return back.view(mx.bfloat16) if is_foreign else back, packed.nbytes


def through_theirs(array: Any, bits: int) -> tuple[Any, int]:
    """Do the same with mlx's own quantisation."""
    import mlx.core as mx

    packed = mx.quantize(array.reshape(-1, 64), 64, bits)
    back = mx.dequantize(*packed, 64, bits).reshape(array.shape)
    return back, sum(each.nbytes for each in packed)


Passage = Callable[[Any, int], tuple[Any, int]]
PASSAGES: Final[dict[str, tuple[Passage, tuple[int, int]]]] = {
    **{name: (through_ours, bits) for name, bits in FORMATS.items()},
    **{f"mx.quantize, {bits} bits": (through_theirs, (bits, bits)) for bits in BITS},
}


def texts(plan: Plan) -> list[list[int]]:
    """Return token ids of conversations, one text as long as a prefix and what follows it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(BUILTIN_ROOT / "chat" / "tokenizer.json"))
    turns = chain.from_iterable(each.turns for each in training_conversations(_SEED))
    ids = chain.from_iterable(tokenizer.encode(_rendered(*turn)).ids for turn in turns)
    length = plan.prefix + plan.following
    return [list(islice(ids, length)) for _ in range(plan.texts)]


def _rendered(question: str, answer: str) -> str:
    asked = {"role": "user", "content": question}
    answered = {"role": "assistant", "content": answer}
    return render([asked, answered], add_generation_prompt=False)


def logprobs(network: Any, layers: Layers, ids: list[int]) -> Any:
    """Return log-probabilities after each id, read on top of a cache."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    caches = make_prompt_cache(network)
    for cache, (keys, values) in zip(caches, layers, strict=True):
        cache.update_and_fetch(keys, values)
    logits = np.array(network(mx.array([ids]), cache=caches)[0].astype(mx.float32), np.float64)
    best = logits.max(axis=-1, keepdims=True)
    return logits - best - np.log(np.exp(logits - best).sum(axis=-1, keepdims=True))


def read(network: Any, ids: list[int]) -> Layers:
    """Return the cache of a prefix."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    caches = make_prompt_cache(network)
    mx.eval(network(mx.array([ids]), cache=caches))
    return [cache.keys_and_values() for cache in caches]


def judge(network: Any, plan: Plan, samples: list[list[int]]) -> dict[str, Cost]:
    """Measure every format on one model."""
    costs = {name: Cost([], []) for name in (NATIVE, *PASSAGES)}
    for ids in samples:
        prefix, following = ids[: plan.prefix], ids[plan.prefix :]
        layers = read(network, prefix)
        right = logprobs(network, layers, following)
        _compare(right, logprobs(network, layers, following), costs[NATIVE])
        whole = sum(keys.nbytes + values.nbytes for keys, values in layers)
        for name, (passage, bits) in PASSAGES.items():
            pairs = [(passage(keys, bits[0]), passage(values, bits[1])) for keys, values in layers]
            found = logprobs(network, [(k[0], v[0]) for k, v in pairs], following)
            _compare(right, found, costs[name])
            costs[name].size = sum(k[1] + v[1] for k, v in pairs) / whole
    if any(costs[NATIVE].divergences):
        raise SystemExit("the same cache gave different logits")
    return costs


def _compare(right: Any, found: Any, cost: Cost) -> None:
    """Add the positions of one text."""
    cost.divergences += (np.exp(right) * (right - found)).sum(axis=-1).tolist()
    cost.same += (right.argmax(axis=-1) == found.argmax(axis=-1)).tolist()


def measure(plan: Plan) -> Costs:
    """Measure every format on every model."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    samples, costs = texts(plan), Costs()
    with TemporaryDirectory(prefix="isthmus-bench-") as folder:
        write_random(Path(folder), plan.shape)
        sources = {EMBEDDED: BUILTIN_ROOT / "chat", RANDOM: Path(folder)}
        for model, dtype in SUBJECTS:
            network = load_model(sources[model])[0]
            network.set_dtype(getattr(mx, dtype))
            costs[model, dtype] = judge(network, plan, samples)
    return costs


def speeds(plan: Plan) -> dict[str, Spread]:
    """Return MB of a cache a second that are packed and unpacked; the first round is dropped."""
    floats = np.random.default_rng(_SEED).normal(size=plan.speed_numbers).astype(np.float32)
    arrays: dict[str, Natives] = {
        "float32": floats,
        "float16": floats.astype(np.float16),
        "bfloat16": (floats.view(np.uint32) >> 16).astype(np.uint16),
    }
    rates: dict[str, list[float]] = {}
    for _ in range(plan.speed_rounds + 1):
        for dtype in FORMS:
            for bits in BITS:
                values = arrays[dtype]
                packed = np.zeros(packed_bytes(values.size, bits, dtype), np.uint8)
                back = np.zeros_like(values)
                began = time.perf_counter()
                pack(values, dtype, bits, packed)
                between = time.perf_counter()
                unpack(packed, dtype, bits, back)
                ended = time.perf_counter()
                for way, spent in zip(WAYS, (between - began, ended - between), strict=True):
                    name = f"{way} {dtype}, {bits} bits"
                    rates.setdefault(name, []).append(values.nbytes / 1e6 / spent)
    return {name: Spread.of(values[1:]) for name, values in rates.items()}


def figures(costs: Costs) -> list[Figure]:
    """Return what 8 bits have to reach, for each model in its worst dtype."""
    wanted = list[Figure]()
    for model in (EMBEDDED, RANDOM):
        q8 = [formats["q8"] for (name, _), formats in costs.items() if name == model]
        divergence = max(fmean(cost.divergences) for cost in q8)
        same = min(cost.same_percent for cost in q8)
        wanted += [
            Figure(f"q8_mean_divergence_{model}", divergence, 1e-3, "nats"),
            Figure(f"q8_same_greedy_token_{model}", same, 99.0, "%", is_least=True),
        ]
    return wanted


def table(costs: Costs, rates: dict[str, Spread]) -> str:
    """Return the tables of the document."""
    rows = []
    for (model, dtype), formats in costs.items():
        for name, cost in formats.items():
            if name != NATIVE:
                mean, most = fmean(cost.divergences), max(cost.divergences)
                cells = [f"{100 * cost.size:.1f} %", f"{mean:.2g}", f"{most:.2g}"]
                rows.append([f"{model}, {dtype}", name, *cells, f"{cost.same_percent:.1f} %"])
    titles = ["model", "format", "size", "mean KL, nats", "largest KL", "same greedy token"]
    quality = markdown(titles, rows, names=2)
    speed_rows = [
        [name, *(number(rates[f"{way} {name}"].median) for way in WAYS)]
        for name in (f"{dtype}, {bits} bits" for dtype in FORMS for bits in BITS)
    ]
    speed = markdown(["of one thread", "pack, MB/s", "unpack, MB/s"], speed_rows)
    return f"{quality}\n\n{speed}\n\n{provenance()}"


def picture(costs: Costs) -> str:
    """Return the divergences as bars."""
    panels = [
        Panel(
            f"{model}, {dtype}: mean KL divergence, nats",
            [
                Bar(name, fmean(cost.divergences), chart.OURS if name in FORMATS else chart.RIVAL)
                for name, cost in formats.items()
                if name != NATIVE
            ],
            is_rate=False,
        )
        for (model, dtype), formats in costs.items()
    ]
    return chart.to_svg("What formats of KV caches cost", panels, (provenance(),))


def main() -> None:
    """Measure, print the table and the line of JSON, and write what was asked for."""
    chosen = _PUBLICATION.read_options(option_parser(__doc__ or ""))
    options = Options(chosen.quick, chosen.json)
    plan, blas, began = QUICK if options.is_quick else FULL, interpose(), time.monotonic()
    rates = speeds(plan)
    costs = measure(plan)
    print(table(costs, rates))
    show("MB/s", {name: spread.to_json() for name, spread in rates.items()})
    quality = {
        f"{model} {dtype}/{name}": {
            "size": tidy(cost.size),
            "mean_divergence": tidy(fmean(cost.divergences)),
            "largest_divergence": tidy(max(cost.divergences)),
            "same_greedy_percent": tidy(cost.same_percent),
            "positions": len(cost.same),
        }
        for (model, dtype), formats in costs.items()
        for name, cost in formats.items()
    }
    detail = {
        "mb_per_s": {name: spread.to_json() for name, spread in rates.items()},
        "prefix_tokens": plan.prefix,
        "blas": blas.name,
        "seconds": round(time.monotonic() - began, 1),
    }
    _PUBLICATION.write(chosen, lambda: table(costs, rates), lambda: picture(costs))
    report(options, "kv_formats", figures(costs), detail, {"quality": quality})


if __name__ == "__main__":
    main()
