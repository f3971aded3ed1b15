"""A download reports bytes, stops when it is cancelled, and says why it failed."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils.tqdm import hf_thread_map

from isthmus.errors import Cancelled, IsthmusError, ModelLoadFailed
from isthmus.models.download import Download, hub_download
from isthmus.models.locate import locate


def fetch(download: Download, **options: Any) -> Path:
    """Download the model o/n as a load does, and return its folder."""
    defaults = {"local_files_only": False, "revision": None, "download": download}
    return locate("o/n", **(defaults | options)).path


def failing(error: Exception) -> Download:
    """Return a download that raises."""

    def download(repo_id: str, **options: object) -> Path:
        raise error

    return download


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class _Response:
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers: dict[str, str] = {}
        self.request = None


def _http(cls: Any, status: int) -> Exception:
    error: Exception = cls.__new__(cls)
    Exception.__init__(error, f"status {status}")
    vars(error)["response"] = _Response(status)
    return error


def _after(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: _http(errors.RepositoryNotFoundError, 404), "not_found"),
        (lambda: _http(errors.RevisionNotFoundError, 404), "not_found"),
        (lambda: _http(errors.HfHubHTTPError, 401), "not_found"),
        (lambda: _http(errors.GatedRepoError, 403), "gated"),
        (lambda: _http(errors.HfHubHTTPError, 503), "transient_io"),
        (lambda: _http(errors.HfHubHTTPError, 429), "transient_io"),
        (lambda: errors.LocalEntryNotFoundError("not cached"), "offline"),
        (
            lambda: _after(errors.LocalEntryNotFoundError("x"), errors.OfflineModeIsEnabled("x")),
            "offline",
        ),
        (
            lambda: _after(errors.LocalEntryNotFoundError("x"), _http(errors.HfHubHTTPError, 502)),
            "transient_io",
        ),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (lambda: _after(RuntimeError("x"), OSError(errno.ENOSPC, "No space")), "disk_full"),
        (lambda: PermissionError(errno.EACCES, "Permission denied"), "io_error"),
        (lambda: ConnectionResetError("reset"), "transient_io"),
        (lambda: TimeoutError("slow"), "transient_io"),
        (lambda: OSError("Consistency check failed"), "transient_io"),
        (lambda: RuntimeError("something else"), "download_failed"),
    ],
)
def test_a_failed_download_names_its_cause(make: Callable[[], Exception], cause: str) -> None:
    with pytest.raises(ModelLoadFailed) as caught:
        fetch(failing(make()))
    error = caught.value
    assert (error.details["cause"], error.details["source"]) == (cause, "o/n")
    is_transient = cause == "transient_io"
    assert error.details["transient"] is is_transient
    assert (error.retry_after_ms is not None) is is_transient


def test_our_own_errors_pass_through_a_download() -> None:
    with pytest.raises(Cancelled):
        fetch(failing(Cancelled("stop")))


def fake_snapshot_download(chunks: int, started: list[str]) -> Callable[..., str]:
    """Use progress bars as huggingface_hub.snapshot_download does, from several threads."""

    def snapshot_download(repo_id: str, *, tqdm_class: Any, **options: Any) -> str:
        network = tqdm_class(desc="Downloading bytes", total=0, initial=0, unit="B")
        disk = tqdm_class(desc="Reconstructing", total=0, initial=0, unit="B")

        def fetch(name: str) -> None:
            started.append(name)
            disk.total += 100 * chunks
            network.total += 100 * chunks
            disk.refresh()
            for _ in range(chunks):
                disk.update(100)
                network.update(60)

        hf_thread_map(fetch, ["a", "b"], max_workers=1, tqdm_class=tqdm_class, desc="Fetching")
        disk.set_postfix_str(str(disk.format_dict.get("rate")), refresh=False)
        network.set_description_str("Download complete")
        return f"/cache/models--o--n/snapshots/{options['revision']}"

    return snapshot_download


def test_a_download_reports_bytes_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_snapshot_download(4, []))
    reports: list[tuple[int, int, str]] = []
    download = hub_download(lambda *report: reports.append(report), lambda: False)
    assert fetch(download, revision="abc") == Path("/cache/models--o--n/snapshots/abc")
    assert reports[-1] == (800, 800, "bytes")
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert len(done) == 16


def test_a_download_stops_at_the_next_chunk_after_a_cancel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_snapshot_download(4, started))
    cancelled = threading.Event()
    reports: list[int] = []

    def report(done: int, total: int, unit: str) -> None:
        reports.append(done)
        if done == 200:
            cancelled.set()

    with pytest.raises(Cancelled):
        fetch(hub_download(report, cancelled.is_set))
    assert max(reports) == 200
    assert started[0] == "a"


def test_a_download_that_is_cancelled_before_it_begins_asks_nobody() -> None:
    with pytest.raises(Cancelled):
        fetch(hub_download(lambda *report: None, lambda: True))


def test_a_model_that_is_not_cached_is_offline_with_local_files_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(IsthmusError) as caught:
        fetch(hub_download(lambda *report: None, lambda: False), local_files_only=True)
    assert caught.value.details["cause"] == "offline"
