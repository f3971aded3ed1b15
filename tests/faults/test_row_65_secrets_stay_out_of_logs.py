"""Row 65, the runtime's half: prompts are not logged, and a request cannot inject arguments."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.faults.peer import Peer, frame, in_shell

CANARY = "canary-7f3a9c"


def test_no_text_of_a_request_reaches_standard_error(chain_folder: Path) -> None:
    with Peer() as peer:
        model = peer.load(chain_folder)
        peer.generate(model, CANARY, max_tokens=2)
        peer.call("tokenize", {"model": model, "text": CANARY * 1_000})
        peer.refusal("generate", {"model": model, "prompt": CANARY, "max_tokens": -1})
        peer.refusal("generate", {"model": model, "prompt": CANARY, "top_p": CANARY})
        peer.refusal("apply_chat_template", {"model": model, "messages": [{"content": CANARY}]})
        peer.refusal("fault_kill_engine", {})
        peer.refusal("generate", {"model": model, "prompt": CANARY})
        peer.send_bytes(frame(b"\x94\x01\x07\xa4echo\x81\xa4data\xad" + CANARY.encode()[:-1]))
        peer.settled(7)
        peer.close_input()
        with contextlib.suppress(StopIteration):
            next(peer.rest())
        assert peer.exit_code() == 0
        assert CANARY.encode() not in peer.stderr


def test_a_source_that_looks_like_an_option_or_a_command_is_only_a_name(
    peer: Peer, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    for source in (f"$(touch {touched})", f"`touch {touched}`", f"; touch {touched}", "--help"):
        code = peer.answer_code("load_model", {"source": source, "local_files_only": True})
        assert code in ("PATH_REFUSED", "MODEL_LOAD_FAILED")
    assert not touched.exists()


def test_a_preloaded_library_or_a_startup_file_changes_nothing_on_the_wire(tmp_path: Path) -> None:
    """What a host passes on is its own decision; even then only frames are on the wire."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.stderr.write('noise')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with Peer(command=in_shell("RUNTIME"), environment={"PYTHONPATH": path}) as peer:
        assert peer.is_echoing()
        assert b"noise" in peer.stderr
