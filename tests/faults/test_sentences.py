"""What test files say is read from their text, whatever stands between the tests."""

from __future__ import annotations

import pytest

from tests.faults.sentences import python_tests, sentence, typescript_titles


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("test_the_first_is_unharmed", "The first is unharmed."),
        ("test_a_caller_s_own_mistake", "A caller's own mistake."),
        ("it takes 1 s", "It takes 1 s."),
        ("it ends, and %s is kept", "It ends, and … is kept."),
        ("%s: nothing is left", "In each case nothing is left."),
        ("a jump by $jump.ms ms.", "A jump by … ms."),
        ("test_a_ctrl_c_and_sigterm_are_heard", "A Ctrl-C and SIGTERM are heard."),
    ],
)
def test_a_name_becomes_a_sentence(words: str, said: str) -> None:
    assert sentence(words) == said


def test_functions_that_are_no_tests_are_left_out() -> None:
    text = "def helper(): ...\nasync def test_a(): ...\nclass T:\n    def test_b(self): ...\n"
    assert python_tests(text) == ["test_a", "test_b"]


def test_a_state_machine_is_a_test() -> None:
    assert python_tests("TestRandomOrder = Machine.TestCase\n") == ["test_random_order"]


@pytest.mark.parametrize(
    "text",
    [
        "test('one', () => {});",
        "it(\n  'one', // 'two'\n  async () => { /* test('two') */ },\n);",
        "test.each([['(', test], [')', 1]])('one', () => {});",
        'test.skipIf(isSlow("x)"))("one", () => {});',
        "const a = /['(]/; expect(/x/.test('two')).toBe(1); test('one', () => {});",
        "test(`one`, () => `test('two')`);",
    ],
)
def test_titles_are_read_and_nothing_that_looks_like_one(text: str) -> None:
    assert typescript_titles(text) == ["one"]


def test_the_titles_of_groups_go_in_front() -> None:
    text = "describe('a', () => { test('b', f); describe('c', () => { it('d', f); }); });test('e')"
    assert typescript_titles(text) == ["a: b", "a: c: d", "e"]
