"""The worker reads before it manages before it saves, and everybody hears how it went."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Generator

import pytest

from isthmus.sessions.worker import SAVES_LIMIT, Urgency, Worker

WITHIN_S = 10.0


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker(asyncio.get_running_loop())
    made.start()
    yield made
    assert made.stop(WITHIN_S)


class Gate:
    """Keeps the worker busy until it is opened."""

    def __init__(self, worker: Worker) -> None:
        self._opened = threading.Event()
        self._entered = threading.Event()
        self.done = worker.submit(Urgency.RESTORE, self._wait)
        assert self._entered.wait(WITHIN_S)

    def _wait(self) -> None:
        self._entered.set()
        assert self._opened.wait(WITHIN_S)

    def open(self) -> None:
        self._opened.set()


async def test_results_and_errors_arrive_on_the_loop(worker: Worker) -> None:
    def fails() -> None:
        raise OSError("no disk")

    assert await worker.submit(Urgency.MANAGE, threading.get_ident) != threading.get_ident()
    with pytest.raises(OSError, match="no disk"):
        await worker.submit(Urgency.MANAGE, fails)
    assert await worker.submit(Urgency.MANAGE, lambda: 3) == 3


async def test_a_generators_result_and_error_arrive_too(worker: Worker) -> None:
    def counts() -> Generator[None, None, int]:
        yield
        yield
        return 3

    def fails() -> Generator[None, None, int]:
        yield
        raise ValueError("halfway")

    assert await worker.submit(Urgency.SAVE, counts()) == 3
    with pytest.raises(ValueError, match="halfway"):
        await worker.submit(Urgency.SAVE, fails())
    assert worker.has_room


async def test_what_is_urgent_goes_first_and_in_order_otherwise(worker: Worker) -> None:
    gate, order = Gate(worker), []
    work = [(Urgency.SAVE, 1), (Urgency.MANAGE, 2), (Urgency.RESTORE, 3)] * 2
    waiting = [
        worker.submit(urgency, lambda name=(urgency, number, place): order.append(name))
        for place, (urgency, number) in enumerate(work)
    ]
    gate.open()
    await asyncio.wait_for(asyncio.gather(gate.done, *waiting), WITHIN_S)
    assert order == sorted(order) and len(order) == 6


async def test_a_save_lets_what_is_urgent_go_between_two_files_but_no_other_save(
    worker: Worker,
) -> None:
    order: list[str] = []
    waiting: list[asyncio.Future[None]] = []
    reached, going_on = threading.Event(), threading.Event()

    def saves(name: str) -> Generator[None, None, None]:
        for step in range(3):
            order.append(f"{name}{step}")
            if (name, step) == ("a", 1):
                reached.set()
                assert going_on.wait(WITHIN_S)
            yield

    saving = [worker.submit(Urgency.SAVE, saves(name)) for name in "ab"]
    assert reached.wait(WITHIN_S)
    waiting = [worker.submit(Urgency.RESTORE, lambda: order.append("read"))]
    waiting.append(worker.submit(Urgency.MANAGE, lambda: order.append("manage")))
    going_on.set()
    await asyncio.wait_for(asyncio.gather(*saving, *waiting), WITHIN_S)
    assert order == ["a0", "a1", "read", "manage", "a2", "b0", "b1", "b2"]


async def test_saves_are_bounded_and_there_is_room_again_once_one_has_ended(
    worker: Worker,
) -> None:
    gate = Gate(worker)
    waiting = []
    while worker.has_room:
        waiting.append(worker.submit(Urgency.SAVE, lambda: None))
    assert len(waiting) == SAVES_LIMIT
    gate.open()
    await asyncio.wait_for(asyncio.gather(*waiting), WITHIN_S)
    assert worker.has_room


async def test_who_has_stopped_waiting_is_not_told_and_the_work_is_done(worker: Worker) -> None:
    gate, done = Gate(worker), threading.Event()
    waiting = worker.submit(Urgency.SAVE, done.set)
    waiting.cancel()
    gate.open()
    await asyncio.wait_for(worker.submit(Urgency.SAVE, lambda: None), WITHIN_S)
    assert done.is_set() and waiting.cancelled()


async def test_stopping_finishes_what_waits() -> None:
    worker = Worker(asyncio.get_running_loop())
    worker.start()
    gate, done = Gate(worker), []

    def saves(name: int) -> Generator[None, None, int]:
        yield
        done.append(name)
        return name

    waiting = [worker.submit(Urgency.SAVE, saves(number)) for number in range(5)]
    gate.open()
    assert worker.stop(WITHIN_S)
    assert done == [0, 1, 2, 3, 4]
    assert await asyncio.wait_for(asyncio.gather(*waiting), WITHIN_S) == done


async def test_stopping_gives_up_on_work_that_takes_too_long() -> None:
    worker = Worker(asyncio.get_running_loop())
    worker.start()
    gate = Gate(worker)
    assert not worker.stop(0)
    gate.open()
    assert worker.stop(WITHIN_S)


async def test_what_comes_after_the_end_is_cancelled_and_nobody_waits_for_it() -> None:
    worker = Worker(asyncio.get_running_loop())
    worker.start()
    assert worker.stop(WITHIN_S)
    for urgency in Urgency:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(worker.submit(urgency, lambda: 3), WITHIN_S)


async def test_a_worker_that_never_began_can_be_stopped() -> None:
    assert Worker(asyncio.get_running_loop()).stop(WITHIN_S)


def test_a_loop_that_is_closed_does_not_hang_the_thread() -> None:
    loop = asyncio.new_event_loop()
    worker = Worker(loop)
    worker.start()

    async def enter() -> Gate:
        return Gate(worker)

    gate, done = loop.run_until_complete(enter()), threading.Event()

    async def submit() -> None:
        worker.submit(Urgency.SAVE, lambda: None)
        worker.submit(Urgency.SAVE, done.set)

    loop.run_until_complete(submit())
    loop.close()
    gate.open()
    assert worker.stop(WITHIN_S)
    assert done.is_set()
