"""`make fuzz`: fuzzes the wire in both languages for a bounded time and prints what came of it.

First libFuzzer, by atheris, searches inputs that reach new code of the Python side. Then Node reads
every payload that was found and must come to the same verdict, and fast-check goes on with values
and bytes of its own. The corpus is kept under build/fuzz, so that the next run goes on from there.
Exit code 1: something was found.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.fuzz.seeds import write_dictionary, write_seeds, write_verdicts

ROOT: Final = Path(__file__).parents[2]
WORK: Final = ROOT / "build" / "fuzz"
INPUT_BYTES: Final = 2_048
"""Longest input: three frames over the limit that the invariants use."""
MEMORY_LIMIT_MB: Final = 1_024
INPUT_LIMIT_S: Final = 10
NODE_SHARE: Final = 0.25
"""Of the time: Node's half is not guided by coverage, and soon repeats itself."""
GRACE_S: Final = 120

_STATS: Final = re.compile(r"stat::(\w+):\s+(\d+)")
_COVERAGE: Final = re.compile(r"\bcov: (\d+) ft: (\d+)")


def main() -> int:
    """Fuzz, print the figures, and return how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="time of the whole run (60)")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    arguments = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        if (sys.platform, platform.machine()) == ("linux", "x86_64"):
            say("atheris is missing: run `make fuzz`, or install the package's extra `fuzz`")
            return 2
        say("atheris exists for Linux on x86-64 only: the Python half is left out here")
        return fuzz_node(arguments.seconds, None)
    found = fuzz_python(arguments.seconds * (1 - NODE_SHARE), arguments.seed)
    verdicts = WORK / "verdicts.json"
    say(f"payloads that both languages read: {write_verdicts(WORK / 'corpus', verdicts)}")
    return found | fuzz_node(arguments.seconds * NODE_SHARE, verdicts)


def fuzz_python(seconds: float, seed: int) -> int:
    """Run libFuzzer on the Python side; return 1 when it found something."""
    corpus, findings = WORK / "corpus", WORK / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    before = {file.name for file in findings.iterdir()}
    begun_with = write_seeds(corpus)
    write_dictionary(WORK / "dictionary")
    command = [
        *(sys.executable, "-m", "tests.fuzz.wire_target", str(corpus)),
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={INPUT_BYTES}",
        f"-rss_limit_mb={MEMORY_LIMIT_MB}",
        f"-timeout={INPUT_LIMIT_S}",
        f"-seed={seed}",
        f"-dict={WORK / 'dictionary'}",
        f"-artifact_prefix={findings}/",
        "-print_final_stats=1",
    ]
    ended = subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=seconds + GRACE_S
    )
    stats = {name: int(value) for name, value in _STATS.findall(ended.stderr)}
    coverage = [(int(edges), int(features)) for edges, features in _COVERAGE.findall(ended.stderr)]
    first, last = (coverage[0], coverage[-1]) if coverage else ((0, 0), (0, 0))
    new = sorted(file.name for file in findings.iterdir() if file.name not in before)
    say(f"python executions: {stats.get('number_of_executed_units', 0)}")
    say(f"python new coverage: {last[0] - first[0]} edges, {last[1] - first[1]} features")
    say(f"python corpus: {begun_with} inputs before, {len(list(corpus.iterdir()))} after")
    say(f"python crashes: {len(new)}")
    if ended.returncode or new:
        say(ended.stderr[-4_000:])
        for name in new:
            say(f"to repeat: {sys.executable} -m tests.fuzz.wire_target {findings / name}")
        return 1
    return 0


def fuzz_node(seconds: float, verdicts: Path | None) -> int:
    """Run the TypeScript side's half; return 1 when it found something."""
    command = ["node", "tests/fuzz/wire_fuzz.mjs", f"{max(1, round(seconds))}"]
    if verdicts is not None:
        command.append(str(verdicts))
    return int(subprocess.run(command, cwd=ROOT, timeout=seconds + GRACE_S).returncode != 0)


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
