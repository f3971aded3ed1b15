"""The built-in model's tokenizer, without its weights."""

from __future__ import annotations

from typing import Any

import pytest

from isthmus.models import BUILTIN_ROOT
from isthmus.models.load import load_tokenizer
from isthmus.text.tokenizer import TextTokenizer

VOCAB_SIZE = 768


@pytest.fixture(scope="session")
def wrapper() -> Any:
    """What mlx-lm loads."""
    return load_tokenizer(BUILTIN_ROOT / "chat", None)


@pytest.fixture(scope="session")
def tokenizer(wrapper: Any) -> TextTokenizer:
    """Ours around it."""
    return TextTokenizer(wrapper, VOCAB_SIZE)
