"""The direct way to the Rust tokenizer gives what transformers gives; ids are checked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.errors import InvalidRequest
from isthmus.text.tokenizer import TextTokenizer

MANY = settings(max_examples=150, deadline=None, database=None)
TEXT = st.text(max_size=60) | st.text(alphabet="ab <|end|>user\n", max_size=40)
USER = [{"role": "user", "content": "hi"}]


@MANY
@given(text=TEXT, special=st.booleans())
def test_it_agrees_with_transformers(tokenizer: TextTokenizer, text: str, special: bool) -> None:
    expected = tokenizer.wrapper.encode(text, add_special_tokens=special)
    assert tokenizer.is_fast
    assert tokenizer.encode(text, special) == expected
    batch = tokenizer.encode_batch([text, "x", text], special)
    assert [ids.tolist() for ids in batch[::2]] == [expected, expected]


@MANY
@given(text=TEXT)
def test_what_is_encoded_decodes_to_the_same_text(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, False)) == text


def test_special_tokens_can_be_left_out_of_the_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("a<|end|>b", False)
    assert tokenizer.decode(ids) == "a<|end|>b"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


@pytest.mark.parametrize("bad", [-1, 768, 2**31, 2**32 - 1, -(2**40)])
def test_an_id_that_the_model_has_no_row_for_is_refused(tokenizer: TextTokenizer, bad: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.decode([0, bad])
    assert caught.value.details["field"] == "ids" and str(bad) in caught.value.message


def test_every_id_of_the_vocabulary_and_no_ids_at_all_can_be_decoded(
    tokenizer: TextTokenizer,
) -> None:
    assert isinstance(tokenizer.decode(list(range(tokenizer.vocab_size))), str)
    assert tokenizer.decode([]) == ""


def test_messages_are_rendered_with_the_model_s_template(tokenizer: TextTokenizer) -> None:
    assert tokenizer.render(USER, {"add_generation_prompt": True}) == (
        "<|user|>hi<|end|><|assistant|>"
    )
    assert tokenizer.render(USER, {"add_generation_prompt": False}) == "<|user|>hi<|end|>"


def test_a_template_that_refuses_is_the_request_s_error(tokenizer: TextTokenizer) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tokenizer.render([{"role": "user"}], {"chat_template": "{{ raise_exception('no') }}"})
    assert caught.value.details["field"] == "messages"


def test_a_model_without_template_says_what_to_send_instead() -> None:
    wrapper: Any = SimpleNamespace(has_chat_template=False, _tokenizer=SimpleNamespace())
    with pytest.raises(InvalidRequest) as caught:
        TextTokenizer(wrapper, 10).render(USER, {})
    assert "`prompt`" in caught.value.message


class SlowTokenizer:
    """A wrapper whose Rust tokenizer gives other ids than it does."""

    eos_token_ids = frozenset({3})

    def __init__(self, wrapper: Any) -> None:
        self._tokenizer = wrapper._tokenizer

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return ids that nobody else would."""
        return [len(text), int(add_special_tokens)]


def test_a_rust_tokenizer_that_disagrees_is_not_used(wrapper: Any) -> None:
    slow = TextTokenizer(SlowTokenizer(wrapper), 768)
    assert not slow.is_fast
    assert slow.encode("abc", False) == [3, 0]
    assert [list(ids) for ids in slow.encode_batch(["abc", ""], True)] == [[3, 1], [0, 1]]
    assert slow.end_tokens == {3}


def test_many_threads_get_the_same_ids(tokenizer: TextTokenizer) -> None:
    texts = [f"Some text, number {number}, with é and 👩‍👩‍👧." for number in range(16)]
    expected = [tokenizer.encode(text) for text in texts]

    def work(_: int) -> bool:
        return [tokenizer.encode(text) for text in texts] == expected and (
            [ids.tolist() for ids in tokenizer.encode_batch(texts)] == expected
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
