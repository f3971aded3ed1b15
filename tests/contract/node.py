"""Runs scripts that use the Node package on a runtime of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_node(script: str, **question: object) -> Any:
    """Run a script of this folder and return what it answers.

    Args:
        question: Given to the script as JSON on its standard input, with the `python` to use.
    """
    done = subprocess.run(
        ["node", str(Path(__file__).with_name(script))],
        input=json.dumps({"python": sys.executable, **question}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
