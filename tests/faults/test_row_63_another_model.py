"""Row 63: what was kept was evaluated by another model, with another tokenizer or an adapter."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from isthmus import host
from isthmus.models import BUILTIN_ROOT
from tests.faults.conversations import keeping, on_disk, prompt, said, uncached

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[host.Runtime]:
    """One that keeps sessions."""
    async with keeping(tmp_path_factory.mktemp("sessions")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def origin(runtime: host.Runtime) -> host.Model:
    """The built-in model."""
    return await runtime.load_model()


def copied(folder: Path) -> Path:
    """Return a copy of the built-in model."""
    return Path(shutil.copytree(BUILTIN_ROOT / "chat", folder))


def change_a_weight(folder: Path) -> None:
    """Change one weight, and not the shape of anything."""
    with (folder / "model.safetensors").open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        name = next(name for name in header if "q_proj" in name)
        place = 8 + length + header[name]["data_offsets"][0]
        file.seek(place)
        (weight,) = struct.unpack("<f", file.read(4))
        file.seek(place)
        file.write(struct.pack("<f", weight + 0.5))


def change_a_file(name: str) -> Callable[[Path], None]:
    """Return what adds a space to a JSON file, which says what it said before."""

    def change(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(" ")

    return change


CHANGES: dict[str, Callable[[Path], object]] = {
    "a weight": change_a_weight,
    "its configuration": change_a_file("config.json"),
    "its tokenizer": change_a_file("tokenizer.json"),
    "its chat template": change_a_file("tokenizer_config.json"),
}


@pytest.mark.parametrize("where", ["in memory", "on disk"])
@pytest.mark.parametrize("what", CHANGES)
async def test_a_model_that_differs_in_anything_reuses_nothing(
    runtime: host.Runtime, origin: host.Model, tmp_path: Path, what: str, where: str
) -> None:
    ids = prompt(100 + 2 * list(CHANGES).index(what) + (where == "on disk"))
    name = f"{what} {where}".replace(" ", "-")
    session = await runtime.sessions.open(name, model=origin)
    await (on_disk if where == "on disk" else said)(session, ids)
    CHANGES[what](copied(tmp_path / "other"))
    other = await runtime.load_model(str(tmp_path / "other"))
    session = await runtime.sessions.open(name, model=other)
    answer = await said(session, ids)
    assert (answer.state, answer.reused) == ("cold", 0)
    assert answer.ids == await uncached(other, ids)
    # It goes on with that model under its name.
    assert (await said(session, ids)).reused == len(ids) - 1
    assert [info.id for info in await runtime.sessions.list()].count(name) == 1
    session = await runtime.sessions.open(name, model=origin)
    assert (await said(session, ids)).ids == await uncached(origin, ids)
    await other.unload()


async def test_an_equal_model_in_another_folder_reads_what_was_saved(
    runtime: host.Runtime, origin: host.Model, tmp_path: Path
) -> None:
    ids = prompt(200)
    session = await runtime.sessions.open("equal", model=origin)
    first = await on_disk(session, ids)
    equal = await runtime.load_model(str(copied(tmp_path / "equal")))
    answer = await said(await runtime.sessions.open("equal", model=equal), ids)
    assert (answer.ids, answer.state, answer.reused) == (first.ids, "warm", len(ids) - 1)
    await equal.unload()


async def test_a_model_whose_files_changed_since_it_was_loaded_is_not_saved(
    runtime: host.Runtime, tmp_path: Path
) -> None:
    ids = prompt(201)
    model = await runtime.load_model(str(copied(tmp_path / "model")))
    change_a_weight(tmp_path / "model")
    session = await runtime.sessions.open("changed", model=model)
    answer = await said(session, ids)
    assert answer.ids == await uncached(model, ids)
    saved = await session.save()
    assert not saved.saved and saved.reason
    again = await said(session, ids)
    assert (again.ids, again.state, again.reused) == (answer.ids, "hot", len(ids) - 1)
    await model.unload()


def write_adapter(folder: Path) -> Path:
    """Write a LoRA adapter for the built-in model, the least that mlx-lm reads."""
    folder.mkdir()
    config = {
        "fine_tune_type": "lora",
        "num_layers": 1,
        "lora_parameters": {
            "rank": 1,
            "scale": 20.0,
            "dropout": 0.0,
            "keys": ["self_attn.q_proj"],
        },
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = json.loads((BUILTIN_ROOT / "chat" / "config.json").read_text())
    size, last = model["hidden_size"], model["num_hidden_layers"] - 1
    name = f"model.layers.{last}.self_attn.q_proj"
    header = {
        f"{name}.lora_a": {"dtype": "F32", "shape": [size, 1], "data_offsets": [0, 4 * size]},
        f"{name}.lora_b": {
            "dtype": "F32",
            "shape": [1, size],
            "data_offsets": [4 * size, 8 * size],
        },
    }
    raw = json.dumps(header).encode()
    values = struct.pack(f"<{2 * size}f", *([0.3] * 2 * size))
    weights = struct.pack("<Q", len(raw)) + raw + values
    (folder / "adapters.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize("where", ["in memory", "on disk"])
async def test_a_model_with_an_adapter_reuses_nothing_of_the_one_without(
    runtime: host.Runtime, origin: host.Model, tmp_path: Path, where: str
) -> None:
    ids = prompt(300 + (where == "on disk"))
    name = f"adapted-{where[:2]}"
    session = await runtime.sessions.open(name, model=origin)
    plain = await (on_disk if where == "on disk" else said)(session, ids)
    adapter = write_adapter(tmp_path / "adapter")
    adapted = await runtime.load_model("default", adapter_path=str(adapter))
    answer = await said(await runtime.sessions.open(name, model=adapted), ids)
    assert (answer.state, answer.reused) == ("cold", 0)
    assert answer.ids == await uncached(adapted, ids) != plain.ids
    await adapted.unload()
