"""Downloads from the Hugging Face Hub that report bytes, can be cancelled, and fail with a cause.

`hub_download` gives huggingface_hub a progress bar of ours, the one place where it calls back while
it transfers: bytes are added up there, and a cancel raises there. `download_failure` turns whatever
a download raised into our own error.

Not known here: which ids and revisions are allowed (`locate` checks them first). huggingface_hub
is imported only when a download is asked for or has failed.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from ..errors import Cancelled, InternalError, IsthmusError, ModelLoadFailed
from .safetensors_header import shown

DOWNLOAD_RETRY_AFTER_MS: Final = 5_000.0
"""When a download that failed half-way is worth another try: connections recover in seconds."""

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


def download_failure(source: str, error: Exception) -> IsthmusError:
    """Return our error for whatever a download raised, with a cause and what to do about it.

    The cause is `disk_full`, `gated`, `not_found`, `offline`, `transient_io`, `io_error` or
    `download_failed`; an `InternalError` when huggingface_hub itself cannot be imported.
    """
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
