"""Five turns in a session say what five fresh prompts say, whatever the tokenizer does."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from isthmus import host
from isthmus.models import BUILTIN_ROOT

SAID = [
    "What is 2 + 2?",
    "\U0001f389 and the capital of France \U0001f468‍\U0001f469‍\U0001f467?",
    "e number after seven",
    "é",
    "  What color is the sky? \U0001f600",
]
"""Emoji of several bytes and code points, and beginnings that merge with the end of what was said
before them."""
COUNT = 12


@pytest.fixture(scope="module", params=["without BOS", "with BOS"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, with a tokenizer that adds a token in front, or with its own."""
    made = tmp_path_factory.mktemp("chats") / "model"
    shutil.copytree(BUILTIN_ROOT / "chat", made)
    if request.param == "with BOS":
        tokenizer = json.loads((made / "tokenizer.json").read_text())
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|pad|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [4], "tokens": ["<|pad|>"]}},
        }
        (made / "tokenizer.json").write_text(json.dumps(tokenizer))
        config = json.loads((made / "tokenizer_config.json").read_text())
        config["bos_token"] = "<|pad|>"
        (made / "tokenizer_config.json").write_text(json.dumps(config))
    return made


@pytest_asyncio.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[host.Runtime]:
    """A runtime with a folder for sessions."""
    async with await host.start(sessions=host.SessionOptions(dir=tmp_path / "kept")) as started:
        yield started


async def between(runtime: host.Runtime, session: host.Session, way: str) -> None:
    """Do what happens between two turns."""
    if way == "evicted":
        assert (await session.evict()).evicted
    elif way == "restarted":
        assert (await session.save()).saved
        await runtime.restart()


@pytest.mark.parametrize("way", ["hot", "evicted", "restarted"])
async def test_five_turns_of_messages(runtime: host.Runtime, folder: Path, way: str) -> None:
    model = await runtime.load_model(str(folder))
    session = await runtime.sessions.open("chat", model=model)
    messages: list[dict[str, str]] = []
    states = []
    for number, said in enumerate(SAID):
        messages.append({"role": "user", "content": said})
        answer = await session.generate(messages=messages, max_tokens=COUNT)
        fresh = await model.generate(messages=messages, max_tokens=COUNT, cache_prompt=False)
        assert answer.ids == fresh.ids, f"turn {number}"
        assert answer.text == fresh.text
        assert answer.cache is not None and fresh.cache is not None
        assert fresh.cache["reused_tokens"] == 0
        states.append(answer.cache["state"])
        assert answer.cache["reused_tokens"] + answer.cache["prefilled_tokens"] == (
            answer.usage.prompt_tokens
        )
        messages.append({"role": "assistant", "content": answer.text})
        await between(runtime, session, way)
    # The first turns are too short to be worth it.
    assert states[0] == "cold" and set(states[2:]) == {"hot" if way == "hot" else "warm"}


@pytest.mark.parametrize("way", ["hot", "evicted", "restarted"])
async def test_five_turns_of_a_text_that_grows(
    runtime: host.Runtime, folder: Path, way: str
) -> None:
    model = await runtime.load_model(str(folder))
    session = await runtime.sessions.open("text", model=model)
    text = "<|user|>Tell me of the weath"
    for number, said in enumerate(SAID):
        text += said
        answer = await session.generate(text, max_tokens=COUNT, ignore_eos=True)
        fresh = await model.generate(text, max_tokens=COUNT, ignore_eos=True, cache_prompt=False)
        assert answer.ids == fresh.ids, f"turn {number}"
        assert answer.cache is not None
        assert number < 2 or answer.cache["reused_tokens"] > 0
        text += answer.text
        await between(runtime, session, way)
