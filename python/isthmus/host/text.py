"""The text operations as Python has them: their parameters, and how their results are read.

Token ids are lists of integers here, offsets pairs of them. What is not as the protocol says is the
runtime's fault and says so.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..errors import InvalidRequest, RemoteProtocolError
from ..wire.codec import token_ids
from .batch import Operation
from .generation import read_ids


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text's tokens, with what was asked for besides their ids.

    Attributes:
        ids: Token ids.
        offsets: Start and end of each token in the string; `(0, 0)` for one that was added.
        tokens: The vocabulary's name of each id.
    """

    ids: list[int]
    offsets: list[tuple[int, int]] | None = None
    tokens: list[str] | None = None


def wire_ids(ids: Sequence[int]) -> array[int]:
    """Return token ids in the form that travels.

    Raises:
        InvalidRequest: One of them is not an unsigned 32-bit integer.
    """
    try:
        return token_ids(list(ids))
    except (TypeError, OverflowError) as error:
        raise InvalidRequest(
            f"token ids must be integers from 0 to 2^32 - 1: {error}", field="ids"
        ) from error


def ids_of(result: Any) -> list[int]:
    """Read token ids."""
    return read_ids(_field(result, "ids", bytes))


def encoding_of(result: Any) -> Encoding:
    """Read token ids and what comes with them."""
    ids, offsets, tokens = ids_of(result), None, None
    if "offsets" in result:
        places = read_ids(_field(result, "offsets", bytes, 8))
        offsets = list(zip(places[::2], places[1::2], strict=True))
    if "tokens" in result:
        tokens = _field(result, "tokens", list)
    return Encoding(ids, offsets, tokens)


def text_of(result: Any) -> str:
    """Read a text."""
    text: str = _field(result, "text", str)
    return text


def count_of(result: Any) -> int:
    """Read a number of tokens."""
    count: int = _field(result, "count", int)
    return count


def rendered_of(result: Any) -> str | list[int]:
    """Read a rendered conversation: text or token ids."""
    return ids_of(result) if "ids" in result else text_of(result)


def _field(result: Any, name: str, kind: type, unit_bytes: int = 4) -> Any:
    value = result.get(name) if isinstance(result, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bytes) and len(value) % unit_bytes):
        raise RemoteProtocolError(f"the runtime sent a result without `{name}`", kind="message")
    return value


def _length(item: Any) -> int:
    """Whatever a caller may pass has a size; the runtime says what is wrong with it."""
    return len(item) if hasattr(item, "__len__") else 0


TOKENIZE: Final = Operation("tokenize", "texts", "text", _length, ids_of)
TOKENIZE_PIECES: Final = Operation("tokenize", "texts", "text", _length, encoding_of)
COUNT_TOKENS: Final = Operation("count_tokens", "texts", "text", _length, count_of)
DETOKENIZE: Final[Operation[Any, str]] = Operation(
    "detokenize", "ids", "ids", lambda ids: 4 * len(ids), text_of
)
