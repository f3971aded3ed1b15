"""Dependencies point one way, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import isthmus

ROOT = Path(isthmus.__file__).parent
BASE = {"errors", "limits", "settings"}
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "limits": set(),
    "settings": {"limits"},
    "wire": {"errors", "limits"},
    "transport": {"wire", *BASE},
    "text": BASE,
    "multiplex": BASE,
    "sessions": {"text", *BASE},
    "resilience": BASE,
    "faults": {"errors", "limits"},
    "models": {"text", "sessions", "resilience", "faults", *BASE},
    "engine": {"models", "sessions", "text", "resilience", "faults", *BASE},
    "runtime": {
        "engine",
        "faults",
        "models",
        "multiplex",
        "resilience",
        "sessions",
        "text",
        "transport",
        "wire",
        "__init__",
        *BASE,
    },
    "host": {"multiplex", "resilience", "transport", "wire", "__init__", *BASE},
    "doctor": {"engine", "models", "__init__", *BASE},
    "cli": {"runtime", "engine", "faults", "models", "transport", "doctor", "__init__", *BASE},
    "__main__": {"cli", "transport"},
}
"""What each part may import; a part that is not here may import nothing of the package."""

HEAVY = ("mlx", "mlx_lm", "transformers", "tokenizers", "torch", "huggingface_hub")
FILES = sorted(ROOT.rglob("*.py"))


def part_of(module: tuple[str, ...]) -> str:
    """Return the folder or file below the package that a module lies in."""
    return module[0] if module else "__init__"


def imported_by(file: Path) -> Iterator[tuple[str, ...]]:
    """Yield the modules of the package that a file imports, wherever in the file."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "isthmus":
                    yield tuple(alias.name.split(".")[1:])
        elif isinstance(node, ast.ImportFrom):
            yield from _from(node, package)


def _from(node: ast.ImportFrom, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    named = tuple(node.module.split(".")) if node.module else ()
    if node.level:
        module = (*package[: len(package) - node.level + 1], *named)
    elif named[:1] == ("isthmus",):
        module = named[1:]
    else:
        return
    for alias in node.names:
        # `from . import x` names a module of the package, or a value of its `__init__`.
        target = ROOT.joinpath(*module, alias.name)
        is_module = target.is_dir() or target.with_suffix(".py").is_file()
        yield (*module, alias.name) if is_module else module


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_only_what_lies_below_it(file: Path) -> None:
    relative = file.relative_to(ROOT)
    part = relative.parts[0].removesuffix(".py")
    upward = {
        ".".join(module)
        for module in imported_by(file)
        if part_of(module) != part and part_of(module) not in ALLOWED.get(part, set())
    }
    assert not upward, f"{relative} may not import {sorted(upward)}"


def test_the_rules_have_no_cycle() -> None:
    left = {part: below - {part} for part, below in ALLOWED.items()}
    while left:
        free = {part for part, below in left.items() if not below & left.keys()}
        assert free, f"a cycle among {sorted(left)}"
        left = {part: below for part, below in left.items() if part not in free}


def test_every_part_of_the_package_has_a_rule() -> None:
    assert {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in FILES} <= set(ALLOWED)


@pytest.mark.parametrize(
    "module",
    ["isthmus", "isthmus.cli", "isthmus.runtime.app", "isthmus.host", "isthmus.engine.thread"],
)
def test_importing_it_pulls_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_claiming_the_pipes_comes_before_every_other_import() -> None:
    tree = ast.parse((ROOT / "__main__.py").read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(node) for node in top} <= {"import signal", "import sys"}
    claim = (ROOT / "transport" / "claim.py").read_text()
    assert {
        alias.name.split(".")[0] if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(claim))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    } <= {"__future__", "os", "stat", "typing"}
