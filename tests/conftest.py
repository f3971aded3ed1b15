"""What several folders of tests share: the oracle's answers, computed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.models import BUILTIN_ROOT
from tests.fixtures.oracle import Answers, ask
from tests.fixtures.prompts import PROMPTS

BUILTIN_TOKENS = 16
TINY_TOKENS = 12


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the quantised Llama of random weights lies once `tiny_answers` has been asked for."""
    return tmp_path_factory.mktemp("tiny-llama")


@pytest.fixture(scope="session")
def builtin_answers() -> Answers:
    """What the built-in model says to PROMPTS."""
    return ask(BUILTIN_ROOT / "chat", PROMPTS, BUILTIN_TOKENS)


@pytest.fixture(scope="session")
def tiny_answers(tiny_folder: Path) -> Answers:
    """What the quantised Llama says to PROMPTS; writes it."""
    return ask(tiny_folder, PROMPTS, TINY_TOKENS, write=True)
