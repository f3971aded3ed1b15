"""A model's tokenizer, for use beside the engine: encode, decode, count, render chat templates.

Goes straight to the Rust tokenizer below transformers where both give the same ids (that is probed
once, at load), because transformers changes shared state on every call and costs several times as
much. Ids are range-checked here: a token id beyond the embedding can kill the process inside MLX.
"""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InvalidRequest
from .split import PART_CHARS, is_splittable, split

SPLIT_CHARS: Final = 2 * PART_CHARS
"""A longer text is encoded in parts."""

_PLAIN: Final = "plain words"

_PROBES: Final = (
    "",
    "Hello , world ! 12 x 3 . don 't",
    "  two  spaces\n\ttab",
    "naïve 中文 👩‍👩‍👧 é",
)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A text's tokens with where they lie in it.

    Attributes:
        ids: Token ids.
        tokens: The vocabulary's strings, one for each id.
        offsets: `(start, end)` in code points, one for each id; `(0, 0)` for what was added.
        text: The text.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    text: str

    def offsets_utf16(self) -> list[tuple[int, int]]:
        """Return the offsets in UTF-16 code units, which JavaScript's strings count in."""
        if self.text.isascii() or max(self.text) <= "\uffff":
            return self.offsets
        places = [0]
        for character in self.text:
            places.append(places[-1] + (2 if character > "\uffff" else 1))
        return [(places[start], places[end]) for start, end in self.offsets]


class TextTokenizer:
    """Wraps an mlx-lm `TokenizerWrapper`.

    Args:
        wrapper: What `mlx_lm` loaded.
        vocab_size: Rows of the model's embedding; every id must be below it.
    """

    def __init__(self, wrapper: Any, vocab_size: int) -> None:
        self.wrapper = wrapper
        self.vocab_size = vocab_size
        self._slow_lock = threading.Lock()
        """Guards transformers' own encode, which changes shared state."""
        self._fast = _fast_backend(wrapper)
        self._is_splittable = False
        if self._fast is not None and not self._agrees():
            self._fast = None
        added = None if self._fast is None else self._find_added()
        self._is_splittable = added is not None and is_splittable(self._fast)
        self._added = added or ([], [])
        """What goes before and after the parts of a text."""
        self._can_decode_fast = self._fast is not None and self._decodes_alike()
        self._bind_template_budget()

    @property
    def is_fast(self) -> bool:
        """Whether the Rust tokenizer is called directly, with threads of its own."""
        return self._fast is not None

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be rendered."""
        return bool(self.wrapper.has_chat_template)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation."""
        return frozenset(self.wrapper.eos_token_ids)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of one text. Holds the GIL: for short texts on the loop."""
        if self._fast is None:
            return self._encode_slow(text, add_special_tokens)
        ids: list[int] = self._fast.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_batch(self, texts: list[str], add_special_tokens: bool = True) -> list[array[int]]:
        """Return the ids of each text, using the tokenizer's own threads without the GIL."""
        if self._fast is None:
            return [array("I", self._encode_slow(text, add_special_tokens)) for text in texts]
        if not any(map(self._is_cut, texts)):
            return self._encode_whole(texts, add_special_tokens)
        short = [text for text in texts if not self._is_cut(text)]
        whole = iter(self._encode_whole(short, add_special_tokens))
        return [
            self._encode_parts(text, add_special_tokens) if self._is_cut(text) else next(whole)
            for text in texts
        ]

    def count_batch(self, texts: list[str], add_special_tokens: bool = True) -> list[int]:
        """Return the number of ids of each text."""
        if self._fast is None or any(map(self._is_cut, texts)):
            return [len(ids) for ids in self.encode_batch(texts, add_special_tokens)]
        encodings = self._fast.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [len(encoding) for encoding in encodings]

    def encode_pieces(self, texts: list[str], add_special_tokens: bool = True) -> list[Pieces]:
        """Return ids, token strings and offsets of each text.

        Raises:
            InvalidRequest: The tokenizer is one of Python's own, which keeps no offsets.
        """
        if self._fast is None:
            raise InvalidRequest(
                "this model's tokenizer gives no offsets; leave `offsets` and `tokens` out",
                field="offsets",
            )
        encodings = self._fast.encode_batch(texts, add_special_tokens=add_special_tokens)
        return [
            Pieces(encoding.ids, encoding.tokens, encoding.offsets, text)
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids.

        Raises:
            InvalidRequest: An id is out of range.
        """
        self.check(ids)
        return self.decode_batch([ids], skip_special_tokens)[0]

    def decode_batch(self, lists: list[list[int]], skip_special_tokens: bool = False) -> list[str]:
        """Return the text of each list of ids, which the caller has checked."""
        if self._can_decode_fast:
            assert self._fast is not None
            if len(lists) == 1:
                return [self._fast.decode(lists[0], skip_special_tokens=skip_special_tokens)]
            texts: list[str] = self._fast.decode_batch(
                lists, skip_special_tokens=skip_special_tokens
            )
            return texts
        return [self._decode_slow(ids, skip_special_tokens) for ids in lists]

    def check(self, ids: list[int], field: str = "ids") -> None:
        """Refuse ids that the model has no embedding for.

        Raises:
            InvalidRequest: An id is negative or not below the vocabulary size.
        """
        if ids and (min(ids) < 0 or max(ids) >= self.vocab_size):
            wrong = next(token for token in ids if not 0 <= token < self.vocab_size)
            raise InvalidRequest(
                f"token id {wrong} is not within 0 to {self.vocab_size - 1}", field=field
            )

    def render(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """Render a conversation with the model's chat template.

        Args:
            messages: `{role, content}` and whatever else the template reads.
            options: Variables of the template, such as `add_generation_prompt` and `tools`.

        Raises:
            InvalidRequest: There is no template, it refuses the messages, or it wants to build more
                than it may.
        """
        if not self.has_chat_template:
            raise InvalidRequest(
                "this model has no chat template; send `prompt` or `ids` instead of messages",
                field="messages",
            )
        try:
            text = self.wrapper.apply_chat_template(messages, tokenize=False, **options)
        except (MemoryError, OverflowError, RecursionError) as error:
            raise InvalidRequest(
                "the model's chat template is at fault, not the messages: "
                f"{type(error).__name__}: {error}; send `prompt` or `ids` instead",
                field="messages",
            ) from error
        except Exception as error:  # a template is a program: it may raise anything
            raise InvalidRequest(
                f"the chat template refused these messages: {type(error).__name__}: {error}",
                field="messages",
            ) from error
        return str(text)

    def _bind_template_budget(self) -> None:
        from .template import bind_template_budget

        bind_template_budget(self.wrapper._tokenizer)

    def _encode_whole(self, texts: list[str], add_special_tokens: bool) -> list[array[int]]:
        assert self._fast is not None
        encodings = self._fast.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [array("I", encoding.ids) for encoding in encodings]

    def _is_cut(self, text: str) -> bool:
        return len(text) > SPLIT_CHARS and self._is_splittable

    def _encode_parts(self, text: str, add_special_tokens: bool) -> array[int]:
        """Encode the parts of a long text side by side, and read their ids one by one."""
        assert self._fast is not None
        encodings = self._fast.encode_batch_fast(split(text), add_special_tokens=False)
        before, after = self._added if add_special_tokens else ([], [])
        ids = array("I", before)
        encodings.reverse()
        while encodings:
            # Each is let go at once: all together they would hold the interpreter for long.
            ids.extend(encodings.pop().ids)
        ids.extend(after)
        return ids

    def _find_added(self) -> tuple[list[int], list[int]] | None:
        """Return the ids that are put before and after a text, if they are always the same."""
        bare, whole = self.encode(_PLAIN, False), self.encode(_PLAIN)
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                before, after = whole[:start], whole[start + len(bare) :]
                is_same = all(
                    self.encode(text) == [*before, *self.encode(text, False), *after]
                    for text in _PROBES
                )
                return (before, after) if is_same else None
        return None

    def _encode_slow(self, text: str, add_special_tokens: bool) -> list[int]:
        with self._slow_lock:
            return list(self.wrapper.encode(text, add_special_tokens=add_special_tokens))

    def _decode_slow(self, ids: list[int], skip_special_tokens: bool) -> str:
        return str(self.wrapper.decode(ids, skip_special_tokens=skip_special_tokens))

    def _decodes_alike(self) -> bool:
        """Whether transformers adds nothing of its own, such as cleaning up spaces."""
        assert self._fast is not None
        lists = [self.encode(text) for text in _PROBES]
        return all(
            self._fast.decode_batch(lists, skip_special_tokens=skip)
            == [self._decode_slow(ids, skip) for ids in lists]
            for skip in (True, False)
        )

    def _agrees(self) -> bool:
        return all(
            self.encode(text, special) == self._encode_slow(text, special)
            and self.encode_batch([text], special)[0].tolist() == self._encode_slow(text, special)
            for text in _PROBES
            for special in (True, False)
        )


def _fast_backend(wrapper: Any) -> Any | None:
    backend = getattr(wrapper._tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "encode_batch_fast"):
        return None
    backend.no_truncation()
    backend.no_padding()
    return backend
