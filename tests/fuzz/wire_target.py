"""The coverage-guided fuzzer's own process: libFuzzer, by atheris, on the invariants of the wire.

`python -m tests.fuzz.wire_target CORPUS [libFuzzer options]`; `tests.fuzz.run` starts it. An
exception that leaves a check is a finding: its input is written where `-artifact_prefix` says.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["isthmus.wire"]):
    from tests.fuzz.invariants import check


def main() -> None:
    """Run until a limit among the options is reached, or something is found."""
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
