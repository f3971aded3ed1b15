"""From the `source` of a load_model request to a folder on this disk.

A source is `default` or `default-draft` (the models inside the package), a folder, or a Hugging
Face id. What looks like a path is never looked up on the Hub, and an id is checked strictly before
it takes part in any path.

Not known here: what the folder's files hold (`verify` reads them), and how a download is made and
fails (`download`). mlx is never imported, huggingface_hub only for a folder that may be its cache.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ..errors import IsthmusError, ModelLoadFailed, PathRefused
from . import BUILTIN_ROOT
from .download import Download, download_failure
from .safetensors_header import shown

SOURCE_CHARS_LIMIT: Final = 4_096
"""Longest source: PATH_MAX of Linux."""

HUB_ID_CHARS_LIMIT: Final = 193
"""Longest Hugging Face id: two segments of 96 characters and the slash."""

REVISION_CHARS_LIMIT: Final = 200
"""Longest revision: git refuses longer names on common file systems."""

BUILTIN_FOLDERS: Final = {"default": "chat", "default-draft": "draft"}

DATA_PATTERNS: Final = (
    "*.json",
    "model*.safetensors",
    "tokenizer.model",
    "*.tiktoken",
    "tiktoken.model",
    "*.txt",
    "*.jsonl",
    "*.jinja",
)
"""What is downloaded: mlx-lm's own list without `*.py`."""

CODE_PATTERN: Final = "*.py"
"""Downloaded too when the caller trusts the model's code."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_WINDOWS_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ENCODED_SEPARATOR = re.compile(r"(?i)%(2e|2f|5c|00)")
_PATH_START = re.compile(r"[/.~]|[A-Za-z]:")
_FILE_END = re.compile(r"(?i)\.(safetensors|gguf|bin|pt|pth|pkl|json|npz|zip|tar|gz|py)$")


@dataclass(frozen=True, slots=True)
class Located:
    """A folder, where it came from, and the other folders that its symlinks may lead into."""

    path: Path
    source: str
    kind: Literal["builtin", "folder", "hub"]
    allowed_roots: tuple[Path, ...] = ()


def locate(
    source: str,
    *,
    model_roots: tuple[Path, ...] = (),
    local_files_only: bool,
    revision: str | None,
    download: Download,
    trust_remote_code: bool = False,
) -> Located:
    """Find the folder that a source names, downloading it where that is needed and allowed.

    Args:
        model_roots: When not empty, folders outside all of these are refused.
        local_files_only: Take Hub models from the local cache only.
        revision: Branch, tag or commit of a Hub model.
        download: See `hub_download` in `download`.

    Raises:
        PathRefused: The source, or the folder behind it, is one that must not be used.
        ModelLoadFailed: With cause `missing`, `not_a_folder`, `not_found`, `gated`, `offline`,
            `disk_full`, `transient_io`, `io_error` or `download_failed`.
        Cancelled: The download was cancelled.
    """
    _check_characters(source)
    if source in BUILTIN_FOLDERS:
        return Located(_builtin(source), source, "builtin")
    if _looks_like_path(source) or os.path.isdir(source):
        return locate_folder(source, model_roots)
    check_hub_id(source)
    check_revision(revision)
    patterns = (*DATA_PATTERNS, CODE_PATTERN) if trust_remote_code else DATA_PATTERNS
    try:
        path = download(
            source,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=local_files_only,
        )
    except IsthmusError:
        raise
    except Exception as error:
        raise download_failure(source, error) from error
    return Located(path, source, "hub", _hub_roots(path))


def locate_folder(source: str, model_roots: tuple[Path, ...]) -> Located:
    """Find a folder of this disk: a model's, or an adapter's.

    Raises:
        PathRefused: It has odd characters, or lies outside all of `model_roots`.
        ModelLoadFailed: With cause `missing` or `not_a_folder`.
    """
    _check_characters(source)
    path = Path(os.path.realpath(os.path.expanduser(source)))
    roots = [Path(os.path.realpath(root)) for root in model_roots]
    # Before it is looked at, so that a refusal does not tell whether the path exists.
    if roots and not any(path.is_relative_to(root) for root in roots):
        raise _refused(source, "lies outside the folders of the setting model_roots")
    if not os.path.lexists(path):
        raise ModelLoadFailed(
            f"There is no {shown(str(path))}. Check the path; a Hugging Face id is owner/name.",
            phase="load",
            cause="missing",
            path=shown(str(path)),
        )
    if not path.is_dir():
        raise ModelLoadFailed(
            f"{shown(str(path))} is a file; give the folder that holds config.json and "
            "model*.safetensors.",
            phase="load",
            cause="not_a_folder",
            path=shown(str(path)),
        )
    roots_of_links = _hub_roots(path) if _is_in_hub_cache(path) else ()
    return Located(path, source, "hub" if roots_of_links else "folder", roots_of_links)


def check_hub_id(source: str) -> None:
    """Refuse whatever is not exactly `name` or `owner/name` in the Hub's own alphabet.

    Raises:
        PathRefused: Always with the id and the rule.
    """
    segments = source.split("/")
    is_fine = (
        len(source) <= HUB_ID_CHARS_LIMIT
        and len(segments) <= 2
        and all(_is_hub_name(segment) for segment in segments)
        # In the cache's folder names "--" stands for the slash: a--b would be a/b.
        and "--" not in source
    )
    if not is_fine:
        raise _refused(
            source,
            "is neither an existing folder nor a Hugging Face id (owner/name, of letters, digits "
            "and . _ -). Check the spelling, or give the folder as ./folder",
        )


def check_revision(revision: str | None) -> None:
    """Refuse a revision that could leave the cache's `refs` folder.

    Raises:
        PathRefused: With the revision.
    """
    if revision is None:
        return
    parts = revision.split("/")
    is_fine = (
        len(revision) <= REVISION_CHARS_LIMIT
        and _REVISION.fullmatch(revision) is not None
        and all(part and ".." not in part and not _is_device(part) for part in parts)
    )
    if not is_fine:
        raise _refused(revision, "is no branch, tag or commit name", field="revision")


def _refused(value: str, why: str, field: str = "source") -> PathRefused:
    return PathRefused(f"{shown(value)} {why}.", phase="load", field=field)


def _check_characters(source: str) -> None:
    if not source or len(source) > SOURCE_CHARS_LIMIT:
        raise _refused(source, f"is not a source of 1 to {SOURCE_CHARS_LIMIT} characters")
    if _CONTROL.search(source):
        raise _refused(source, "holds control characters or broken Unicode")
    if _ENCODED_SEPARATOR.search(source):
        raise _refused(source, "holds an encoded separator; write paths plainly")


def _looks_like_path(source: str) -> bool:
    return (
        _PATH_START.match(source) is not None
        or "\\" in source
        or source.count("/") > 1
        or source.endswith("/")
        or _FILE_END.search(source) is not None
    )


def _is_hub_name(segment: str) -> bool:
    return (
        _SEGMENT.fullmatch(segment) is not None
        and ".." not in segment
        and not segment.endswith((".", "-", ".git"))
        and not _is_device(segment)
    )


def _is_device(name: str) -> bool:
    return _WINDOWS_DEVICE.fullmatch(name) is not None


def _builtin(source: str) -> Path:
    path = BUILTIN_ROOT / BUILTIN_FOLDERS[source]
    if not path.is_dir():
        raise ModelLoadFailed(
            f"The built-in model {source} is not in this installation; install isthmus again.",
            phase="load",
            cause="missing",
        )
    return path


def _hub_roots(path: Path) -> tuple[Path, ...]:
    """The cache around `<cache>/models--owner--name/snapshots/<commit>`: its files are links."""
    is_snapshot = len(path.parts) > 3 and path.parent.name == "snapshots"
    return (Path(os.path.realpath(path.parents[2])),) if is_snapshot else ()


def _is_in_hub_cache(path: Path) -> bool:
    if not _hub_roots(path) or not path.parents[1].name.startswith("models--"):
        return False
    from huggingface_hub import constants

    return path.parents[2] == Path(os.path.realpath(constants.HF_HUB_CACHE))
