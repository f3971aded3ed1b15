"""From the `source` of a load_model request to a folder on this disk.

A source is `default` or `default-draft` (the models inside the package), a folder, or a Hugging
Face id. What looks like a path is never looked up on the Hub, and an id is checked strictly before
it takes part in any path. Nothing here reads a file of the folder: `verify` does. huggingface_hub
is imported only when a download is asked for, mlx never.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from isthmus.errors import Cancelled, InternalError, IsthmusError, ModelLoadFailed, PathRefused
from isthmus.models import BUILTIN_ROOT
from isthmus.models.safetensors_header import shown

SOURCE_CHARS_LIMIT: Final = 4_096
"""Longest source: PATH_MAX of Linux."""

HUB_ID_CHARS_LIMIT: Final = 193
"""Longest Hugging Face id: two segments of 96 characters and the slash."""

REVISION_CHARS_LIMIT: Final = 200
"""Longest revision: git refuses longer names on common file systems."""

DOWNLOAD_RETRY_AFTER_MS: Final = 5_000.0
"""When a download that failed half-way is worth another try: connections recover in seconds."""

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

Report = Callable[[int, int, str], None]
"""Told `(done, total, unit)` while a download runs, from any of its threads."""


class Download(Protocol):
    """Fetch a snapshot of a Hugging Face repository and return its folder."""

    def __call__(
        self,
        repo_id: str,
        *,
        revision: str | None,
        allow_patterns: Sequence[str],
        local_files_only: bool,
    ) -> Path: ...


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
        download: See `hub_download`.

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
        raise _download_failure(source, error) from error
    return Located(path, source, "hub", _hub_roots(path))


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


def hub_download(report: Report, is_cancelled: Callable[[], bool]) -> Download:
    """Return a `Download` from the Hugging Face Hub that reports bytes and can be cancelled.

    `is_cancelled` is asked at every chunk and file. Bytes that are already on the disk stay
    there, so that a later download goes on from them.
    """
    progress = _Progress(report, is_cancelled)

    def download(
        repo_id: str,
        *,
        revision: str | None,
        allow_patterns: Sequence[str],
        local_files_only: bool,
    ) -> Path:
        from huggingface_hub import snapshot_download

        progress.check_cancelled()
        folder = snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=list(allow_patterns),
            local_files_only=local_files_only,
            tqdm_class=progress.bar_class(),
        )
        # An exception in a progress callback is not certain to end every kind of transfer.
        progress.check_cancelled()
        return Path(folder)

    return download


class _Progress:
    """Adds up the progress bars of one download, which several threads advance."""

    def __init__(self, report: Report, is_cancelled: Callable[[], bool]) -> None:
        self._report = report
        self._is_cancelled = is_cancelled
        self._bars_lock = threading.Lock()
        self._byte_bars: list[_Bar] = []

    def check_cancelled(self) -> None:
        if self._is_cancelled():
            raise Cancelled("The download was cancelled.", phase="load")

    def bar_class(self) -> type[Any]:
        progress = self

        class BoundBar(_Bar):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(progress, *args, **kwargs)

        return BoundBar

    def add(self, bar: _Bar) -> None:
        if bar.unit == "B":
            with self._bars_lock:
                self._byte_bars.append(bar)

    def advance(self, bar: _Bar, count: float) -> None:
        self.check_cancelled()
        with self._bars_lock:
            bar.n += count
            # One bar counts bytes from the network and one bytes on the disk, of the same files.
            done = max((int(other.n) for other in self._byte_bars), default=0)
            total = max((int(other.total or 0) for other in self._byte_bars), default=0)
        if bar.unit == "B" and total > 0:
            self._report(min(done, total), total, "bytes")


class _Bar:
    """The part of tqdm's interface that huggingface_hub uses; it draws nothing."""

    format_dict: Final[dict[str, Any]] = {}

    def __init__(self, progress: _Progress, iterable: Iterable[Any] = (), **kwargs: Any) -> None:
        self._progress = progress
        self._iterable = iterable
        self.total: float | None = kwargs.get("total")
        self.n: float = kwargs.get("initial") or 0
        self.unit = str(kwargs.get("unit", "it"))
        progress.add(self)

    def update(self, n: float | None = 1) -> None:
        self._progress.advance(self, n or 0)

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        self._progress.check_cancelled()

    def __iter__(self) -> Iterator[Any]:
        for item in self._iterable:
            yield item
            self.update(1)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def _draw_nothing(self, *args: Any, **kwargs: Any) -> None:
        return None

    close = set_description = set_description_str = _draw_nothing
    set_postfix = set_postfix_str = reset = clear = _draw_nothing


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


def _hub_roots(path: Path) -> tuple[Path, ...]:
    """The cache around `<cache>/models--owner--name/snapshots/<commit>`: its files are links."""
    is_snapshot = len(path.parts) > 3 and path.parent.name == "snapshots"
    return (Path(os.path.realpath(path.parents[2])),) if is_snapshot else ()


def _is_in_hub_cache(path: Path) -> bool:
    if not _hub_roots(path) or not path.parents[1].name.startswith("models--"):
        return False
    from huggingface_hub import constants

    return path.parents[2] == Path(os.path.realpath(constants.HF_HUB_CACHE))


def _download_failure(source: str, error: Exception) -> IsthmusError:
    if isinstance(error, ImportError):
        return InternalError(f"huggingface_hub cannot be imported ({error}); run isthmus doctor.")
    cause, advice = _cause_of_failure(_chain(error))
    return ModelLoadFailed(
        f"{source} cannot be fetched from the Hugging Face Hub: {advice} "
        f"({type(error).__name__}: {shown(str(error))})",
        phase="load",
        retry_after_ms=DOWNLOAD_RETRY_AFTER_MS if cause == "transient_io" else None,
        cause=cause,
        transient=cause == "transient_io",
        source=source,
    )


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def _cause_of_failure(chain: list[BaseException]) -> tuple[str, str]:
    """Name the cause; the most telling link of the chain decides, whatever wraps it."""
    from huggingface_hub import errors

    numbers = {link.errno for link in chain if isinstance(link, OSError)}
    statuses = _http_statuses(chain)
    if numbers & {errno.ENOSPC, errno.EDQUOT}:
        return "disk_full", "the disk is full; make room or move HF_HOME."
    if _has(chain, errors.GatedRepoError) or 403 in statuses:
        return "gated", "access must be granted; accept its licence there and log in."
    if _has(chain, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) or statuses & {
        401,
        404,
    }:
        return "not_found", "no such model or revision, or it is private; check it and log in."
    if _has(chain, errors.OfflineModeIsEnabled):
        return "offline", "HF_HUB_OFFLINE is set and the model is not in the cache."
    if any(status == 408 or status == 429 or status >= 500 for status in statuses):
        return "transient_io", "the Hub is busy or down; try again later."
    if _has(chain, errors.LocalEntryNotFoundError):
        return "offline", "it is not complete in the cache and the Hub was not reached; go online."
    if _is_network_failure(chain):
        return "transient_io", "the connection failed; try again."
    if numbers - {None}:
        return "io_error", "the cache folder cannot be written; check HF_HOME and its permissions."
    return "download_failed", "the download failed."


def _http_statuses(chain: list[BaseException]) -> set[int]:
    responses = (getattr(link, "response", None) for link in chain)
    statuses = (getattr(response, "status_code", None) for response in responses)
    return {status for status in statuses if isinstance(status, int)}


def _has(chain: list[BaseException], *classes: type[BaseException]) -> bool:
    return any(isinstance(link, classes) for link in chain)


def _is_network_failure(chain: list[BaseException]) -> bool:
    # The HTTP client below huggingface_hub has changed with its versions.
    modules = {type(link).__module__.partition(".")[0] for link in chain}
    if modules & {"httpx", "httpx2", "httpcore", "requests", "urllib3"}:
        return True
    # huggingface_hub reports a body of the wrong length as an OSError without a number.
    return any(
        isinstance(link, ConnectionError | TimeoutError)
        or (type(link) is OSError and link.errno is None)
        for link in chain
    )
