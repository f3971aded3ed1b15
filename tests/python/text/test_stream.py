"""The text of a stream: whole characters, ended before the first stop, however it arrives."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.text.stream import StopMatcher, TextStream

MANY = settings(max_examples=400, deadline=None, database=None)
LETTERS = st.text(alphabet="ab\n", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4).map(tuple)


class FakeDetokenizer:
    """Each token is an index into a list of texts; finalizing gives a rest."""

    def __init__(self, texts: list[str], rest: str = "") -> None:
        self._texts, self._rest = texts, rest
        self._segment = ""

    @property
    def last_segment(self) -> str:
        """Return the new text once."""
        segment, self._segment = self._segment, ""
        return segment

    def add_token(self, token: int) -> None:
        """Take a token."""
        self._segment += self._texts[token]

    def finalize(self) -> None:
        """Give the rest."""
        self._segment += self._rest


def parts_of(text: str, cuts: list[int]) -> list[str]:
    """Cut a text at places that need not lie in it."""
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


def cut_at_first_stop(text: str, stops: tuple[str, ...]) -> tuple[str, int | None]:
    """Return the text before the first match, and where that is: what must come out."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], min(places)) if places else (text, None)


def first_completed(parts: list[str], stops: tuple[str, ...]) -> str | None:
    """Return what comes out when a match ends the text as soon as it is complete."""
    seen = ""
    for part in parts:
        seen += part
        if any(stop in seen for stop in stops):
            return cut_at_first_stop(seen, stops)[0]
    return None


@MANY
@given(LETTERS, STOPS, st.lists(st.integers(0, 30), max_size=6))
def test_however_the_text_is_cut_it_ends_before_the_first_stop(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    parts, out = parts_of(text, cuts), ""
    matcher = StopMatcher(stops)
    for part in parts:
        out += matcher.add(part)
        if matcher.matched is not None:
            break
    else:
        out += matcher.finish()
    expected = first_completed(parts, stops)
    assert out == (text if expected is None else expected)
    assert (matcher.matched is None) == (expected is None)


@MANY
@given(LETTERS, st.text(alphabet="ab\n", min_size=1, max_size=4))
def test_one_stop_gives_the_same_text_for_every_cut(text: str, stop: str) -> None:
    expected, place = cut_at_first_stop(text, (stop,))
    for size in (1, 2, 3, 30):
        matcher, out = StopMatcher((stop,)), ""
        for start in range(0, len(text), size):
            if matcher.matched is None:
                out += matcher.add(text[start : start + size])
        out += matcher.finish()
        assert (out, matcher.matched) == (expected, None if place is None else stop)


@MANY
@given(LETTERS, STOPS)
def test_nothing_is_held_back_that_cannot_begin_a_stop(text: str, stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(stops)
    out = matcher.add(text)
    if matcher.matched is None:
        held = text[len(out) :]
        assert not held or any(stop.startswith(held) for stop in stops)


class PlainMatcher:
    """What `StopMatcher` must do, in as few words as possible; slow."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.matched: str | None = None

    def add(self, text: str) -> str:
        """Look for every stop in all that is held."""
        text = self._held + text
        matches = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if matches:
            at, self.matched = min(matches, key=lambda match: (match[0], -len(match[1])))
            self._held = ""
            return text[:at]
        ends = [text[at:] for at in range(len(text) + 1)]
        self._held = next(
            (end for end in ends if any(stop.startswith(end) for stop in self._stops)), ""
        )
        return text.removesuffix(self._held)


@MANY
@given(st.lists(st.text(alphabet="ab\n", max_size=12), max_size=8), STOPS, STOPS)
def test_every_part_gives_what_the_plain_matcher_gives(
    parts: list[str], stops: tuple[str, ...], halves: tuple[str, ...]
) -> None:
    stops += tuple(half + half + half[:1] for half in halves)
    ours, plain = StopMatcher(stops), PlainMatcher(stops)
    for part in parts:
        assert (ours.add(part), ours.matched) == (plain.add(part), plain.matched)


def test_of_two_matches_the_first_counts_and_of_two_at_one_place_the_longer() -> None:
    matcher = StopMatcher(("bc", "b", "a"))
    assert (matcher.add("xxbca"), matcher.matched) == ("xx", "bc")


def test_without_stops_the_text_passes_unchanged() -> None:
    matcher = StopMatcher(())
    assert (matcher.add("anything"), matcher.finish(), matcher.matched) == ("anything", "", None)


def test_a_stop_may_be_found_in_what_the_detokenizer_held_back() -> None:
    stream = TextStream(FakeDetokenizer(["a "], rest="END more"), ("END",))
    assert stream.add(0) == "a "
    assert (stream.finish(), stream.stop) == ("", "END")


def test_the_rest_comes_at_the_end() -> None:
    stream = TextStream(FakeDetokenizer(["ab", "E"], rest="!"), ("END",))
    assert [stream.add(0), stream.add(1)] == ["ab", ""]
    assert (stream.finish(), stream.stop) == ("E!", None)


def test_after_a_stop_there_is_no_rest() -> None:
    stream = TextStream(FakeDetokenizer(["aEND"], rest="!"), ("END",))
    assert (stream.add(0), stream.stop, stream.finish()) == ("a", "END", "")


@pytest.mark.parametrize(
    "text", ["héllo wörld", "日本語のテキスト", "a👩‍👩‍👧b🎉", "¡ÿ!\n\ttab", ""]
)
def test_the_built_in_detokenizer_gives_whole_characters_only(text: str, wrapper: Any) -> None:
    stream = TextStream(wrapper.detokenizer, ())
    parts = [stream.add(token) for token in wrapper.encode(text, add_special_tokens=False)]
    assert all("\ufffd" not in part for part in parts)
    assert "".join([*parts, stream.finish()]) == text
