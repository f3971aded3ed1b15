"""Mixed load for minutes, with a kill -9 every so often, every answer checked.

One Node program has two runtimes. Generations (streamed, whole, slow, cancelled, aborted, left,
late, with drafts), texts to tokenize, drafts to judge, models that are loaded and given back, and
echoes go to both at once; one of them is killed again and again, the other one lives. Greedy tokens
are compared with mlx-lm's own, seeded ones with the same request alone, texts with the tokenizers
library. Linux only: sizes, descriptors and threads are read from /proc.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .fifty import models, questions
from .harness import Figure, Options, node_path, option_parser, report, tidy
from .processes import Subject
from .texts import Texts

HERE: Final = Path(__file__).resolve().parent
QUICK_MINUTES: Final = 0.4
MINUTES: Final = 10.0
KILLS_PER_MINUTE: Final = 6.0
_QUESTIONS: Final = 24
_TEXTS: Final = 400
_TOKENS: Final = 32
_SEEDED_EVERY: Final = 3
_EXTRAS: Final = (models.LARGE, models.FP32)
_QUARTERS: Final = (1, 3)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the whole run takes, and from which seed calls are made."""

    minutes: float
    seed: int
    begun: float

    @property
    def seconds_left(self) -> float:
        """What is left for the load when all is prepared; at least half of the time."""
        whole = self.minutes * 60
        return max(whole - (time.monotonic() - self.begun), whole / 2)


def main() -> None:
    """Run the load, print what came of it and the line of JSON."""
    parser = option_parser(__doc__ or "")
    parser.add_argument("--minutes", type=float, help=f"of the whole run ({MINUTES:g})")
    parser.add_argument("--seed", type=int, default=1, help="which calls are made (1)")
    chosen = parser.parse_args()
    minutes = chosen.minutes or (QUICK_MINUTES if chosen.quick else MINUTES)
    begun = time.monotonic()
    plan = Plan(minutes, chosen.seed, begun)
    with tempfile.TemporaryDirectory(prefix="isthmus-soak-") as folder:
        found = _soak(Path(folder), plan)
    found["seconds"] = round(time.monotonic() - begun, 1)
    _show(found)
    report(Options(chosen.quick, chosen.json), "soak", _figures(found), found, _further(found))
    if found["wrong"] or found["lost"]:
        sys.exit(1)


def _soak(folder: Path, plan: Plan) -> dict[str, Any]:
    written = models.write_all(folder, is_quick=True)
    asked = questions.texts()[:_QUESTIONS]
    with Subject("in process", [sys.executable, "-m", "benchmarks.fifty.inprocess_peer"]) as direct:
        # The copy without an end token gives what the model gives that ignores its own.
        cases = _greedy(direct, written[models.EMBEDDED], asked)
        extras = [
            {
                "source": str(written[name].folder),
                "case": _greedy(direct, written[name], asked[:1])[0],
            }
            for name in _EXTRAS
        ]
    seeded = [_seeded(case, index) for index, case in enumerate(cases) if not index % _SEEDED_EVERY]
    batch = Texts().batch(_TEXTS)
    texts = [{"text": text, "ids": ids} for text, ids in zip(batch.texts, batch.ids, strict=True)]
    command = [node_path(), str(HERE / "soaking" / "isthmus.mjs"), sys.executable]
    with Subject("isthmus", command) as ours:
        ours.ask("start", source="default", draft="default-draft", extras=extras)
        answers = ours.ask("alone", cases=seeded)["answers"]
        for case, ids in zip(seeded, answers, strict=True):
            case["ids"] = ids
        print(f"  {plan.minutes:g} minutes, seed {plan.seed}", flush=True)
        found = ours.ask(
            "soak",
            seconds=plan.seconds_left,
            killEveryS=60 / KILLS_PER_MINUTE,
            seed=plan.seed,
            cases=[*cases, *seeded],
            texts=texts,
        )
        ours.ask("stop")
    return found


def _greedy(direct: Subject, model: models.Written, asked: list[str]) -> list[dict[str, Any]]:
    """Return questions with the tokens that mlx-lm itself answers."""
    direct.ask("start", source=str(model.folder), text=asked[0])
    prompts = direct.ask("prompts", questions=asked)["ids"]
    sent = [{"ids": ids} for ids in prompts]
    told = direct.ask("ask", questions=sent, atOnce=1, maxTokens=_TOKENS, temperature=0.0)
    return [
        {"request": {"ids": ids, "maxTokens": _TOKENS, "ignoreEos": True}, "ids": answer["ids"]}
        for ids, answer in zip(prompts, told["answers"], strict=True)
    ]


def _seeded(case: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the same question to be answered with sampled tokens."""
    return {"request": {**case["request"], "temperature": 0.9, "topP": 0.95, "seed": seed}}


def _rss_ratio(found: dict[str, Any]) -> float:
    """Return the resident size in the last quarter over that in the second, of all processes."""
    second, last = (sum(sizes[quarter] for sizes in found["rss"].values()) for quarter in _QUARTERS)
    return float(last / second)


def _leaked_fds(found: dict[str, Any]) -> int:
    """Return how many descriptors more the host and the living runtime have at the end."""
    before, after = found["before"]["fds"], found["after"]["fds"]
    return sum(max(after[name] - before[name], 0) for name in ("host", "living"))


def _figures(found: dict[str, Any]) -> list[Figure]:
    return [
        Figure("wrong", found["wrong"], 0, "answers"),
        Figure("lost", found["lost"], 0, "calls"),
        Figure("leaked_fds", _leaked_fds(found), 0, ""),
        Figure("rss_last_vs_second_quarter", _rss_ratio(found), 1.05, "times"),
    ]


def _further(found: dict[str, Any]) -> dict[str, Any]:
    return {"calls": found["calls"], "kills": found["kills"]}


def _show(found: dict[str, Any]) -> None:
    for title in ("byKind", "errors"):
        print(f"\n  {title}: " + ", ".join(f"{name} {n}" for name, n in found[title].items()))
    for name, sizes in found["rss"].items():
        quarters = "".join(f"{(size or 0) / 2**20:>9.1f}" for size in sizes)
        print(f"  resident size, MiB, by quarter: {name:<8}{quarters}")
    for title in ("loopLagMs", "hostLagMs"):
        lags = ", ".join(f"{name} {tidy(value)}" for name, value in found[title].items())
        print(f"  {title}: {lags}")
    print(f"  before {found['before']}\n  after  {found['after']}")
    for example in found["examples"]:
        print(f"  {example}")


if __name__ == "__main__":
    main()
