"""The ways in which each kind of question is put, as templates split at bars.

Plain data: braces name what a maker in `questions.py` fills in. A remembered fact is held out
with one phrasing and taught with the others, so each kind has several.
"""

from __future__ import annotations


def _ways(table: str) -> tuple[str, ...]:
    """Read `one way | another way`; a way may not hold a bar."""
    return tuple(" ".join(way.split()) for way in table.split("|"))


ADD = _ways("""
    What is {a} + {b}? | {a} + {b} = | Add {a} and {b}. | What is {a} plus {b}? |
    How much is {a} + {b}? | Calculate {a} + {b}. | {a} + {b} | What is the sum of {a} and {b}? |
    What is {a}+{b}? | {a}+{b} | {a}+{b}= | What's {a} + {b}? | {a} plus {b}
""")
SUBTRACT = _ways("""
    What is {a} - {b}? | {a} - {b} = | Subtract {b} from {a}. | What is {a} minus {b}? |
    How much is {a} - {b}? | Calculate {a} - {b}. | {a} - {b} | Take {b} away from {a}. |
    What is {a}-{b}? | {a}-{b} | {a}-{b}= | What's {a} - {b}? | {a} minus {b}
""")
TIMES = _ways("""
    What is {a} times {b}? | {a} * {b} = | Multiply {a} by {b}. | What is {a} * {b}? |
    How much is {a} times {b}? | Calculate {a} * {b}. | {a} times {b} | {a} * {b} |
    What is {a}*{b}? | {a}*{b} | {a} x {b} | What's {a} times {b}?
""")
LARGER = _ways("""
    Which is larger, {a} or {b}? | Which number is bigger, {a} or {b}? | Is {a} or {b} larger? |
    Which is more, {a} or {b}? | Tell me the larger of {a} and {b}.
""")
SMALLER = _ways("""
    Which is smaller, {a} or {b}? | Which number is less, {a} or {b}? | Is {a} or {b} smaller? |
    Which is less, {a} or {b}? | Tell me the smaller of {a} and {b}.
""")
PARITY = _ways("""
    Is {a} even or odd? | Is {a} an even or an odd number? | Is the number {a} odd or even? |
    Even or odd: {a}? | Tell me if {a} is even or odd.
""")
COUNT = _ways("""
    Count from {a} to {b}. | Please count from {a} to {b}. | Can you count from {a} to {b}? |
    List the numbers from {a} to {b}. | Say the numbers from {a} to {b}.
""")
FOLLOWING = _ways("""
    What number comes after {a}? | Which number follows {a}? | What is one more than {a}?
""")
PRECEDING = _ways("""
    What number comes before {a}? | Which number precedes {a}? | What is one less than {a}?
""")
IN_WORDS = _ways("""
    Write {0} in words. | How do you write {0} in words? | Spell the number {0}. |
    What is {0} in words? | Say {0} in words. | Write the number {0} as a word.
""")
SPELL = _ways("""
    Spell the word {w}. | How do you spell {w}? | Spell {w}. | Please spell {w}. |
    Can you spell {w}? | What are the letters of {w}?
""")
FIRST_LETTER = _ways("""
    What is the first letter of {w}? | Which letter does {w} start with? |
    Give me the first letter of {w}. | What letter does {w} begin with?
""")
LAST_LETTER = _ways("""
    What is the last letter of {w}? | Which letter does {w} end with? |
    Give me the last letter of {w}. | What letter does {w} end in?
""")
COPY = _ways("""
    Repeat after me: {w} | Say this: {w} | Repeat: {w} | Please repeat: {w} | Copy this: {w} |
    Say: {w} | Echo: {w} | Repeat these words: {w}
""")
STORY = _ways("""
    Tell me a story about a {animal} named {name}. |
    Write a story about a {animal} named {name}. | Tell a story about {name} the {animal}. |
    I want a story about a {animal} called {name}. |
    Please tell me a story about {name} the {animal}.
""")
CAPITAL = _ways("""
    What is the capital of {0}? | Which city is the capital of {0}? | Name the capital of {0}. |
    Tell me the capital of {0}. | Capital of {0}? | {0}: what is its capital? |
    Do you know the capital of {0}? | What city is the capital of {0}? |
    What's the capital of {0}?
""")
OPPOSITE = _ways("""
    What is the opposite of {0}? | Name the opposite of {0}. | Opposite of {0}? |
    Give me the opposite of {0}. | Which word is the opposite of {0}? |
    Tell me the opposite of {0}. | What word means the opposite of {0}?
""")
PLURAL = _ways("""
    What is the plural of {0}? | Give me the plural of {0}. | Plural of {0}? |
    One {0}, two what? | How do you write the plural of {0}? | Tell me the plural of {0}. |
    What do you call more than one {0}?
""")
COLOUR = _ways("""
    What colour is {0}? | What color is {0}? | Which colour is {0}? | Name the colour of {0}. |
    Tell me the colour of {0}. | What is the colour of {0}? | What is the color of {0}?
""")
CATEGORY = _ways("""
    What kind of thing is {0}? | What sort of thing is {0}? | To which group belongs {0}? |
    Which group does {0} belong to? | Tell me what kind of thing {0} is. | Classify {0}.
""")
MEMBER = _ways("""
    Name three {0}. | Give me three {0}. | List three {0}. | Tell me three {0}. |
    Can you name three {0}? | Which three {0} do you know? | Please name three {0}. |
    What are three {0}?
""")
DESCRIBE = _ways("""
    Describe {0}. | What is {0}? | Tell me about {0}. | Explain {0}. | Can you describe {0}? |
    Write about {0}. | Give a short description of {0}. | Say something about {0}. |
    I want to know about {0}. | Please explain {0} to me. | Can you explain {0}?
""")
AFTER = _ways("""
    Which {unit} comes after {0}? | What {unit} comes after {0}? | What is the {unit} after {0}? |
    Name the {unit} after {0}. | Which {unit} follows {0}? | Tell me the {unit} after {0}.
""")
BEFORE = _ways("""
    Which {unit} comes before {0}? | What {unit} comes before {0}? |
    What is the {unit} before {0}? | Name the {unit} before {0}. | Which {unit} precedes {0}? |
    Tell me the {unit} before {0}.
""")
UNIT = _ways("""
    How many {many} are in {n} {one}? | How many {many} are there in {n} {one}? |
    How many {many} does {n} {one} have? | What is {n} {one} in {many}? | {n} {one} in {many}? |
    Tell me how many {many} are in {n} {one}.
""")
UNKNOWN = _ways("""
    Who invented the {w}? | How old is {name}? | What is the weather in {city}? |
    Who won the game in {city}? | How many people live in {city}? | What is the price of a {w}? |
    Where is {name} now? | What did {name} eat today? | When was {name} born? |
    Who is the mayor of {city}? | Write a program about a {w}. | What time is it in {city}?
""")

# (what is told, the reply, what is asked later, the answer), each with the thing told as {0}
MEMORIES: tuple[tuple[tuple[str, ...], str, tuple[str, ...], str], ...] = (
    (
        (
            "My name is {0}.",
            "I am {0}.",
            "I am called {0}.",
            "Hello, my name is {0}.",
            "Call me {0}.",
        ),
        "Nice to meet you, {0}.",
        (
            "What is my name?",
            "Who am I?",
            "Do you remember my name?",
            "Tell me my name.",
            "Say my name.",
        ),
        "Your name is {0}.",
    ),
    (
        ("My favourite colour is {0}.", "I like the colour {0}.", "The colour I like best is {0}."),
        "I will remember that you like {0}.",
        ("What is my favourite colour?", "Which colour do I like?", "Tell me my favourite colour."),
        "Your favourite colour is {0}.",
    ),
    (
        ("I have a {0}.", "My pet is a {0}.", "I keep a {0} at home."),
        "A {0} is a fine pet.",
        ("What pet do I have?", "Which animal is my pet?", "Tell me what pet I have."),
        "You have a {0}.",
    ),
    (
        ("I live in {0}.", "My home is in {0}.", "I come from {0}."),
        "{0} is a fine city.",
        ("Where do I live?", "Which city do I live in?", "Tell me where I live."),
        "You live in {0}.",
    ),
)
