"""Installs the peers' packages beside this file, once for each state of the pinned lists.

A package that cannot be installed does not stop the others: its peer fails to start and says why.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
PYTHON: Final = HERE / ".venv" / "bin" / "python"
"""The interpreter that has the peers' Python packages."""

_NODE_FOLDER: Final = HERE / "node_modules"
_NODE_LISTS: Final = (HERE / "package.json", HERE / "package-lock.json")
_PYTHON_LIST: Final = HERE / "requirements.txt"
_STAMP: Final = ".installed"
_LIMIT_S: Final = 900.0
"""What one installation may take."""


def ensure() -> None:
    """Install what is not there yet; says so, because it takes up to a minute."""
    node_state = _state(*_NODE_LISTS)
    if not _is_installed(_NODE_FOLDER, node_state):
        _say(f"installing the Node packages of the peers into {_NODE_FOLDER}")
        if _install_node():
            (_NODE_FOLDER / _STAMP).write_text(node_state)
    python_state = _state(_PYTHON_LIST) + sys.version
    if not _is_installed(PYTHON.parent.parent, python_state):
        _say(f"installing the Python packages of the peers into {PYTHON.parent.parent}")
        if _install_python():
            (PYTHON.parent.parent / _STAMP).write_text(python_state)


def versions() -> dict[str, str]:
    """Return the pinned version of every package, those of Python as in its list."""
    listed = json.loads(_NODE_LISTS[0].read_text())
    node = {**listed["dependencies"], **listed["optionalDependencies"]}
    python = dict(line.split("==") for line in _PYTHON_LIST.read_text().split())
    return {**node, **python}


def _install_node() -> bool:
    """Install the lock file; packages with native code are optional in it."""
    return _run(_npm(), "ci", "--no-audit", "--no-fund", "--loglevel=error")


def _install_python() -> bool:
    """Install the list, or as much of it as can be."""
    venv.create(PYTHON.parent.parent, clear=True, with_pip=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if _run(*pip, "-r", str(_PYTHON_LIST)):
        return True
    for requirement in _PYTHON_LIST.read_text().split():
        _run(*pip, requirement)
    return False


def _run(*command: str) -> bool:
    try:
        subprocess.run(command, cwd=HERE, check=True, timeout=_LIMIT_S, stdout=sys.stderr)
    except (OSError, subprocess.SubprocessError) as error:
        _say(f"that failed: {error}")
        return False
    return True


def _npm() -> str:
    return shutil.which("npm") or "npm"


def _is_installed(folder: Path, state: str) -> bool:
    stamp = folder / _STAMP
    return stamp.exists() and stamp.read_text() == state


def _state(*listings: Path) -> str:
    return hashlib.sha256(b"".join(listing.read_bytes() for listing in listings)).hexdigest()


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
