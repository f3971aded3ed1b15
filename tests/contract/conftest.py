"""One runtime for all contract tests that leave it whole, and the models in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from isthmus import host
from tests.faults.small_models import write_chain
from tests.fixtures.oracle import CHUNK_TOKENS, Answers

PARTY = {0xF0: 0x9F, 0x9F: 0x8E, 0x8E: 0x89, 0x89: 0xF0}
"""Which byte follows which: the four bytes of U+1F389, over and over."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def runtime() -> AsyncIterator[host.Runtime]:
    """The shared runtime."""
    options = ["--prefill-chunk-tokens", str(CHUNK_TOKENS)]
    async with await host.start(runtime_args=options) as started:
        yield started
        assert started.in_flight == 0
        assert (await started.ping())["in_flight"] == 0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model(runtime: host.Runtime) -> host.Model:
    """The built-in model."""
    return await runtime.load_model()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tiny(runtime: host.Runtime, tiny_folder: Path, tiny_answers: Answers) -> host.Model:
    """The quantised Llama of random weights; `tiny_answers` has written it."""
    return await runtime.load_model(str(tiny_folder))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def party(runtime: host.Runtime, tmp_path_factory: pytest.TempPathFactory) -> host.Model:
    """A model of byte tokens that repeats the bytes of one emoji; token n is byte n."""
    folder = write_chain(tmp_path_factory.mktemp("models") / "party", PARTY)
    return await runtime.load_model(str(folder))
