"""The sentences of test files: what each test says that it shows, in the order of the file.

A Python test says it by its function's name, a TypeScript test by the title that it is given; the
titles of the `describe` around it go in front. Files are read, never run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<comment> //[^\n]* | /\*.*?\*/ )
  | (?P<string> '(?:\\.|[^'\\\n])*' | "(?:\\.|[^"\\\n])*" | `(?:\\.|[^`\\])*` )
  | (?P<regex> (?<=[=(,:\[!&|?{};\s])
      / (?![*/\s]) (?: \\. | \[(?:\\.|[^\]\\\n])*\] | [^/\\\n\[] )+ / \w* )
  | (?P<name> [A-Za-z_$][\w$]* )
  | (?P<mark> [^\s] )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_PLACEHOLDER: Final = re.compile(r"%[sdifjoOp]|\$\w+(?:\.\w+)*")
_TAKES_A_TABLE: Final = frozenset(("each", "for", "skipIf", "runIf"))
_SPELLED: Final = {"sigterm": "SIGTERM", "sigkill": "SIGKILL", "ctrl c": "Ctrl-C", "gguf": "GGUF"}
"""What the name of a function cannot spell."""

Token = tuple[str, str]


def sentences_of(file: Path) -> list[str]:
    """Return the sentences of one test file.

    Raises:
        ValueError: It is neither Python nor TypeScript.
    """
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        return [sentence(name) for name in python_tests(text)]
    if file.suffix == ".ts":
        return [sentence(title) for title in typescript_titles(text)]
    raise ValueError(f"{file.name} is no test file")


def python_tests(text: str) -> list[str]:
    """Return the names of the test functions at the top of a module and in its classes."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("test_"):
                found.append((node.lineno, node.name))
        elif isinstance(node, ast.Assign) and _is_state_machine(node):
            name = ast.unparse(node.targets[0])
            found.append((node.lineno, re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()))
    return [name for _, name in sorted(found)]


def _is_state_machine(node: ast.Assign) -> bool:
    """Whether it is `TestOrder = Machine.TestCase`, as hypothesis wants it."""
    return isinstance(node.value, ast.Attribute) and node.value.attr == "TestCase"


def typescript_titles(text: str) -> list[str]:
    """Return the titles of the tests, each with those of the groups that it stands in."""
    tokens = list(_tokens(text))
    titles: list[str] = []
    groups: list[tuple[int, str]] = []
    """The index behind each open group, and its title."""
    for index, (kind, word) in enumerate(tokens):
        while groups and index >= groups[-1][0]:
            groups.pop()
        if kind != "name" or word not in ("test", "it", "describe"):
            continue
        if index and tokens[index - 1][1] == ".":
            continue
        call = _call(tokens, index + 1)
        if call is None:
            continue
        start, title = call
        if word == "describe":
            groups.append((_behind(tokens, start), title))
        else:
            titles.append(": ".join([*(group for _, group in groups), title]))
    return titles


def sentence(words: str) -> str:
    """Return a test's name or title as a sentence."""
    text = words
    if " " not in words:
        text = re.sub(r"([a-z]) s\b", r"\1's", words.removeprefix("test_").replace("_", " "))
    text = _PLACEHOLDER.sub("…", text).strip().rstrip(".")
    text = re.sub(r"^…: ", "in each case ", text)
    for plain, spelled in _SPELLED.items():
        text = re.sub(rf"\b{plain}\b", spelled, text)
    return f"{text[:1].upper()}{text[1:]}."


def _tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        if kind != "comment":
            yield kind, match[0]


def _call(tokens: list[Token], index: int) -> tuple[int, str] | None:
    """Return where the call's own bracket opens and its title, or None when it has no title."""
    modifier = ""
    while index + 1 < len(tokens) and tokens[index][1] == ".":
        modifier, index = tokens[index + 1][1], index + 2
    if modifier in _TAKES_A_TABLE and index < len(tokens) and tokens[index][1] == "(":
        index = _behind(tokens, index)
    if index + 1 < len(tokens) and tokens[index][1] == "(" and tokens[index + 1][0] == "string":
        return index, _unquoted(tokens[index + 1][1])
    return None


def _behind(tokens: list[Token], opening: int) -> int:
    """Return the index behind the bracket that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(tokens)):
        kind, word = tokens[index]
        if kind == "mark":
            depth += (word in _OPENING) - (word in _CLOSING)
            if depth == 0:
                return index + 1
    return len(tokens)


def _unquoted(literal: str) -> str:
    return re.sub(r"\\(.)", r"\1", literal[1:-1]).replace("\n", " ")
