"""Whether a model folder's tokenizer is one that transformers and mlx-lm can be given.

The folder must have the files of some tokenizer; a tokenizer.json must have a model, and the
modules that tokenizer_config.json names must be mlx-lm's.

Not known here: whether the tokenizer works. Its vocabulary is not looked at, and no tokenizer
library is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .architectures import MODULE_NAME, MODULE_SETTINGS, Architectures
from .config import read_object
from .folder import TEXT_FILE_LIMIT_BYTES, check_plain_name, load_failed, matches
from .safetensors_header import shown

TOKENIZER_CONFIG_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Longest tokenizer_config.json: it may hold the chat template and thousands of added tokens."""

_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model*", "tiktoken.model", "*.tiktoken")
_VOCABULARY_FILES: Final = (("vocab.json", "merges.txt"), ("vocab.txt",), ("tekken.json",))


def read_tokenizer_config(folder: Path, names: frozenset[str]) -> dict[str, Any]:
    """Read tokenizer_config.json; empty where the folder has none.

    Raises:
        ModelLoadFailed: With cause `bad_tokenizer_json`.
    """
    if "tokenizer_config.json" not in names:
        return {}
    return read_object(folder, "tokenizer_config.json", TOKENIZER_CONFIG_LIMIT_BYTES)


def check_tokenizer(
    folder: Path,
    names: frozenset[str],
    tokenizer_config: Mapping[str, Any],
    architectures: Architectures,
) -> None:
    """Refuse a folder whose tokenizer is missing, broken, or of a kind that mlx-lm lacks.

    Raises:
        ModelLoadFailed: With cause `missing_tokenizer`, `bad_tokenizer_json` or
            `unsupported_type`.
        PathRefused: `fast_tokenizer_files` names a file outside the folder.
    """
    has_file = any(matches(name, _TOKENIZER_FILES) for name in names)
    if not has_file and not any(names.issuperset(files) for files in _VOCABULARY_FILES):
        raise load_failed("missing_tokenizer", f"{shown(str(folder))} has no tokenizer.json.")
    if "tokenizer.json" in names:
        tokenizer = read_object(folder, "tokenizer.json", TEXT_FILE_LIMIT_BYTES)
        if not isinstance(tokenizer.get("model"), dict):
            raise load_failed("bad_tokenizer_json", "tokenizer.json has no model.")
    _check_tokenizer_modules(tokenizer_config, architectures)
    files = tokenizer_config.get("fast_tokenizer_files", [])
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise load_failed("bad_tokenizer_json", "fast_tokenizer_files is not a list of file names.")
    for name in files:
        check_plain_name(name, "tokenizer_config.json")


def _check_tokenizer_modules(
    tokenizer_config: Mapping[str, Any], architectures: Architectures
) -> None:
    for field, package in MODULE_SETTINGS.items():
        name = tokenizer_config.get(field)
        if name is None:
            continue
        is_name = isinstance(name, str) and MODULE_NAME.fullmatch(name) is not None
        if not is_name or not architectures.has_module(package, name):
            raise load_failed(
                "unsupported_type",
                f"The installed mlx-lm has no {field} {shown(name)}.",
                field=field,
            )
