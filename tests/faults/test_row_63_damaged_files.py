"""Row 63: files of kept conversations that are damaged, cut short, swapped, or gone."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from isthmus import host
from tests.faults.conversations import (
    CHUNK_TOKENS,
    chunks,
    counted,
    flip,
    keeping,
    leftovers,
    on_disk,
    places,
    prompt,
    records,
    said,
    uncached,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

REGIONS = ("length", "checksum", "header", "padding", "tokens", "keys", "values", "last byte")


@dataclass(frozen=True, slots=True)
class Keeper:
    """A runtime that keeps sessions, its model and its folder."""

    runtime: host.Runtime
    model: host.Model
    path: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keeper(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keeper]:
    """What the tests share whose damage is to the files of their own sessions."""
    path = tmp_path_factory.mktemp("sessions")
    async with keeping(path) as runtime:
        yield Keeper(runtime, await runtime.load_model(), path)
        assert leftovers(path) == []


def cut_short(file: Path) -> None:
    """Take the last byte away."""
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    """Take everything away."""
    file.write_bytes(b"")


def lengthen(file: Path) -> None:
    """Add a byte."""
    file.write_bytes(file.read_bytes() + b"\0")


def swap(file: Path) -> None:
    """Put a sound file in its place that holds other tokens."""
    other = next(each for each in chunks(file.parents[2]) if each != file)
    file.write_bytes(other.read_bytes())


def make_a_folder(file: Path) -> None:
    """Put a folder in its place."""
    file.unlink()
    file.mkdir()


async def harmed(keeper: Keeper, number: int, which: int, harm: Callable[[Path], object]) -> None:
    """Harm one file of a conversation on disk: the files before it are used, and the answer is
    right; afterwards it is whole again."""
    ids = prompt(number)
    before = set(chunks(keeper.path))
    session = await keeper.runtime.sessions.open(f"s{number}", model=keeper.model)
    first = await on_disk(session, ids)
    failures = await counted(keeper.runtime, "restore_failures")
    harm([file for file in chunks(keeper.path) if file not in before][which])
    answer = await said(session, ids)
    assert answer.ids == first.ids == await uncached(keeper.model, ids)
    expected = which * CHUNK_TOKENS
    assert (answer.state, answer.reused) == ("warm" if expected else "cold", expected)
    assert await counted(keeper.runtime, "restore_failures") == failures + 1
    assert (await session.save()).saved and (await session.evict()).evicted
    again = await said(session, ids)
    assert (again.ids, again.state, again.reused) == (first.ids, "warm", len(ids) - 1)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("region", REGIONS)
async def test_a_bit_that_flipped_is_found_wherever_it_is(
    keeper: Keeper, region: str, which: int
) -> None:
    corrupt = await counted(keeper.runtime, "corrupt_files")
    number = 1_000 + 10 * REGIONS.index(region) + which
    await harmed(keeper, number, which, lambda file: flip(file, places(file)[region]))
    assert await counted(keeper.runtime, "corrupt_files") == corrupt + 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("harm", [cut_short, empty, lengthen, swap])
async def test_a_file_that_is_not_what_its_name_says_is_put_aside(
    keeper: Keeper, harm: Callable[[Path], None], which: int
) -> None:
    corrupt = await counted(keeper.runtime, "corrupt_files")
    number = 2_000 + 10 * len(harm.__name__) + which
    await harmed(keeper, number, which, harm)
    assert await counted(keeper.runtime, "corrupt_files") == corrupt + 1


@pytest.mark.parametrize("which", [0, 1])
async def test_a_file_that_is_gone_is_as_if_it_had_never_been(keeper: Keeper, which: int) -> None:
    corrupt = await counted(keeper.runtime, "corrupt_files")
    await harmed(keeper, 3_000 + which, which, Path.unlink)
    assert await counted(keeper.runtime, "corrupt_files") == corrupt


async def test_a_folder_in_the_place_of_a_file_is_put_aside_like_one(tmp_path: Path) -> None:
    async with keeping(tmp_path) as runtime:
        keeper = Keeper(runtime, await runtime.load_model(), tmp_path)
        await harmed(keeper, 1, 1, make_a_folder)


async def test_no_link_is_followed(keeper: Keeper, tmp_path: Path) -> None:
    def link(file: Path) -> None:
        shutil.move(file, tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")

    await harmed(keeper, 4_000, 1, link)


async def test_damaged_files_are_kept_for_who_wonders_but_not_without_end(keeper: Keeper) -> None:
    aside = list((keeper.path / "v1" / "damaged").iterdir())
    assert 0 < len(aside) <= 16


RECORDS: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda raw: raw[:40] + bytes([raw[40] ^ 4]) + raw[41:],
    "a flipped bit of its checksum": lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
    "cut short": lambda raw: raw[:-20],
    "empty": lambda raw: b"",
    "no record": lambda raw: b"\xff" * 300,
}


@pytest.mark.parametrize("name", RECORDS)
async def test_a_damaged_record_loses_the_name_and_not_the_answer(
    tmp_path: Path, name: str
) -> None:
    ids = prompt(1)
    async with keeping(tmp_path) as runtime:
        session = await runtime.sessions.open("a", model=await runtime.load_model())
        first = await on_disk(session, ids)
    (record,) = records(tmp_path)
    record.write_bytes(RECORDS[name](record.read_bytes()))
    async with keeping(tmp_path) as runtime:
        model = await runtime.load_model()
        assert await runtime.sessions.list() == []
        assert await counted(runtime, "corrupt_files") == 1
        session = await runtime.sessions.open("a", model=model)
        assert (session.info.state, session.info.tokens) == ("cold", 0)
        # What it had said is found by its tokens.
        answer = await said(session, ids)
        assert (answer.ids, answer.state, answer.reused) == (first.ids, "warm", len(ids) - 1)
        assert answer.ids == await uncached(model, ids)


async def test_records_that_changed_places_are_nobody_s(tmp_path: Path) -> None:
    async with keeping(tmp_path) as runtime:
        model = await runtime.load_model()
        for number in (1, 2):
            session = await runtime.sessions.open(f"s{number}", model=model)
            await on_disk(session, prompt(number))
    first, second = records(tmp_path)
    second.write_bytes(first.read_bytes())
    async with keeping(tmp_path) as runtime:
        model = await runtime.load_model()
        assert len(await runtime.sessions.list()) == 1
        assert await counted(runtime, "corrupt_files") == 1
        for number in (1, 2):
            session = await runtime.sessions.open(f"s{number}", model=model)
            assert (await said(session, prompt(number))).ids == await uncached(
                model, prompt(number)
            )
