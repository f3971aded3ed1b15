"""The text of a stream of tokens: whole characters only, ended before the first stop string.

Bytes of an unfinished character are held back by mlx-lm's streaming detokenizer; text that may be
the beginning of a stop string is held back here until it is decided.
"""

from __future__ import annotations

from typing import Any, Protocol


class Detokenizer(Protocol):
    """mlx-lm's streaming detokenizer."""

    @property
    def last_segment(self) -> str:
        """The text that became readable since the last look."""
        ...

    def add_token(self, token: int) -> None:
        """Consume one token."""
        ...

    def finalize(self) -> None:
        """Make the held-back rest readable."""
        ...


class StopMatcher:
    """Finds the first of several strings in text that arrives in parts.

    A match ends in the new part, so no stop string is looked for where the held text alone would
    have to hold it; lengths of the held end are tried only as it shrinks. 64 adverse stop strings
    of 1,024 characters cost 20 to 50 microseconds a token, and 5 ms once for each 1,000 characters
    that are let go together.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.matched: str | None = None

    def add(self, text: str) -> str:
        """Take more text; return what can no longer belong to a match."""
        if not self._stops:
            return text
        old = len(self._held)
        text = self._held + text
        matches = [
            (at, stop)
            for stop in self._stops
            if (at := text.find(stop, max(0, old - len(stop) + 1))) >= 0
        ]
        if matches:
            at, self.matched = min(matches, key=lambda match: (match[0], -len(match[1])))
            self._held = ""
            return text[:at]
        keep = self._open_length(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """Return what was held back: no more text will come."""
        held, self._held = self._held, ""
        return held

    def _open_length(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for length in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0


class TextStream:
    """Turns tokens into text that can be shown.

    Args:
        detokenizer: A fresh one of the model's.
        stops: Strings that end the text; empty for none.
    """

    def __init__(self, detokenizer: Detokenizer, stops: tuple[str, ...]) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops)

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._matcher.matched

    def add(self, token: int) -> str:
        """Take a token; return the text that it completes."""
        self._detokenizer.add_token(token)
        return self._matcher.add(self._detokenizer.last_segment)

    def finish(self) -> str:
        """Return the rest of the text; nothing once a stop string was found."""
        if self.stop is not None:
            return ""
        self._detokenizer.finalize()
        text = self._matcher.add(self._detokenizer.last_segment)
        return text if self.stop is not None else text + self._matcher.finish()

    def report(self) -> dict[str, Any]:
        """Return what the result says of the text: nothing."""
        return {}
