"""What every peer serves: echo, token ids, and the numbers of a stream."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer

_tokenizer = Tokenizer.from_file(os.environ["PEER_TOKENIZER"])


def echo(text: str) -> str:
    """Return the text."""
    return text


def tokenize(text: str) -> list[int]:
    """Return the token ids of one text."""
    return list(_tokenizer.encode(text).ids)


CALLS: dict[str, Callable[..., Any]] = {"echo": echo, "tokenize": tokenize}


def end_with_input() -> None:
    """End this process when standard input does: a program on a socket would not notice."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
