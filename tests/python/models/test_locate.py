"""A source leads to one folder, or to an error that says why not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from isthmus.errors import ModelLoadFailed, PathRefused
from isthmus.models import BUILTIN_ROOT
from isthmus.models.locate import DATA_PATTERNS, Located, locate
from isthmus.models.verify import verify
from tests.fixtures.bad_models import write_sound


class FakeHub:
    """Records what it is asked for; gives a folder."""

    def __init__(self, folder: Path = Path("/cache/x")) -> None:
        self.folder = folder
        self.calls: list[tuple[str, str | None, tuple[str, ...], bool]] = []

    def __call__(
        self,
        repo_id: str,
        *,
        revision: str | None,
        allow_patterns: Sequence[str],
        local_files_only: bool,
    ) -> Path:
        self.calls.append((repo_id, revision, tuple(allow_patterns), local_files_only))
        return self.folder


def find(source: str, hub: FakeHub | None = None, **options: Any) -> Located:
    defaults = {"local_files_only": False, "revision": None, "download": hub or FakeHub()}
    return locate(source, **(defaults | options))


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.mark.parametrize(("source", "name"), [("default", "chat"), ("default-draft", "draft")])
def test_the_builtin_models_lie_in_the_package(source: str, name: str, tmp_path: Path) -> None:
    found = find(source, model_roots=(tmp_path / "elsewhere",))
    assert (found.path, found.kind) == (BUILTIN_ROOT / name, "builtin")
    assert (found.path / "config.json").is_file()


def test_a_builtin_model_that_is_not_installed_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.models.locate.BUILTIN_ROOT", tmp_path)
    with pytest.raises(ModelLoadFailed) as caught:
        find("default")
    assert caught.value.details["cause"] == "missing"


def test_an_existing_folder_wins_over_a_hub_id_and_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    Path("owner").mkdir()
    Path("owner/name").symlink_to(tmp_path / "real")
    hub = FakeHub()
    for source in ("owner/name", "./owner/name", str(tmp_path / "real")):
        assert find(source, hub) == Located(tmp_path / "real", source, "folder")
    assert hub.calls == []


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert find("~/model").path == tmp_path / "model"


@pytest.mark.parametrize(
    "source",
    [
        *("/no/such/folder", "./model", "../model", ".hidden", "~/no-such-model", "a/b/c"),
        *("owner/name/", "C:\\models\\x", "model.gguf", "owner/model.safetensors", "a\\b"),
    ],
)
def test_what_looks_like_a_path_is_missing_and_never_looked_up(source: str) -> None:
    hub = FakeHub()
    with pytest.raises(ModelLoadFailed, match="owner/name") as caught:
        find(source, hub)
    assert caught.value.details["cause"] == "missing"
    assert caught.value.details["path"]
    assert hub.calls == []


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelLoadFailed) as caught:
        find(str(tmp_path / "model.gguf"))
    assert caught.value.details["cause"] == "not_a_folder"


def test_a_folder_outside_model_roots_is_refused_whether_it_exists_or_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (tmp_path / "rooted").mkdir()
    (root / "link").symlink_to(tmp_path / "rooted")
    sources = ("rooted", "root/../rooted", "root/link", "not-there", "root/link/not-there")
    messages = set()
    for source in sources:
        with pytest.raises(PathRefused, match="model_roots") as caught:
            find(str(tmp_path / source), model_roots=(root,))
        messages.add(caught.value.message.partition(" lies ")[2])
    assert len(messages) == 1
    assert find(str(root / "in"), model_roots=(tmp_path / "other", root)).path == root / "in"
    assert find("owner/name", model_roots=(root,)).kind == "hub"


@pytest.mark.parametrize(
    "source",
    [
        *(
            "",
            "a" * 4097,
            "a\0b",
            "line\nbreak",
            "/a\0b",
            "./a\nb",
            "owner/name\n",
            "\ud800",
            "..%2fmodel",
            "..%5Cx",
        ),
        *("owner/%2e%2e", "owner/..", "a..b", "-name", "_name", "owner/-x", "name-", "name."),
        *("a--b", "owner/a--b", "x.git", "own er/name", "öwner/name", "owner/na?me"),
        *("CON", "owner/nul", "com1", "aux.model", "owner/LPT9.x", "a" * 97, "o/" + "b" * 97),
        *("a*", "owner/[x]", "x;y", "x|y", "$HOME", "owner/name@main", "owner:name"),
    ],
)
def test_a_source_that_is_no_folder_path_or_id_is_refused(source: str) -> None:
    hub = FakeHub()
    with pytest.raises(PathRefused) as caught:
        find(source, hub)
    assert caught.value.details == {"field": "source"}
    caught.value.message.encode("utf-8")
    assert hub.calls == []


@pytest.mark.parametrize(
    "source", ["gpt2", "mlx-community/Qwen2.5-0.5B-Instruct_4bit", "o/console"]
)
def test_a_hub_id_is_downloaded_without_code(source: str) -> None:
    hub = FakeHub()
    found = find(source, hub, revision="refs/pr/1", local_files_only=True)
    assert found == Located(hub.folder, source, "hub")
    assert hub.calls == [(source, "refs/pr/1", DATA_PATTERNS, True)]
    assert not any(pattern.endswith("py") for pattern in DATA_PATTERNS)


def test_code_is_downloaded_only_when_it_is_trusted() -> None:
    from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

    hub = FakeHub()
    find("o/n", hub, trust_remote_code=True)
    assert set(hub.calls[0][2]) == set(DEFAULT_ALLOW_PATTERNS)


@pytest.mark.parametrize(
    "revision", ["", "../x", "a/../b", "/etc", "a//b", "a/", "-x", "a b", "v1\n", "a" * 201, "x\0"]
)
def test_a_revision_that_could_leave_the_cache_is_refused(revision: str) -> None:
    hub = FakeHub()
    with pytest.raises(PathRefused) as caught:
        find("owner/name", hub, revision=revision)
    assert caught.value.details == {"field": "revision"}
    assert hub.calls == []


def test_a_snapshot_in_the_hub_cache_may_link_to_its_blobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    blobs = write_sound(cache / "models--o--n" / "blobs")
    snapshot = cache / "models--o--n" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in os.listdir(blobs):
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    downloaded = find("o/n", FakeHub(snapshot))
    assert downloaded.allowed_roots == (cache,)
    verify(downloaded.path, trust_remote_code=False, allowed_roots=downloaded.allowed_roots)

    assert find(str(snapshot)).kind == "folder"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    named = find(str(snapshot))
    assert (named.kind, named.allowed_roots) == ("hub", (cache,))
