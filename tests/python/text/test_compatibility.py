"""A draft model must speak its target's ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isthmus.models import BUILTIN_ROOT
from isthmus.models.load import load_tokenizer
from isthmus.text.compatibility import compare
from isthmus.text.tokenizer import TextTokenizer

VOCAB_SIZE = 768


@pytest.fixture(scope="module")
def draft() -> TextTokenizer:
    """The built-in draft model's."""
    return TextTokenizer(load_tokenizer(BUILTIN_ROOT / "draft", None), VOCAB_SIZE)


def test_the_built_in_models_are_compatible(tokenizer: TextTokenizer, draft: TextTokenizer) -> None:
    found = compare(tokenizer, draft)
    assert found.is_compatible and not found.differences
    assert found.shared_tokens == found.target_vocab == found.draft_vocab == VOCAB_SIZE


def test_embeddings_padded_to_other_sizes_are_no_difference(
    wrapper: Any, draft: TextTokenizer
) -> None:
    assert compare(TextTokenizer(wrapper, VOCAB_SIZE + 256), draft).is_compatible


def test_an_id_beyond_the_other_s_embedding_is_a_difference(
    wrapper: Any, tokenizer: TextTokenizer, draft: TextTokenizer
) -> None:
    small = TextTokenizer(wrapper, VOCAB_SIZE - 8)
    assert compare(small, draft).differences == (
        "The draft's ids reach 767, but the target model has 760 rows.",
    )
    assert compare(tokenizer, small).differences == (
        "The target's ids reach 767, but the draft model has 760 rows.",
    )


def variant(folder: Path, change: Any, eos_token_ids: list[int] | None = None) -> TextTokenizer:
    """Return the built-in tokenizer after a change of its JSON, or with other end tokens."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((BUILTIN_ROOT / "chat" / name).read_text())
        change(name, content)
        (folder / name).write_text(json.dumps(content))
    (folder / "config.json").write_text((BUILTIN_ROOT / "chat" / "config.json").read_text())
    return TextTokenizer(load_tokenizer(folder, eos_token_ids), VOCAB_SIZE)


def test_tokens_with_other_ids_are_named(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    vocabulary = tokenizer.wrapper.get_vocab()
    by_id = {index: token for token, index in vocabulary.items()}
    one, other = by_id[300], by_id[310]

    def swap(name: str, content: Any) -> None:
        if name == "tokenizer.json":
            ids = content["model"]["vocab"]
            ids[one], ids[other] = ids[other], ids[one]

    found = compare(tokenizer, variant(tmp_path, swap))
    assert not found.is_compatible and found.shared_tokens == VOCAB_SIZE - 2
    assert found.differences[0] == (
        f"2 tokens have other ids in the draft: {one!r} (300 and 310), {other!r} (310 and 300)."
    )


def test_tokens_that_one_side_lacks_are_named_and_the_rest_counted(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    vocabulary = tokenizer.wrapper.get_vocab()
    last = sorted(vocabulary, key=lambda token: vocabulary[token])[-5:]

    def rename(name: str, content: Any) -> None:
        if name == "tokenizer.json":
            ids, merges = content["model"]["vocab"], content["model"]["merges"]
            for token in last:
                ids[token + "Ġnew"] = ids.pop(token)
            content["model"]["merges"] = [
                merge for merge in merges if "".join(merge).replace(" ", "") not in last
            ]

    found = compare(tokenizer, variant(tmp_path, rename))
    named = ", ".join(repr(token) for token in last[:3])
    assert found.differences[0] == f"5 tokens are only in the target: {named} and 2 more."
    assert found.differences[1].startswith("5 tokens are only in the draft: ")
    assert (found.shared_tokens, found.draft_vocab) == (VOCAB_SIZE - 5, VOCAB_SIZE)


def test_other_special_and_end_tokens_are_differences(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    pad = tokenizer.wrapper.convert_ids_to_tokens(7)

    def change(name: str, content: Any) -> None:
        if name == "tokenizer_config.json":
            content["pad_token"] = pad

    found = compare(tokenizer, variant(tmp_path, change, [0, 9]))
    assert found.differences == (
        f"The PAD token is {tokenizer.wrapper.pad_token_id} in the target and 7 in the draft.",
        f"A generation ends at {sorted(tokenizer.end_tokens)} in the target and at [0, 9] in "
        "the draft.",
    )


def test_texts_that_get_other_ids_are_a_difference(
    tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    def lowercase(name: str, content: Any) -> None:
        if name == "tokenizer.json":
            content["normalizer"] = {"type": "Lowercase"}

    found = compare(tokenizer, variant(tmp_path, lowercase))
    assert found.shared_tokens == VOCAB_SIZE and len(found.differences) == 1
    assert "texts get other ids: 'Hello, world!" in found.differences[0]
