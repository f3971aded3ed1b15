"""Row 57: paths and ids that try to leave the folder they are confined to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peer import Peer
from tests.faults.small_models import write_chain
from tests.fixtures.bad_models import BAD_FOLDERS, BadFolder

SHARDS = [bad for bad in BAD_FOLDERS if bad.code == "PATH_REFUSED"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`inside` is the model root; beside it lies a sound model that must not be reached."""
    base = tmp_path_factory.mktemp("roots")
    write_chain(base / "inside" / "model", {})
    write_chain(base / "outside", {})
    write_chain(base / "inside-not", {})
    (base / "inside" / "link").symlink_to(base / "outside")
    (base / "inside" / "up").symlink_to("..")
    return base


@pytest.fixture(scope="module")
def confined(roots: Path) -> Iterator[Peer]:
    """A runtime with one model root."""
    with Peer("--model-root", str(roots / "inside")) as peer:
        yield peer
        assert peer.is_echoing()


ESCAPES = (
    *("{base}/outside", "{inside}/../outside", "{inside}/link", "{inside}/up/outside"),
    *("{inside}/./../outside", "{inside}/model/../../outside", "{base}/inside-not"),
    *("{inside}/..%2foutside", "{inside}/%2e%2e/outside", "{inside}/..%5coutside"),
    *("/etc", "/etc/passwd", "~root", "/", "..", "../..", "./../outside", "/proc/self/root"),
    *("{inside}/model\0", "\0", "model\n", "\ud7ff\x7f", ""),
    "{inside}/" + "a" * 5_000,
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_source_leads_out_of_the_model_root(confined: Peer, roots: Path, escape: str) -> None:
    source = escape.replace("{inside}", str(roots / "inside")).replace("{base}", str(roots))
    assert confined.refusal("load_model", {"source": source})["code"] == "PATH_REFUSED"


def test_a_model_inside_the_root_loads_however_its_path_is_written(
    confined: Peer, roots: Path
) -> None:
    inside = roots / "inside"
    for source in (inside / "model", f"{inside}/model/", f"{inside}/up/inside/model"):
        model = confined.call("load_model", {"source": str(source)})["model"]
        assert confined.generate(model, "t", max_tokens=2)[0] == [ord("t")] * 2


HUB_IDS = (
    *("..", "owner/..", "../name", "owner/name/more", "owner//name", "/owner", "owner/"),
    *("owner\\name", "owner/na me", "owner/.git", "owner/name.git", "a--b", "-a/b", "owner/b-"),
    *("CON", "owner/NUL", "aux.txt/x", "COM1", "lpt9.bin", "http://host/x", "owner/näme"),
    *("x" * 200, "owner/..%2fname", "owner/%00", "C:\\models", "C:/models", "\\\\host\\share"),
)


@pytest.mark.parametrize("source", HUB_IDS)
def test_what_is_no_hub_id_is_never_looked_up(confined: Peer, source: str) -> None:
    error = confined.refusal("load_model", {"source": source, "local_files_only": True})
    assert error["code"] == "PATH_REFUSED"


@pytest.mark.parametrize(
    "revision", ["../main", "a/../b", "/main", "main/", "a\\b", "a\0", "", "NUL", "x" * 300, ".."]
)
def test_a_revision_cannot_leave_the_cache(confined: Peer, revision: str) -> None:
    params = {"source": "owner/name", "revision": revision, "local_files_only": True}
    assert confined.refusal("load_model", params)["code"] == "PATH_REFUSED"


@pytest.mark.parametrize("adapter", ["{base}/outside", "{inside}/link", "..", "/etc", "a\0"])
def test_an_adapter_is_confined_like_a_model(confined: Peer, roots: Path, adapter: str) -> None:
    path = adapter.replace("{inside}", str(roots / "inside")).replace("{base}", str(roots))
    error = confined.refusal(
        "load_model", {"source": str(roots / "inside" / "model"), "adapter_path": path}
    )
    assert error["code"] == "PATH_REFUSED"


@pytest.mark.parametrize("bad", SHARDS, ids=lambda bad: bad.name)
def test_no_file_of_a_model_folder_leads_out_of_it(
    peer: Peer, bad: BadFolder, tmp_path: Path
) -> None:
    error = peer.refusal("load_model", {"source": str(bad.write(tmp_path / "model"))})
    assert error["code"] == "PATH_REFUSED"


@pytest.mark.parametrize("handle", ["../model", "a/b", "\0", "", "x" * 10_000, "__proto__"])
def test_a_handle_is_only_ever_looked_up(peer: Peer, handle: str) -> None:
    error = peer.refusal("tokenize", {"model": handle, "text": "x"})
    assert error["code"] == "MODEL_NOT_LOADED"
    assert len(error["message"]) < 1_000
