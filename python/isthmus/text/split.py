"""Cuts a long text where its tokens cannot cross, so that its parts can be encoded side by side.

One text is encoded on one thread, and reading half a million ids at once holds the interpreter for
12 ms. A text may be cut before a single space between two ASCII letters when no token can hold a
letter and then a space. That is known of byte-level BPE with the splitting patterns listed here,
with which a word and the space after it never share a token: merges stay within what the pattern
matched, no alternative of it continues from a letter to a space, and none looks behind. Everything
else is left whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

PART_CHARS: Final = 16_384
"""Shortest part: its ids are read in a fraction of a millisecond."""

_SEAM: Final = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")
_SEAM_WINDOW: Final = 4_096
"""How far a seam is looked for before the part is made longer."""

_GPT_4: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN_PATTERNS: Final = frozenset((_GPT_4 % "{1,3}", _GPT_4 % ""))
"""Of Llama 3 and Qwen 2; GPT-2's is built into the byte-level pre-tokenizer."""

_NORMALIZERS: Final = frozenset((None, "NFC"))
"""What changes nothing across a space."""


def split(text: str) -> list[str]:
    """Return the parts of a text that `is_splittable` allows to cut; together they are the text."""
    parts: list[str] = []
    start, wanted = 0, PART_CHARS
    while start + wanted < len(text):
        seam = _SEAM.search(text, start + wanted, min(start + wanted + _SEAM_WINDOW, len(text)))
        if seam is None:
            wanted += _SEAM_WINDOW - 2
            continue
        parts.append(text[start : seam.start()])
        start, wanted = seam.start(), PART_CHARS
    parts.append(text[start:])
    return parts


def is_splittable(backend: Any) -> bool:
    """Whether the texts of this tokenizer (of the `tokenizers` package) may be cut at seams."""
    return (
        type(backend.model).__name__ == "BPE"
        and not backend.model.dropout
        and _kind(backend.normalizer) in _NORMALIZERS
        and _cuts_before_spaces(_state(backend.pre_tokenizer))
        and _has_no_seam(backend.get_added_tokens_decoder().values())
    )


def _cuts_before_spaces(pre_tokenizer: dict[str, Any]) -> bool:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    *first, last = steps or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") is not False:
        return False
    cuts = [step for step in first if step.get("type") != "Digits"]
    if not all(map(_is_known_split, cuts)):
        return False
    return bool(cuts) or last.get("use_regex") is True


def _is_known_split(step: dict[str, Any]) -> bool:
    return (
        step.get("type") == "Split"
        and step.get("pattern", {}).get("Regex") in _KNOWN_PATTERNS
        and step.get("behavior") == "Isolated"
        and step.get("invert") is False
    )


def _has_no_seam(added_tokens: Iterable[Any]) -> bool:
    """Whether no added token, which is found before anything else, could lie across a seam."""
    return not any(
        token.lstrip or token.rstrip or _SEAM.search(token.content) for token in added_tokens
    )


def _kind(component: Any) -> str | None:
    return None if component is None else str(_state(component).get("type"))


def _state(component: Any) -> dict[str, Any]:
    if component is None:
        return {}
    state: dict[str, Any] = json.loads(component.__getstate__())
    return state
