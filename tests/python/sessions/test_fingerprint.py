"""Whatever makes other tokens of a text makes another fingerprint; a file is hashed but once."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from isthmus.sessions import fingerprint as module
from isthmus.sessions.fingerprint import FileStamp, fingerprint, stamps_of

FILES = ["adapters.safetensors", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(name.encode() * 100)
    return folder


@pytest.fixture
def digests(tmp_path: Path) -> Path:
    return tmp_path / "digests"


def stamps(folder: Path) -> tuple[FileStamp, ...]:
    return stamps_of(folder.iterdir())


def now(folder: Path, digests: Path | None = None, *also: str) -> bytes:
    """Return the fingerprint of a model as it is now."""
    return fingerprint(stamps(folder), also, digests)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to be hashed."""
    names: list[str] = []
    digest = module._digest

    def noted(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(module, "_digest", noted)
    return names


@pytest.mark.parametrize("name", FILES)
def test_other_content_of_the_same_size_is_another_model(model: Path, name: str) -> None:
    before = now(model)
    raw = bytearray((model / name).read_bytes())
    raw[50] ^= 1
    (model / name).write_bytes(raw)
    assert now(model) != before


def test_other_names_more_files_and_other_options_are_another_model(model: Path) -> None:
    found = {
        now(model),
        now(model, None, "cpu"),
        now(model, None, "gpu"),
        now(model, None, "c", "pu"),
    }
    (model / "more.json").write_text("{}")
    found.add(now(model))
    (model / "more.json").rename(model / "other.json")
    found.add(now(model))
    (model / "other.json").unlink()
    (model / FILES[0]).unlink()
    found.add(now(model))
    assert len(found) == 7


def test_the_same_files_elsewhere_are_the_same_model(model: Path, tmp_path: Path) -> None:
    before = now(model)
    assert now(model.rename(tmp_path / "moved")) == before


def test_other_versions_of_the_libraries_are_another_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = now(model)
    monkeypatch.setattr(module, "version", lambda library: f"{library} 99")
    assert now(model) != before


@pytest.mark.parametrize("is_remembered", [False, True])
@pytest.mark.parametrize("how", ["written", "replaced", "touched", "gone"])
def test_a_file_that_changed_since_it_was_loaded_leaves_no_fingerprint(
    model: Path, digests: Path, how: str, is_remembered: bool
) -> None:
    loaded = stamps(model)
    if is_remembered:
        fingerprint(loaded, (), digests)
    file = model / "model.safetensors"
    if how == "written":
        file.write_bytes(file.read_bytes()[::-1])
        os.utime(file, ns=(loaded[2][4] + 1, loaded[2][4] + 1))
    elif how == "replaced":
        (model / "new").write_bytes(file.read_bytes())
        (model / "new").replace(file)
    elif how == "touched":
        os.utime(file, ns=(1, 1))
    else:
        file.unlink()
    with pytest.raises(OSError):
        fingerprint(loaded, (), digests)


def test_a_file_that_is_gone_has_no_stamp(model: Path) -> None:
    with pytest.raises(OSError):
        stamps_of([model / "nothing"])


def test_a_digest_is_remembered_until_its_file_changes(
    model: Path, digests: Path, hashed: list[str]
) -> None:
    first = now(model, digests)
    assert hashed == FILES
    assert now(model, digests) == first == now(model)
    assert hashed == FILES * 2  # those of the one without a memory
    hashed.clear()
    (model / "config.json").write_text("other")
    assert now(model, digests) != first
    assert hashed == ["config.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw.replace(b"a", b"b", 1),
        lambda raw: b"00000000 {}",
        lambda raw: b"%08x []" % zlib.crc32(b"[]"),
        lambda raw: b"\xff" * 99,
    ],
)
def test_a_damaged_memory_is_ignored_and_written_anew(
    model: Path, digests: Path, hashed: list[str], damage: object
) -> None:
    first = now(model, digests)
    digests.write_bytes(damage(digests.read_bytes()))  # type: ignore[operator]
    assert now(model, digests) == first
    assert now(model, digests) == first
    assert hashed == FILES * 2


def test_a_memory_that_cannot_be_written_changes_nothing(model: Path, tmp_path: Path) -> None:
    assert now(model, tmp_path / "nowhere" / "digests") == now(model)


def test_the_memory_is_bounded_and_keeps_the_latest(
    model: Path, digests: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 4)
    now(model, digests)
    for number in range(5):
        (model / "config.json").write_text(str(number))
        now(model, digests)
    hashed.clear()
    now(model, digests)
    assert len(hashed) <= 3 and "config.json" not in hashed
