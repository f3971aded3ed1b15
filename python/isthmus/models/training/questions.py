"""Makers of questions whose true answer is known: one function per kind of question.

Promises: each maker is a pure function of the generator it is given; its answer is correct and
the only one for its question; `truth` names what must not be seen in both training and test.
For computed kinds that is the operands, for remembered facts the fact with its phrasing.
Knows nothing of conversations, of their shares or of the split itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from . import facts, passages, phrasings


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question with its true answer, and the turns that had to come before it."""

    kind: str
    truth: str
    question: str
    answer: str
    before: tuple[tuple[str, str], ...] = ()


Maker = Callable[[random.Random], Exchange]

UNKNOWN_ANSWER = "I do not know that. I am only a very small language model."

MEMORY_POOLS = (facts.NAMES, facts.FAVOURITE_COLOURS, facts.PETS, facts.CITIES)


def number_in_words(number: int) -> str:
    """Write 0..99 in English words, with a hyphen as in forty-seven."""
    if number < len(facts.SMALL_NUMBERS):
        return facts.SMALL_NUMBERS[number]
    tens, ones = divmod(number, 10)
    word = facts.TENS[tens - 2]
    return word if ones == 0 else f"{word}-{facts.SMALL_NUMBERS[ones]}"


def _operand(rng: random.Random) -> int:
    return rng.randrange(10) if rng.random() < 0.2 else rng.randrange(100)


def addition(rng: random.Random) -> Exchange:
    """Ask for the sum of two numbers below 100."""
    a, b = _operand(rng), _operand(rng)
    low, high = sorted((a, b))
    question = rng.choice(phrasings.ADD).format(a=a, b=b)
    return Exchange("addition", f"{low}+{high}", question, f"{a} + {b} = {a + b}.")


def subtraction(rng: random.Random) -> Exchange:
    """Ask for a difference that is not negative, of numbers below 100."""
    b, a = sorted((_operand(rng), _operand(rng)))
    question = rng.choice(phrasings.SUBTRACT).format(a=a, b=b)
    return Exchange("subtraction", f"{a}-{b}", question, f"{a} - {b} = {a - b}.")


def multiplication(rng: random.Random) -> Exchange:
    """Ask for a product from the table of ten."""
    a, b, phrasing = rng.randrange(11), rng.randrange(11), rng.choice(phrasings.TIMES)
    question = phrasing.format(a=a, b=b)
    return Exchange("multiplication", f"{a}*{b}|{phrasing}", question, f"{a} * {b} = {a * b}.")


def comparison(rng: random.Random) -> Exchange:
    """Ask which of two numbers is larger or smaller."""
    a, b = rng.sample(range(100), 2)
    if rng.random() < 0.3:  # near neighbours, where the tens digit does not decide
        b = min(99, a // 10 * 10 + rng.randrange(10))
        b = b if b != a else (a + 1) % 100
    low, high = sorted((a, b))
    if rng.random() < 0.5:
        question, answer = rng.choice(phrasings.LARGER), f"{high} is larger than {low}."
    else:
        question, answer = rng.choice(phrasings.SMALLER), f"{low} is smaller than {high}."
    return Exchange("comparison", f"{low}<{high}", question.format(a=a, b=b), answer)


def parity(rng: random.Random) -> Exchange:
    """Ask whether a number below 1000 is even or odd."""
    a = rng.randrange(1000) if rng.random() < 0.5 else rng.randrange(100)
    answer = f"{a} is {'odd' if a % 2 else 'even'}."
    return Exchange("even or odd", str(a), rng.choice(phrasings.PARITY).format(a=a), answer)


def counting(rng: random.Random) -> Exchange:
    """Ask to count up or down by ones, at most twenty numbers."""
    a = rng.randrange(1, 90)
    b = min(99, a + rng.randrange(2, 20))
    a, b = (a, b) if rng.random() < 0.7 else (b, a)
    step = 1 if b > a else -1
    answer = ", ".join(str(number) for number in range(a, b + step, step)) + "."
    return Exchange("counting", f"{a}..{b}", rng.choice(phrasings.COUNT).format(a=a, b=b), answer)


def neighbour(rng: random.Random) -> Exchange:
    """Ask for the number just after or before one below 1000."""
    a, is_after = rng.randrange(1, 999), rng.random() < 0.5
    question = rng.choice(phrasings.FOLLOWING if is_after else phrasings.PRECEDING).format(a=a)
    side, value = ("after", a + 1) if is_after else ("before", a - 1)
    return Exchange("next number", f"{side} {a}", question, f"{value} comes {side} {a}.")


def invented_word(rng: random.Random) -> str:
    """Join the beginning of one word to the end of another, for words never seen whole."""
    first, second = rng.choice(facts.WORDS), rng.choice(facts.WORDS)
    return (first[: rng.randrange(2, 5)] + second[-rng.randrange(1, 5) :])[:8]


def _any_word(rng: random.Random) -> str:
    return rng.choice(facts.WORDS) if rng.random() < 0.5 else invented_word(rng)


def spelling(rng: random.Random) -> Exchange:
    """Ask for the letters of a word, known or invented."""
    word = _any_word(rng)
    question = rng.choice(phrasings.SPELL).format(w=word)
    return Exchange("spelling", word, question, ", ".join(word) + ".")


def letter(rng: random.Random) -> Exchange:
    """Ask for the first or last letter of a word, known or invented."""
    word, is_first = _any_word(rng), rng.random() < 0.5
    ways = phrasings.FIRST_LETTER if is_first else phrasings.LAST_LETTER
    question = rng.choice(ways).format(w=word)
    side, found = ("first", word[0]) if is_first else ("last", word[-1])
    return Exchange(
        "letters", f"{side} {word}", question, f"The {side} letter of {word} is {found}."
    )


def copying(rng: random.Random) -> Exchange:
    """Ask for one to five words to be repeated."""
    words = " ".join(_any_word(rng) for _ in range(rng.randrange(1, 6)))
    return Exchange("copying", words, rng.choice(phrasings.COPY).format(w=words), words)


def units(rng: random.Random) -> Exchange:
    """Ask how many small units make some large ones."""
    many, one, factor = rng.choice(facts.UNITS)
    count, phrasing = rng.randrange(1, 11), rng.choice(phrasings.UNIT)
    measure = f"{count} {one if count == 1 or one == 'dozen' else one + 's'}"
    question = phrasing.replace("{n} {one}", measure).format(many=many)
    answer = f"There are {count * factor} {many} in {measure}."
    return Exchange("units", f"{count} {one}|{phrasing}", question, answer)


def memory(rng: random.Random) -> Exchange:
    """Tell something about oneself, then ask for it back."""
    topic = rng.randrange(len(phrasings.MEMORIES))
    statements, reply, questions, answer = phrasings.MEMORIES[topic]
    value = rng.choice(MEMORY_POOLS[topic])
    statement, question = rng.choice(statements), rng.choice(questions)
    before = ((statement.format(value), reply.format(value)),)
    truth = f"{statement.format(value)}|{question}"
    return Exchange("memory", truth, question, answer.format(value), before)


def story(rng: random.Random) -> Exchange:
    """Ask for a story about an animal with a name."""
    animal, home, thing, end = rng.choice(passages.STORY_ANIMALS)
    name = rng.choice(facts.NAMES)
    text = passages.STORY_TEXT.format(animal=animal, name=name, home=home, thing=thing, end=end)
    question = rng.choice(phrasings.STORY).format(animal=animal, name=name)
    return Exchange("stories", f"{name} the {animal}", question, text)


def small_talk(rng: random.Random) -> Exchange:
    """Greet, thank, or ask the model about itself."""
    said, reply = rng.choice(passages.SMALL_TALK)
    question = rng.choice(said)
    return Exchange("small talk", question, question, reply)


def unknown(rng: random.Random) -> Exchange:
    """Ask what the model cannot know; the true answer is to say so."""
    words = {
        "w": rng.choice(facts.WORDS),
        "name": rng.choice(facts.NAMES),
        "city": rng.choice(facts.CITIES),
    }
    question = rng.choice(phrasings.UNKNOWN).format(**words)
    return Exchange("unknown", question, question, UNKNOWN_ANSWER)


def _recall(kind: str, phrasings: tuple[str, ...], answer: str, pairs: facts.Pairs) -> Maker:
    """Make a maker that asks a table; `answer` is a template of the asked and the true."""

    def make(rng: random.Random) -> Exchange:
        (asked, true), phrasing = rng.choice(pairs), rng.choice(phrasings)
        reply = answer.format(asked, true)
        reply = reply[0].upper() + reply[1:]
        return Exchange(kind, f"{asked}|{phrasing}", phrasing.format(asked), reply)

    return make


def _order(kind: str, unit: str, names: tuple[str, ...]) -> Maker:
    """Make a maker that asks what comes before or after in a cycle of names."""

    def make(rng: random.Random) -> Exchange:
        at, is_after = rng.randrange(len(names)), rng.random() < 0.5
        phrasing = rng.choice(phrasings.AFTER if is_after else phrasings.BEFORE)
        side, other = ("after", at + 1) if is_after else ("before", at - 1)
        question = phrasing.format(names[at], unit=unit)
        answer = f"{names[other % len(names)]} comes {side} {names[at]}."
        return Exchange(kind, f"{names[at]}|{phrasing}", question, answer)

    return make


_NUMBER_PAIRS = tuple((str(number), number_in_words(number)) for number in range(100))

# kind: (phrasings, template of the answer, table)
_RECALLED: dict[str, tuple[tuple[str, ...], str, facts.Pairs]] = {
    "numbers in words": (phrasings.IN_WORDS, "{1}.", _NUMBER_PAIRS),
    "capitals": (phrasings.CAPITAL, "The capital of {0} is {1}.", facts.CAPITALS),
    "opposites": (phrasings.OPPOSITE, "The opposite of {0} is {1}.", facts.OPPOSITES),
    "plurals": (phrasings.PLURAL, "The plural of {0} is {1}.", facts.PLURALS),
    "colours": (phrasings.COLOUR, "{0} is {1}.", facts.COLOURS),
    "categories": (phrasings.CATEGORY, "{0} is {1}.", facts.CATEGORIES),
    "lists": (phrasings.MEMBER, "Three {0} are {1}.", facts.MEMBERS),
    "descriptions": (phrasings.DESCRIBE, "{1}", passages.DESCRIPTIONS),
}

MAKERS: dict[str, Maker] = {
    "addition": addition,
    "subtraction": subtraction,
    "multiplication": multiplication,
    "comparison": comparison,
    "even or odd": parity,
    "counting": counting,
    "next number": neighbour,
    "spelling": spelling,
    "letters": letter,
    "copying": copying,
    "units": units,
    "days": _order("days", "day", facts.DAYS),
    "months": _order("months", "month", facts.MONTHS),
    **{kind: _recall(kind, *parts) for kind, parts in _RECALLED.items()},
    "memory": memory,
    "stories": story,
    "small talk": small_talk,
    "unknown": unknown,
}
