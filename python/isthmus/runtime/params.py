"""Reads a request's params: each field once, with its type and range; the rest is refused by name.

An option that is ignored is a wrong answer, so an unknown one is an error. Token ids are taken as
little-endian bytes or as an array of integers.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from ..errors import InvalidRequest
from ..text.ids import read_token_ids

T = TypeVar("T")

_MISSING: Final = object()


class Params:
    """The params of one request.

    Args:
        raw: As decoded; not changed.
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self._left = dict(raw)

    def __contains__(self, name: str) -> bool:
        return self._left.get(name) is not None

    def peek(self, name: str) -> Any:
        """Return a field without taking it: whoever takes it checks it."""
        return self._left.get(name)

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """Return a field of any type; nil counts as absent.

        Raises:
            InvalidRequest: It is absent and has no default.
        """
        value = self._left.pop(name, None)
        if value is not None:
            return value
        if default is _MISSING:
            raise InvalidRequest(f"`{name}` is missing", field=name)
        return default

    def typed(self, name: str, kind: type[T], default: Any = _MISSING) -> T:
        """Return a field that must be of exactly one type."""
        value = self.take(name, default)
        if value is not default and type(value) is not kind:
            raise _wrong(name, _NAMES.get(kind, kind.__name__), value)
        return value  # type: ignore[no-any-return]

    def integer(self, name: str, low: int, high: int, default: Any = _MISSING) -> int:
        """Return an integer within a range, both ends included."""
        value = self.take(name, default)
        if value is not default and (type(value) is not int or not low <= value <= high):
            raise _wrong(name, f"an integer from {low} to {high}", value)
        return value  # type: ignore[no-any-return]

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """Return a finite number within a range, both ends included."""
        value = self.take(name, default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise _wrong(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def items(self, name: str, kind: type[T], limit: int, default: Any = _MISSING) -> list[T]:
        """Return an array whose items are all of one type."""
        value = self.typed(name, list, default)
        if len(value) > limit:
            raise _wrong(name, f"an array of at most {limit}", f"{len(value)} items")
        for index, item in enumerate(value):
            if type(item) is not kind:
                raise _wrong(f"{name}[{index}]", _NAMES.get(kind, kind.__name__), item)
        return value

    def token_ids(self, name: str) -> list[int]:
        """Return token ids; their range is the tokenizer's to check."""
        return read_token_ids(name, self.take(name))

    def done(self) -> None:
        """Refuse whatever was not read.

        Raises:
            InvalidRequest: `details.field` is the first unknown name.
        """
        unknown = [name for name, value in self._left.items() if value is not None]
        if unknown:
            raise InvalidRequest(
                f"unknown parameter `{unknown[0]}`; remove it, or see the method's table in the "
                "protocol",
                field=unknown[0],
            )


_NAMES: Final[dict[type, str]] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    list: "an array",
    dict: "a map",
}


def _wrong(name: str, expected: str, value: object) -> InvalidRequest:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}…"
    return InvalidRequest(f"`{name}` must be {expected}, not {shown}", field=name)
