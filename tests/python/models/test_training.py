"""The built-in model's corpus is true and fairly split, and what is shipped is whole and small."""

from __future__ import annotations

import calendar
import json
import random
import re
from collections.abc import Callable
from datetime import timedelta
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from isthmus.models import training
from isthmus.models.training import corpus, questions
from isthmus.models.training.evaluate import DRAFT_TOKENS, proposed_tokens
from isthmus.models.training.tokenizer import ASSISTANT, CHAT_TEMPLATE, END, SPECIAL_TOKENS, render

BUILTIN = Path(training.__file__).parents[1] / "builtin"
LIMIT_BYTES = 8_000_000
SAMPLES_PER_KIND = 120
IRREGULAR = {
    "child": "children",
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "person": "people",
    "ox": "oxen",
    "knife": "knives",
    "leaf": "leaves",
    "wolf": "wolves",
    "life": "lives",
    "half": "halves",
    "shelf": "shelves",
    "sheep": "sheep",
    "fish": "fish",
    "deer": "deer",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
}
PER_UNIT = {
    "seconds minute": timedelta(minutes=1) // timedelta(seconds=1),
    "minutes hour": timedelta(hours=1) // timedelta(minutes=1),
    "hours day": timedelta(days=1) // timedelta(hours=1),
    "days week": timedelta(weeks=1) // timedelta(days=1),
    "months year": len(calendar.month_name) - 1,
    "eggs dozen": 12,
    "centimetres metre": 10**2,
    "metres kilometre": 10**3,
    "grams kilogram": 10**3,
    "millimetres centimetre": 10,
}


def numbers(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"\d+", text)]


def check_sum(question: str, answer: str) -> bool:
    a, b = numbers(question)
    return answer == f"{a} + {b} = {sum((a, b))}."


def check_difference(question: str, answer: str) -> bool:
    small, large = sorted(numbers(question))
    return answer == f"{large} - {small} = {large - small}."


def check_product(question: str, answer: str) -> bool:
    a, b = numbers(question)
    return answer == f"{a} * {b} = {sum([a] * b)}."


def check_comparison(question: str, answer: str) -> bool:
    small, large = sorted(numbers(question))
    if re.search("larger|bigger|more", question):
        return answer == f"{large} is larger than {small}."
    return answer == f"{small} is smaller than {large}."


def check_parity(question: str, answer: str) -> bool:
    (a,) = numbers(question)
    return answer == f"{a} is {'odd' if str(a)[-1] in '13579' else 'even'}."


def check_counting(question: str, answer: str) -> bool:
    first, last = numbers(question)
    counted = numbers(answer)
    steps = {after - before for before, after in pairwise(counted)}
    return (counted[0], counted[-1]) == (first, last) and steps == {1 if last > first else -1}


def check_neighbour(question: str, answer: str) -> bool:
    (a,) = numbers(question)
    step = 1 if re.search("after|follows|more", question) else -1
    return numbers(answer) == [a + step, a] and ("after" in answer) == (step == 1)


def check_letters(question: str, answer: str) -> bool:
    found = re.fullmatch(r"The (first|last) letter of (\w+) is (\w)\.", answer)
    assert found is not None
    side, word, letter = found.groups()
    return word in question and word[0 if side == "first" else -1] == letter


def check_spelling(question: str, answer: str) -> bool:
    return answer.removesuffix(".").replace(", ", "") in re.findall(r"\w+", question)


def check_copy(question: str, answer: str) -> bool:
    return question.endswith(f": {answer}")


def check_order(names: list[str]) -> Callable[[str, str], bool]:
    def check(question: str, answer: str) -> bool:
        other, side, asked = answer.removesuffix(".").replace(" comes", "").split(" ")
        step = {"after": 1, "before": -1}[side]
        is_side = (side == "after") == bool(re.search("after|follows", question))
        expected = names[(names.index(asked) + step) % len(names)]
        return is_side and asked in question and other == expected

    return check


def check_units(question: str, answer: str) -> bool:
    found = re.fullmatch(r"There are (\d+) (\w+) in (\d+) (\w+)\.", answer)
    assert found is not None
    total, many, count, one = found.groups()
    per = PER_UNIT[f"{many} {one if one == 'dozen' else one.removesuffix('s')}"]
    return int(total) == int(count) * per and f"{count} {one}" in question and many in question


def check_plural(question: str, answer: str) -> bool:
    found = re.fullmatch(r"The plural of (\w+) is (\w+)\.", answer)
    assert found is not None
    one, many = found.groups()
    regular = re.sub("(?<=[^aeiou])ys$", "ies", re.sub("(?<=[sxh])s$", "es", f"{one}s"))
    return many == IRREGULAR.get(one, regular)


CHECKS: dict[str, Callable[[str, str], bool]] = {
    "addition": check_sum,
    "subtraction": check_difference,
    "multiplication": check_product,
    "comparison": check_comparison,
    "even or odd": check_parity,
    "counting": check_counting,
    "next number": check_neighbour,
    "spelling": check_spelling,
    "letters": check_letters,
    "copying": check_copy,
    "days": check_order(list(calendar.day_name)),
    "months": check_order(list(calendar.month_name)[1:]),
    "units": check_units,
    "plurals": check_plural,
}


def drawn(kind: str) -> list[questions.Exchange]:
    rng = random.Random(f"test {kind}")
    return [questions.MAKERS[kind](rng) for _ in range(SAMPLES_PER_KIND)]


def builtin_files() -> list[Path]:
    return [path for path in BUILTIN.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", sorted(CHECKS))
def test_every_computed_answer_agrees_with_an_independent_check(kind: str) -> None:
    for exchange in drawn(kind):
        assert CHECKS[kind](exchange.question, exchange.answer), exchange


def test_a_question_has_one_answer_whatever_kind_asks_it() -> None:
    answers: dict[str, str] = {}
    for kind in questions.MAKERS:
        for exchange in drawn(kind):
            if not exchange.before:
                question = exchange.question.lower().rstrip(".?!")
                assert answers.setdefault(question, exchange.answer) == exchange.answer


def test_numbers_are_written_in_words_as_people_write_them() -> None:
    written = [questions.number_in_words(number) for number in range(100)]
    assert len(set(written)) == 100
    assert [written[at] for at in (0, 13, 20, 47, 99)] == [
        "zero",
        "thirteen",
        "twenty",
        "forty-seven",
        "ninety-nine",
    ]


def test_the_same_seed_gives_the_same_conversations() -> None:
    first, second = (list(islice(corpus.training_conversations(3), 200)) for _ in range(2))
    assert first == second
    assert first != list(islice(corpus.training_conversations(4), 200))
    assert corpus.held_out_conversations(3, 5) == corpus.held_out_conversations(3, 5)


def test_training_never_sees_a_held_out_question() -> None:
    kinds = corpus.NEVER_HELD_OUT
    asked = {
        c.turns[-1][0].lower().rstrip(".?")
        for c in corpus.held_out_conversations(1, 30)
        if c.kind not in {*kinds, "memory"}
    }
    seen = {
        question.lower().rstrip(".?")
        for conversation in islice(corpus.training_conversations(1), 8000)
        for question, _ in conversation.turns
    }
    assert len(asked) > 300
    assert not asked & seen


def test_a_sum_is_held_out_in_both_orders() -> None:
    made = [exchange for exchange in drawn("addition") if corpus.is_held_out(exchange)]
    for exchange in made:
        a, b = exchange.truth.split("+")
        assert corpus.is_held_out(questions.Exchange("addition", f"{a}+{b}", "", ""))
        assert int(a) <= int(b)


def shipped_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(BUILTIN / "chat" / "tokenizer.json"))


TOKENIZER = shipped_tokenizer()


@settings(deadline=None, max_examples=200)
@given(st.text())
@example("\U0001f468‍\U0001f469‍\U0001f467 \U0001f1e9\U0001f1ea é e\u0301 \x00\x07\x1b\u202e")
@example("  two  spaces\r\n\ttab 1234567890 <|end|> <|user|> ﷺ \u2028 \ufeff \ufffd")
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= token < TOKENIZER.get_vocab_size() for token in ids)


def test_each_digit_is_a_token_and_each_special_token_has_its_id() -> None:
    tokens = TOKENIZER.encode("1234").tokens
    assert tokens == ["1", "2", "3", "4"]
    assert [TOKENIZER.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(5))


def test_the_chat_template_is_the_layout_that_was_trained_on() -> None:
    config = json.loads((BUILTIN / "chat" / "tokenizer_config.json").read_text())
    assert config["chat_template"] == CHAT_TEMPLATE
    laid_out = render([{"role": "user", "content": "Hi"}])
    assert laid_out == f"<|user|>Hi{END}{ASSISTANT}"


def test_chat_and_draft_share_one_tokenizer() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (BUILTIN / "chat" / name).read_bytes() == (BUILTIN / "draft" / name).read_bytes()


def test_the_builtin_folders_are_small_and_hold_data_only() -> None:
    files = builtin_files()
    folders = {path.parent.name for path in files if path.suffix == ".safetensors"}
    assert folders == {"chat", "draft"}
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES


def test_the_shipped_scores_hold_what_is_claimed() -> None:
    scores = json.loads((BUILTIN / "scores.json").read_text())
    assert scores["overall"] >= 0.80
    assert scores["right"] == sum(kind["right"] for kind in scores["kinds"].values())
    assert set(scores["kinds"]) == set(questions.MAKERS) == set(corpus.SHARES)
    assert 0.0 < scores["acceptance_rate"] <= 1.0


def test_draft_tokens_after_the_end_token_are_not_counted_as_proposed() -> None:
    accepted_round, refused_round = [True] * DRAFT_TOKENS + [False], [False]
    assert proposed_tokens(accepted_round + refused_round) == 2 * DRAFT_TOKENS
    assert proposed_tokens([*accepted_round, True]) == DRAFT_TOKENS + 1


def test_training_without_torch_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(training.TrainingUnavailable, match=r"isthmus\[train\]"):
        training.train_default(tmp_path, 1.0, 0, lambda line: None)
