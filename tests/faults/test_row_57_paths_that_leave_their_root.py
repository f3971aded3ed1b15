"""Row 57: paths and ids that try to leave the folder they are confined to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peer import Peer, keeping_command
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


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of sessions; nothing may appear beside it."""
    base = tmp_path_factory.mktemp("kept")
    (base / "canary").write_text("untouched")
    (base / "link").symlink_to(base / "canary")
    return base / "sessions"


@pytest.fixture(scope="module")
def keeping(sessions: Path) -> Iterator[Peer]:
    """A runtime that keeps sessions there."""
    with Peer(command=keeping_command(sessions)) as peer:
        yield peer
        assert peer.is_echoing()


SESSION_IDS = (
    *("..", ".", "...", "." * 128, "../canary", "../../canary", "a/../../canary", "a/b", "/"),
    *("//", "/etc/passwd", "/tmp/x", "~", "~root", "..%2fcanary", "%2e%2e%2fcanary"),
    *("..%5ccanary", "..\\canary", "C:\\x", "C:x", "\\\\host\\share", "file:///etc/passwd"),
    *("a:b", "a*", "a?", "<a>", "$HOME", "`id`", "", " ", "a b", "a ", "a\0", "\0"),
    *("\0../canary", "a\n", "a\r", "\n", "a\t", "\x7f", "\u202e", "\u2024\u2024", "ä"),
    *("\uff0e\uff0e\uff0fcanary", "a" * 129, "a" * 300, "a" * 100_000),
)


@pytest.mark.parametrize("session", SESSION_IDS, ids=lambda session: ascii(session)[:20])
def test_no_id_of_a_session_is_taken_that_could_be_a_path(
    keeping: Peer, chain_folder: Path, sessions: Path, session: str
) -> None:
    model = keeping.load(chain_folder)
    named = {"session": {"id": session}}
    for method, params in (
        ("open_session", {"model": model, **named}),
        ("generate", {"model": model, "prompt": "a", "max_tokens": 1, **named}),
        ("save_session", named),
        ("evict_session", named),
        ("truncate_session", {"tokens": 0, **named}),
        ("delete_session", named),
        ("fork_session", {"to": "good", **named}),
        ("fork_session", {"to": session, "session": {"id": "good"}}),
    ):
        error = keeping.refusal(method, params)
        assert error["code"] == "PATH_REFUSED", method
        is_target = params.get("to") == session
        assert error["details"]["field"] == ("to" if is_target else "session.id")
        assert len(error["message"]) < 1_000
    assert keeping.call("list_sessions")["sessions"] == []
    assert sorted(path.name for path in sessions.parent.iterdir()) in (
        ["canary", "link"],
        ["canary", "link", "sessions"],
    )
    assert (sessions.parent / "canary").read_text() == "untouched"


def test_ids_and_tenants_are_no_part_of_any_path(
    keeping: Peer, chain_folder: Path, sessions: Path
) -> None:
    model = keeping.load(chain_folder)
    names = ("CON", "nul", "..a", "a..", "-rf", ".hidden", "con.txt", "a" * 128, "__proto__")
    for tenant in (None, "../canary", "/etc", "\0", "..", "ä" * 1_024):
        for name in names:
            named: dict[str, object] = {"id": name, "pin": True}
            if tenant is not None:
                named["tenant"] = tenant
            keeping.call("open_session", {"model": model, "session": named})
    files = [path for path in sessions.rglob("*") if path.is_file()]
    assert len([path for path in files if path.parts[-3:-1] == ("v1", "sessions")]) == 6 * len(
        names
    )
    for path in files:
        assert not any(name in path.name for name in names)
        assert b"canary" not in path.read_bytes()
    assert sorted(path.name for path in sessions.parent.iterdir()) == ["canary", "link", "sessions"]
    keeping.call("unload_model", {"model": model})


def test_names_that_differ_in_case_alone_are_two_sessions(
    keeping: Peer, chain_folder: Path
) -> None:
    model = keeping.load(chain_folder)
    for name in ("chat", "Chat", "CHAT"):
        params = {"model": model, "prompt": name * 20, "max_tokens": 1, "session": {"id": name}}
        keeping.call("generate", params)
        assert keeping.call("save_session", {"session": {"id": name}})["saved"]
    assert keeping.call("delete_session", {"session": {"id": "Chat"}})["deleted"]
    listed = {info["id"]: info for info in keeping.call("list_sessions")["sessions"]}
    assert listed["chat"]["tokens"] == listed["CHAT"]["tokens"] == 80
    assert "Chat" not in listed
