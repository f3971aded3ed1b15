"""Many calls become few frames with a real runtime, and every caller gets exactly its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from isthmus import host
from isthmus.errors import DeadlineExceeded, InvalidRequest, ModelNotLoaded
from isthmus.models import BUILTIN_ROOT
from isthmus.models.load import load_tokenizer
from isthmus.text.tokenizer import TextTokenizer
from tests.contract.conftest import PARTY
from tests.contract.waiting import settled
from tests.faults.small_models import write_chain

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = 1_000
FRAMES_LIMIT = CALLS // 20
WORDS = (
    "the ",
    " model",
    "naïve ",
    "日本語",
    "👩‍👩‍👧 ",
    "count",
    "ing\n",
    "\t42 ",
    "<|user|>",
    "x" * 90,
)
SOURCE = "".join(WORDS[number * number % 97 % len(WORDS)] for number in range(2_000))
TEXTS = [SOURCE[number : number + number * 7 % 301] for number in range(CALLS)]
MEGABYTE = "Once upon a time there was a fox. " * 30_000


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """The oracle: the built-in model's tokenizer in this process."""
    return TextTokenizer(load_tokenizer(BUILTIN_ROOT / "chat", None), 768)


class Frames:
    """Counts what one method sends and the runtime hears of it, from now on."""

    def __init__(self, runtime: host.Runtime, method: str) -> None:
        self._runtime = runtime
        self._method = method
        self._before = (0, 0, 0)

    async def __aenter__(self) -> Frames:
        self._before = await self._count()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""

    async def sent(self) -> tuple[int, int, int]:
        """Return frames and calls of this host, and the requests that the runtime counted."""
        frames, calls, heard = await self._count()
        return frames - self._before[0], calls - self._before[1], heard - self._before[2]

    async def _count(self) -> tuple[int, int, int]:
        stats = await self._runtime.stats()
        mine = [lane for label, lane in stats["calls"].items() if self._is_mine(label)]
        heard = [lane["calls"] for label, lane in stats["batches"].items() if self._is_mine(label)]
        return sum(lane["frames"] for lane in mine), sum(lane["calls"] for lane in mine), sum(heard)

    def _is_mine(self, label: str) -> bool:
        return label.split(" ")[0] == self._method


async def test_a_thousand_texts_at_once_are_few_frames_and_exactly_what_the_tokenizer_gives(
    runtime: host.Runtime, model: host.Model, tokenizer: TextTokenizer
) -> None:
    async with Frames(runtime, "tokenize") as frames:
        together = await asyncio.gather(*map(model.tokenize, TEXTS))
        assert together == [tokenizer.encode(text) for text in TEXTS]
        sent, calls, heard = await frames.sent()
    assert calls == CALLS and sent == heard <= FRAMES_LIMIT


async def test_a_thousand_counts_and_lists_of_ids_are_few_frames_too(
    runtime: host.Runtime, model: host.Model, tokenizer: TextTokenizer
) -> None:
    lists = [tokenizer.encode(text) for text in TEXTS]
    async with Frames(runtime, "count_tokens") as counts, Frames(runtime, "detokenize") as texts:
        counted, decoded = await asyncio.gather(
            asyncio.gather(*map(model.count_tokens, TEXTS)),
            asyncio.gather(*map(model.detokenize, lists)),
        )
        assert counted == [len(ids) for ids in lists]
        assert decoded == [tokenizer.decode(ids) for ids in lists]
        for frames in (counts, texts):
            sent, calls, _ = await frames.sent()
            assert calls == CALLS and sent <= FRAMES_LIMIT


async def test_callers_that_wait_for_each_answer_share_frames(
    runtime: host.Runtime, model: host.Model, tokenizer: TextTokenizer
) -> None:
    async def caller(number: int) -> None:
        for text in TEXTS[number::100]:
            assert await model.tokenize(text) == tokenizer.encode(text)

    async with Frames(runtime, "tokenize") as frames:
        await asyncio.gather(*map(caller, range(100)))
        sent, calls, _ = await frames.sent()
    assert calls == CALLS and sent <= FRAMES_LIMIT


async def test_options_are_not_mixed_up(
    runtime: host.Runtime, model: host.Model, tokenizer: TextTokenizer
) -> None:
    async def both(number: int, text: str) -> None:
        special, skip = number % 2 == 0, number % 3 == 0
        ids = tokenizer.encode(text, special)
        assert await model.tokenize(text, add_special_tokens=special) == ids
        shown = tokenizer.decode(ids, skip)
        assert await model.detokenize(ids, skip_special_tokens=skip) == shown
        assert await model.count_tokens(text, add_special_tokens=special) == len(ids)

    await asyncio.gather(*(both(number, text) for number, text in enumerate(TEXTS)))


async def test_offsets_and_tokens_are_the_tokenizer_s(
    model: host.Model, tokenizer: TextTokenizer
) -> None:
    encodings = await asyncio.gather(
        *(model.tokenize(text, offsets=True, tokens=True) for text in TEXTS[:300])
    )
    for encoding, pieces in zip(encodings, tokenizer.encode_pieces(TEXTS[:300]), strict=True):
        assert encoding == host.Encoding(pieces.ids, pieces.offsets, pieces.tokens)
    text = "naïve 👩‍👩‍👧 日本語"
    places = await model.tokenize(text, offsets=True)
    assert places.tokens is None and places.offsets is not None
    assert "".join(text[start:end] for start, end in dict.fromkeys(places.offsets)) == text
    mixed: list[Any] = [text, 7]
    listed = await model.tokenize_batch(mixed, tokens=True)
    assert isinstance(listed[0], host.Encoding) and listed[0].offsets is None
    assert isinstance(listed[1], InvalidRequest)


async def test_bad_items_and_cancels_in_the_middle_harm_nobody_else(
    runtime: host.Runtime, model: host.Model, tokenizer: TextTokenizer
) -> None:
    texts: list[Any] = [7 if number % 50 == 3 else text for number, text in enumerate(TEXTS)]
    tasks = [asyncio.ensure_future(model.tokenize(text)) for text in texts]
    for turn in range(4):
        await asyncio.sleep(0)
        for task in tasks[turn::20]:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for number, (text, result) in enumerate(zip(texts, results, strict=True)):
        if isinstance(result, asyncio.CancelledError):
            assert number % 20 < 4
        elif text == 7:
            assert isinstance(result, InvalidRequest) and result.details == {"field": "text"}
        else:
            assert result == tokenizer.encode(text)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) >= CALLS // 20
    await settled(runtime)


async def test_a_frame_whose_callers_have_all_gone_leaves_nothing_behind(
    runtime: host.Runtime, model: host.Model, tokenizer: TextTokenizer
) -> None:
    tasks = [asyncio.ensure_future(model.tokenize("x" * 30_000)) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await settled(runtime)
    assert await model.tokenize("still here") == tokenizer.encode("still here")


async def test_a_deadline_that_passes_ends_only_the_calls_that_have_it(
    model: host.Model, tokenizer: TextTokenizer
) -> None:
    hurried = [model.tokenize(MEGABYTE, deadline_ms=1.0) for _ in range(2)]
    patient = [model.tokenize(text, deadline_ms=600_000.0) for text in TEXTS[:100]]
    others = map(model.tokenize, TEXTS[:100])
    late, *rest = await asyncio.gather(
        asyncio.gather(*hurried, return_exceptions=True),
        asyncio.gather(*patient),
        asyncio.gather(*others),
    )
    assert all(isinstance(error, DeadlineExceeded) for error in late)
    assert rest == [[tokenizer.encode(text) for text in TEXTS[:100]]] * 2


async def test_a_model_that_is_unloaded_in_the_middle_is_missed_by_who_names_it_later_alone(
    runtime: host.Runtime, model: host.Model, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    gone = await runtime.load_model(str(write_chain(tmp_path / "gone", PARTY)))
    bytes_of = [list(text.encode()) for text in TEXTS[:200]]
    before = asyncio.gather(*map(gone.tokenize, TEXTS[:200]))
    others = asyncio.gather(*map(model.tokenize, TEXTS))
    unload = asyncio.ensure_future(gone.unload())
    assert await unload is True
    later = asyncio.gather(*map(gone.tokenize, TEXTS[:200]), return_exceptions=True)
    again = asyncio.gather(*map(model.tokenize, TEXTS))
    assert await before == bytes_of
    for error in await later:
        assert isinstance(error, ModelNotLoaded) and error.details == {"model": gone.info.model}
    assert len(set(map(id, await later))) == 200
    assert await others == await again == [tokenizer.encode(text) for text in TEXTS]


async def test_unload_waits_for_its_turn_behind_long_texts(
    runtime: host.Runtime, tmp_path: Path
) -> None:
    gone = await runtime.load_model(str(write_chain(tmp_path / "gone", PARTY)))
    before = asyncio.gather(*(gone.count_tokens("x" * 50_000) for _ in range(30)))
    assert (await asyncio.gather(before, gone.unload()))[0] == [50_000] * 30


async def test_a_megabyte_among_short_texts_is_right_and_so_are_they(
    model: host.Model, tokenizer: TextTokenizer
) -> None:
    texts = [*TEXTS[:500], MEGABYTE, *TEXTS[501:]]
    together = await asyncio.gather(*map(model.tokenize, texts))
    assert together == [tokenizer.encode(text) for text in texts]


async def test_without_multiplexing_every_call_is_a_frame_and_the_results_are_the_same(
    tokenizer: TextTokenizer,
) -> None:
    async with await host.start(multiplex=False) as runtime:
        model = await runtime.load_model()
        together = await asyncio.gather(*map(model.tokenize, TEXTS[:100]))
        assert together == [tokenizer.encode(text) for text in TEXTS[:100]]
        stats = await runtime.stats()
        label = f"tokenize {model.info.model}"
        assert stats["calls"] == {} and stats["batches"][label]["calls"] == 100


async def test_what_collects_when_the_host_closes_is_answered(tokenizer: TextTokenizer) -> None:
    runtime = await host.start()
    model = await runtime.load_model()
    calls = []
    for text in TEXTS[:50]:
        calls.append(asyncio.ensure_future(model.count_tokens(text)))
        await asyncio.sleep(0)
    await runtime.close()
    assert await asyncio.gather(*calls) == [len(tokenizer.encode(text)) for text in TEXTS[:50]]
