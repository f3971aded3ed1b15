"""The files of a model folder: which there are, and that none leads out of it or floods a reader.

What mlx-lm or transformers would read must be a regular file inside the folder (or an allowed
root: the Hub's cache is made of links), of bounded size. A `.bin` or pickle beside safetensors is
never opened, so it is let be. A refusal of any file of the folder is made by `load_failed`.

Not known here: what the files hold. No file is opened.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from ..errors import ModelLoadFailed, PathRefused
from .safetensors_header import shown

TEXT_FILE_LIMIT_BYTES: Final = 128 * 1024 * 1024
"""Longest file of any other kind but weights: the largest published tokenizer.json has 35 MB."""

FOLDER_ENTRIES_LIMIT: Final = 10_000
"""Most entries of a folder; the largest published model has 300 files."""

WEIGHT_PATTERN: Final = "model*.safetensors"
"""What `mlx_lm.utils.load_model` loads."""

_READ_PATTERNS: Final = (
    *(WEIGHT_PATTERN, "*.json", "*.jinja", "*.jsonl", "*.txt"),
    *("tokenizer.model*", "tiktoken.model", "*.tiktoken", "*.py"),
)
_TEMPLATE_FOLDER: Final = "additional_chat_templates"


def names_in(folder: Path) -> frozenset[str]:
    """Name the entries of a model folder, hidden ones left out.

    Raises:
        ModelLoadFailed: With cause `missing_folder`, `not_a_folder`, `empty_folder` or
            `bad_config` (too many entries).
        PathRefused: mlx-lm would read the folder's name as a pattern.
    """
    if not folder.exists():
        raise load_failed("missing_folder", f"There is no folder {shown(str(folder))}.")
    if not folder.is_dir():
        raise load_failed("not_a_folder", f"{shown(str(folder))} is not a folder.")
    if glob.escape(str(folder)) != str(folder):
        # mlx-lm globs with the folder's name: a[b] would load the weights of the folder ab.
        raise PathRefused(
            f"{shown(str(folder))} holds one of * ? [, which mlx-lm reads as a pattern; rename it.",
            phase="load",
        )
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    if not names:
        raise load_failed("empty_folder", f"{shown(str(folder))} is empty.")
    if len(names) > FOLDER_ENTRIES_LIMIT:
        raise load_failed(
            "bad_config", f"{shown(str(folder))} has over {FOLDER_ENTRIES_LIMIT} files."
        )
    return frozenset(names)


def check_links(folder: Path, names: Iterable[str], allowed_roots: Sequence[Path]) -> None:
    """Refuse links that lead out, and pipes and devices that would block or flood a reader.

    Raises:
        ModelLoadFailed: With cause `not_a_file`, or that of `too_large`.
        PathRefused: A link leads out of the folder and of all allowed roots.
    """
    roots = [Path(os.path.realpath(root)) for root in (folder, *allowed_roots)]
    read = [folder / name for name in names if matches(name, _READ_PATTERNS)]
    templates = folder / _TEMPLATE_FOLDER
    if os.path.lexists(templates):
        _check_inside(templates, roots)
        read += templates.glob("*.jinja")
    for path in read:
        _check_inside(path, roots)
        if not path.exists():
            raise load_failed("not_a_file", f"{shown(path.name)} is a link to nothing.")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise load_failed("not_a_file", f"{shown(path.name)} is not a regular file.")
        is_weight = fnmatchcase(path.name, WEIGHT_PATTERN)
        if not is_weight and status.st_size > TEXT_FILE_LIMIT_BYTES:
            raise too_large(path.name, TEXT_FILE_LIMIT_BYTES)


def files_read(folder: Path) -> list[Path]:
    """Return the files that mlx-lm or transformers may read of a verified folder."""
    found = [folder / name for name in names_in(folder) if matches(name, _READ_PATTERNS)]
    return found + sorted((folder / _TEMPLATE_FOLDER).glob("*.jinja"))


def _check_inside(path: Path, roots: Sequence[Path]) -> None:
    target = Path(os.path.realpath(path))
    if not any(target.is_relative_to(root) for root in roots):
        raise PathRefused(
            f"{shown(path.name)} is a link out of the model folder; copy the file into it.",
            phase="load",
            file=shown(path.name),
        )


def check_plain_name(name: str, where: str) -> None:
    """Refuse names that are joined to the folder's path and could leave it.

    Raises:
        PathRefused: With the name, and `where` it was found.
    """
    if name in ("", ".", "..") or any(char in name for char in "/\\:\0"):
        raise PathRefused(
            f"{where} names the file {shown(name)}, which is not a plain file name.",
            phase="load",
            file=shown(name),
        )


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a name fits one of the patterns, in exactly that spelling."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def load_failed(cause: str, message: str, **details: object) -> ModelLoadFailed:
    """Return the error of a model that cannot be loaded, for the caller to raise."""
    error = ModelLoadFailed(message, phase="load", cause=cause)
    error.details.update(details)
    return error


def too_large(name: str, limit_bytes: int) -> ModelLoadFailed:
    """Return the error of a file that is over its limit."""
    return load_failed(
        cause_for(name), f"{shown(name)} is over {limit_bytes} bytes.", file=shown(name)
    )


def cause_for(name: str) -> str:
    """Return the cause of a failure that lies in a file of this name."""
    return "bad_tokenizer_json" if name.startswith("tokenizer") else "bad_config"
