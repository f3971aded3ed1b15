"""Grammars in llguidance's Lark syntax: compiled with limits, and compared with whole texts.

A grammar that is malformed, too large or of no use is an `InvalidRequest` in llguidance's words.
Compiling may take a second, so it is done off the event loop.

Not known here: where a grammar comes from, masks, models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import InvalidRequest
from ..limits import GRAMMAR_SYMBOLS_LIMIT, LEXER_STATES_LIMIT

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_OPTIONS: Final = '\n%llguidance {"no_forcing": true}\n'
"""Every spelling of a text in tokens is allowed. By default only the tokenizer's own is, and then
whether a token is valid and whether the mask has it are two questions."""


def compile_source(tokenizer: LLTokenizer, source: str) -> LLMatcher:
    """Compile a grammar; return its matcher at the beginning of a text.

    Raises:
        InvalidRequest: It is malformed, too large, or contradicts itself.
    """
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(
        max_grammar_size=GRAMMAR_SYMBOLS_LIMIT,
        max_lexer_states=LEXER_STATES_LIMIT,
        verbose_errors=False,
    )
    matcher = LLMatcher(tokenizer, source + _OPTIONS, log_level=0, limits=limits)
    if matcher.is_error():
        raise refused(first_line(matcher.get_error()))
    return matcher


def matches(source: str, text: str) -> bool:
    """Whether the whole of a text matches a grammar that names no tokens."""
    from llguidance import LLTokenizer

    matcher = compile_source(LLTokenizer("byte"), source)
    content = list(text.encode())
    return matcher.try_consume_tokens(content) == len(content) and matcher.is_accepting()


def names_tokens(source: str) -> bool:
    """Whether a grammar speaks of tokens, which no text can be compared with."""
    from llguidance import LLMatcher

    is_error, warnings = LLMatcher.validate_grammar_with_warnings(source)
    return not is_error and any("no tokenizer" in warning for warning in warnings)


def lark_regex(pattern: str) -> str:
    r"""Return a pattern as a Lark regex between slashes; `\d` and `\w` are ASCII."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, 'dw')}/"


def first_line(message: str) -> str:
    """Return what an error of llguidance's says, without where it is in text that we made."""
    first, *more = message.strip().split("\n")
    details = [line for line in more if line.startswith("error: ")] if first.endswith(":") else []
    return " ".join([first.rpartition("failed to compile JSON schema: ")[2], *details])


def refused(reason: str) -> InvalidRequest:
    """Return the error of a format that cannot be used."""
    return InvalidRequest(f"`response_format` cannot be used: {reason}", field="response_format")
