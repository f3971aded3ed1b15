"""Who runs next: one unit of work a step, shared fairly, and each failure alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.engine.job import NEXT_PHASES, Job, Phase
from isthmus.engine.scheduler import Errand, Scheduler
from isthmus.errors import EngineDead, InternalError, NumericError
from isthmus.limits import PREFILL_WEIGHT, PROMPT_AGE_TOKENS_PER_S, RUNNING_LIMIT
from tests.python.engine.fakes import FakeDecoder, FakeErrand, listener_of, make_job


class Bench:
    """A scheduler whose posts happen at once, and whose clock counts what steps cost."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = 0.0
        self.costs: dict[str, float] = {}
        self.closed: list[tuple[Any, bool]] = []
        self.decoders: dict[str, FakeDecoder] = {}
        self.scheduler = Scheduler(lambda call, arguments: call(*arguments), self.clock)

    def clock(self) -> float:
        """Return one second for each step that was done, or what it is said to cost."""
        return sum(self.costs.get(entry.split(":")[0], 1.0) for entry in self.log) + self.now

    def add(self, name: str, **options: Any) -> Job:
        """Queue a job; those of a model share a decoder."""
        model, script = options.get("model", "model"), options.get("script") or {}
        decoder = self.decoders.setdefault(model, FakeDecoder(self.closed, script))
        job = make_job(name, self.log, decoder=decoder, **options)
        self.scheduler.add(job)
        return job

    def step(self, count: int = 1) -> None:
        """Do steps."""
        for _ in range(count):
            self.now += 1.0
            self.scheduler.step()

    def run(self, limit: int = 2_000) -> None:
        """Step until there is nothing to do."""
        while self.scheduler.has_work:
            assert (limit := limit - 1) > 0, "the scheduler does not come to rest"
            self.step()

    def names(self) -> list[str]:
        """Return whose steps were done, in order."""
        return [entry.split(":")[0] for entry in self.log]


@pytest.fixture
def bench() -> Bench:
    """An idle scheduler."""
    return Bench()


def test_a_job_goes_from_its_prompt_to_its_end(bench: Bench) -> None:
    job = bench.add("a", chunks=2, max_tokens=3)
    bench.run()
    assert bench.log == ["a:p0", "a:p1", "a:d0", "a:d1", "a:d2"]
    heard = listener_of(job)
    assert (heard.ids, heard.text) == ([0, 1, 2], "abc")
    (outcome,) = heard.outcomes
    assert (outcome.finish_reason, outcome.stop) == ("length", None)
    assert outcome.report == {"name": "a", "is_complete": None}
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (2, 3)
    assert 0 < outcome.started_at < outcome.first_token_at < outcome.ended_at
    assert job.steps is None and not bench.scheduler.jobs


def test_between_two_chunks_of_a_prompt_its_listener_hears_how_far_it_is(bench: Bench) -> None:
    job = bench.add("a", chunks=3, max_tokens=1)
    bench.run()
    assert listener_of(job).prefilled == [(1, 3), (2, 3)]


def test_a_starved_job_does_not_run_and_stops_nobody(bench: Bench) -> None:
    starved, other = bench.add("s", granted=2, max_tokens=9), bench.add("o", max_tokens=5)
    bench.run()
    assert listener_of(starved).ids == [0, 1] and not listener_of(starved).has_ended
    assert listener_of(other).has_ended
    assert not bench.scheduler.has_work
    starved.granted += 3
    assert bench.scheduler.has_work
    bench.run()
    assert listener_of(starved).ids == [0, 1, 2, 3, 4]


def test_a_job_without_credit_is_still_prefilled(bench: Bench) -> None:
    job = bench.add("a", granted=0, chunks=3)
    bench.run()
    assert bench.log == ["a:p0", "a:p1", "a:p2"] and job.phase is Phase.DECODE


@pytest.mark.parametrize("steps", [0, 1, 3, 5], ids=["queue", "prefill", "late prefill", "decode"])
def test_a_cancelled_job_is_dropped_at_the_next_step_and_hears_nothing(
    bench: Bench, steps: int
) -> None:
    job, other = bench.add("a", chunks=4, max_tokens=50), bench.add("b", max_tokens=3)
    bench.step(steps)
    heard, done = list(listener_of(job).ids), len([e for e in bench.log if e[0] == "a"])
    job.is_cancelled = True
    assert bench.scheduler.has_work
    bench.run()
    assert len([entry for entry in bench.log if entry[0] == "a"]) == done
    assert listener_of(job).ids == heard and not listener_of(job).has_ended
    assert listener_of(other).has_ended
    assert (job.phase, job.steps) == (Phase.DONE, None)


def test_a_cancelled_job_that_is_starved_gives_its_place_up(bench: Bench) -> None:
    job = bench.add("a", granted=0)
    bench.run()
    job.is_cancelled = True
    bench.run()
    assert not bench.scheduler.jobs


@pytest.mark.parametrize("at", ["open", "p0", "p1", "d0", "d2"])
@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), NumericError("nan", phase="decode")], ids=["any", "typed"]
)
def test_a_failing_job_fails_alone(bench: Bench, at: str, error: Exception) -> None:
    bad = bench.add("bad", chunks=2, max_tokens=9, script={at: error})
    good = bench.add("good", chunks=2, max_tokens=9)
    bench.run()
    (heard,) = listener_of(bad).errors
    if isinstance(error, NumericError):
        assert heard is error
    else:
        assert isinstance(heard, InternalError) and "boom" in heard.message
        assert heard.phase == ("decode" if at[0] == "d" else "prefill")
        assert heard.details["completion_tokens"] == (2 if at == "d2" else 0)
    assert listener_of(good).ids == list(range(9)) and listener_of(good).has_ended
    assert bad.phase is Phase.DONE and bad.steps is None


def test_more_jobs_than_may_run_wait_without_model_work(bench: Bench) -> None:
    jobs = [bench.add(str(number), max_tokens=2) for number in range(RUNNING_LIMIT + 3)]
    bench.step()
    assert sum(job.steps is not None for job in jobs) == RUNNING_LIMIT
    assert [job.phase for job in jobs[RUNNING_LIMIT:]] == [Phase.QUEUE] * 3
    bench.run()
    assert all(listener_of(job).has_ended for job in jobs)


def test_a_cancelled_job_in_the_queue_is_never_opened(bench: Bench) -> None:
    for number in range(RUNNING_LIMIT):
        bench.add(str(number), granted=0)
    waiting = bench.add("w")
    bench.run()
    waiting.is_cancelled = True
    bench.scheduler.jobs[0].is_cancelled = True
    bench.run()
    assert not [entry for entry in bench.log if entry.startswith("w")]
    assert waiting.phase is Phase.DONE


def test_when_the_engine_goes_every_job_hears_of_it_once(bench: Bench) -> None:
    jobs = [bench.add(str(number), granted=1) for number in range(RUNNING_LIMIT + 2)]
    bench.step(3)
    ended = [job for job in jobs if listener_of(job).has_ended]
    bench.scheduler.fail_all(EngineDead("gone"))
    bench.scheduler.fail_all(EngineDead("gone"))
    for job in jobs:
        assert listener_of(job).has_ended and (job in ended or listener_of(job).errors)
    assert not bench.scheduler.jobs and not bench.scheduler.has_work


def test_an_end_token_ends_it_and_is_not_emitted(bench: Bench) -> None:
    job = bench.add("a", max_tokens=9, end_tokens=frozenset({2}))
    bench.run()
    (outcome,) = listener_of(job).outcomes
    assert (listener_of(job).ids, outcome.finish_reason, outcome.stop) == ([0, 1], "stop", 2)
    assert outcome.completion_tokens == 2


def test_a_stop_string_ends_the_text_before_it_and_its_tokens_are_counted(bench: Bench) -> None:
    job = bench.add("a", max_tokens=9, stops=("cd",))
    bench.run()
    (outcome,) = listener_of(job).outcomes
    assert (listener_of(job).text, outcome.finish_reason, outcome.stop) == ("ab", "stop", "cd")
    assert listener_of(job).ids == [0, 1, 2, 3] and outcome.completion_tokens == 4


def test_text_that_began_a_stop_string_comes_out_at_the_end(bench: Bench) -> None:
    job = bench.add("a", max_tokens=3, stops=("cd",))
    bench.run()
    assert (listener_of(job).text, listener_of(job).outcomes[0].finish_reason) == ("abc", "length")


def test_each_token_is_described_when_it_is_asked_for(bench: Bench) -> None:
    job = bench.add("a", max_tokens=3, has_logprobs=True)
    bench.run()
    assert listener_of(job).logprobs == [{"id": 0}, {"id": 1}, {"id": 2}]


def test_a_job_changes_its_phase_only_as_the_table_says(bench: Bench) -> None:
    for phase in Phase:
        for following in Phase:
            job = make_job("a", bench.log)
            job.phase = phase
            change: Callable[[Phase], None] = job.enter
            if following in NEXT_PHASES[phase]:
                change(following)
                assert job.phase is following
            else:
                with pytest.raises(ValueError):
                    change(following)


def errand(bench: Bench, name: str, steps: int, **options: Any) -> tuple[list[Any], list[bool]]:
    """Queue an errand; return what its end says, and a flag that says whether it is wanted."""
    ends: list[Any] = []
    wanted = [True]
    work = FakeErrand(name, bench.log, steps, **options)
    bench.scheduler.add_errand(Errand(work, lambda: wanted[0], ends.append))
    return ends, wanted


def test_a_step_is_one_unit_of_work(bench: Bench) -> None:
    for name in "abc":
        bench.add(name, chunks=2, max_tokens=2)
    bench.add("m", model="other")
    while bench.scheduler.has_work:
        before = len(bench.log)
        bench.step()
        assert len(bench.log) - before <= 1


def test_the_shortest_prompt_goes_first_and_waiting_makes_shorter(bench: Bench) -> None:
    bench.add("long", chunks=9, max_tokens=1)
    bench.add("short", chunks=2, max_tokens=1)
    bench.step(2)
    assert bench.log == ["short:p0", "short:p1"]
    old, new = Bench(), Bench()
    for waited_s, on in ((0.0, new), (10 / PROMPT_AGE_TOKENS_PER_S, old)):
        on.add("old", chunks=9)
        on.now += waited_s
        on.add("new", chunks=1)
        on.scheduler.step()
    assert (new.log, old.log) == (["new:p0"], ["old:p0"])


def test_a_higher_priority_goes_first_in_the_queue_and_in_prefill(bench: Bench) -> None:
    bench.add("a", chunks=1)
    bench.add("b", chunks=5, priority=3)
    bench.step()
    assert bench.log == ["b:p0"]
    crowd = Bench()
    for number in range(RUNNING_LIMIT + 1):
        crowd.add(f"n{number}", max_tokens=1)
    crowd.add("urgent", max_tokens=1, priority=1)
    crowd.step()
    assert crowd.log == ["urgent:p0"]


def test_a_place_goes_to_the_model_that_runs_the_fewest(bench: Bench) -> None:
    for number in range(RUNNING_LIMIT * 2):
        bench.add(f"a{number}", model="a")
    rare = bench.add("b", model="b")
    bench.scheduler.step()
    assert rare.steps is not None
    assert sum(job.steps is not None for job in bench.scheduler.jobs) == RUNNING_LIMIT


def test_a_short_prompt_has_more_time_than_the_tokens_of_others(bench: Bench) -> None:
    bench.add("fast", max_tokens=500)
    bench.step(2)
    bench.add("long", chunks=200)
    bench.log.clear()
    bench.step(100)
    counted = Counter(bench.names())
    assert counted["long"] == pytest.approx(
        PREFILL_WEIGHT * counted["fast"], abs=2 * PREFILL_WEIGHT
    )


def test_a_very_long_prompt_has_as_much_time_as_the_tokens_of_others(bench: Bench) -> None:
    bench.add("fast", max_tokens=500)
    bench.step(2)
    bench.add("long", chunks=4_000)
    bench.log.clear()
    bench.step(100)
    assert abs(bench.names().count("fast") - 50) <= 1


def test_chunks_are_short_only_while_others_wait_for_tokens(bench: Bench) -> None:
    bench.add("a", chunks=2, max_tokens=9)
    bench.step(2)
    bench.add("b", chunks=2, max_tokens=9)
    bench.run()
    assert bench.decoders["model"].busy == [False, False, True, True]
    assert bench.decoders["model"].took_tokens == 4


def test_all_that_decode_get_as_many_tokens(bench: Bench) -> None:
    for name in "abcd":
        bench.add(name, max_tokens=50)
    bench.step(8)
    bench.log.clear()
    bench.step(40)
    assert set(Counter(bench.names()).values()) == {10}


def test_a_slow_model_does_not_slow_down_a_fast_one(bench: Bench) -> None:
    bench.costs = {"slow": 100.0}
    bench.add("slow", model="slow", max_tokens=500)
    bench.add("fast", model="fast", max_tokens=500)
    bench.step(4)
    bench.log.clear()
    bench.step(303)
    counted = Counter(bench.names())
    assert counted["fast"] == pytest.approx(100 * counted["slow"], abs=101)


def test_a_model_that_was_idle_saved_up_no_time(bench: Bench) -> None:
    bench.add("a", model="a", max_tokens=500)
    bench.step(200)
    bench.add("b", model="b", max_tokens=500)
    bench.step(2)
    bench.log.clear()
    bench.step(20)
    assert Counter(bench.names()) == {"a": 10, "b": 10}


def test_tokens_that_come_at_once_stay_within_the_credit(bench: Bench) -> None:
    job = bench.add("a", burst=4, granted=6, max_tokens=100)
    bench.run()
    assert listener_of(job).ids == [0, 1, 2, 3, 4, 5] and not listener_of(job).has_ended


def test_of_tokens_that_come_at_once_those_behind_the_end_are_dropped(bench: Bench) -> None:
    job = bench.add("a", burst=4, max_tokens=9, end_tokens=frozenset({2}))
    other = bench.add("b", burst=4, max_tokens=3)
    bench.run()
    assert listener_of(job).ids == [0, 1] and listener_of(job).has_ended
    assert listener_of(other).ids == [0, 1, 2] and listener_of(other).has_ended


def test_what_nothing_may_follow_ends_without_another_step(bench: Bench) -> None:
    job = bench.add("a", max_tokens=9, finishes_at=2)
    bench.run()
    (outcome,) = listener_of(job).outcomes
    assert (outcome.finish_reason, outcome.stop, listener_of(job).ids) == ("stop", None, [0, 1])
    assert bench.log[-1] == "a:d1"


def test_every_end_closes_the_model_work_and_tells_whether_it_is_sound(bench: Bench) -> None:
    good, bad = bench.add("good"), bench.add("bad", script={"d1": RuntimeError("boom")})
    left = bench.add("left", chunks=5)
    bench.step()
    steps = [job.steps for job in (good, bad, left)]
    left.is_cancelled = True
    bench.run()
    assert dict(bench.closed) == {steps[0]: True, steps[1]: False, steps[2]: True}


@pytest.mark.parametrize("at", ["prefill", "decode"])
def test_when_a_decoder_fails_as_a_whole_its_jobs_fail_and_the_others_go_on(
    bench: Bench, at: str
) -> None:
    script: dict[str, Exception] = {at: RuntimeError("boom")}
    bad = [bench.add(name, model="bad", script=script) for name in "ab"]
    good = bench.add("good", model="good")
    bench.run()
    assert all("boom" in listener_of(job).errors[0].message for job in bad)
    assert listener_of(good).outcomes


def test_a_job_whose_text_cannot_be_made_fails_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = bench.add("bad", max_tokens=5), bench.add("good", max_tokens=5)
    bench.step()
    monkeypatch.setattr(bad.text, "add", lambda token: 1 / 0)
    bench.run()
    assert "ZeroDivisionError" in listener_of(bad).errors[0].message
    assert listener_of(good).ids == [0, 1, 2, 3, 4]


def test_how_long_jobs_run_is_known(bench: Bench) -> None:
    assert bench.scheduler.service_s == 0.0
    bench.add("a")
    bench.run()
    assert bench.scheduler.service_s > 0.0


def test_an_errand_shares_the_time_with_the_tokens_of_others(bench: Bench) -> None:
    bench.add("a", max_tokens=20)
    bench.step(2)
    bench.log.clear()
    ends, _ = errand(bench, "e", 3)
    bench.step(7)
    assert Counter(bench.names()) == {"a": 4, "e": 3}
    assert ends == [None]


def test_errands_have_their_turns_in_their_order(bench: Bench) -> None:
    first, second = errand(bench, "e", 2)[0], errand(bench, "f", 2)[0]
    bench.step(2)
    assert (first, second) == ([None], [])
    bench.run()
    assert bench.log == ["e:s0", "e:s1", "f:s0", "f:s1"] and second == [None]


def test_an_errand_that_nobody_waits_for_is_dropped_before_its_next_step(bench: Bench) -> None:
    (first, wanted), (second, _) = errand(bench, "e", 9), errand(bench, "f", 1)
    bench.step(2)
    wanted[0] = False
    assert bench.scheduler.has_work
    bench.run()
    assert bench.log == ["e:s0", "e:s1", "f:s0"] and (first, second) == ([], [None])


def test_an_errand_fails_alone(bench: Bench) -> None:
    failure = RuntimeError("boom")
    job = bench.add("a", max_tokens=5)
    first, second = errand(bench, "e", 9, script={1: failure})[0], errand(bench, "f", 2)[0]
    bench.run()
    assert (first, second) == ([failure], [None]) and listener_of(job).ids == [0, 1, 2, 3, 4]


def test_when_the_engine_goes_every_errand_hears_of_it_once(bench: Bench) -> None:
    gone = EngineDead("gone")
    ends = [errand(bench, name, 5)[0] for name in "ef"]
    bench.step()
    bench.scheduler.fail_all(gone)
    bench.scheduler.fail_all(gone)
    assert ends == [[gone], [gone]] and not bench.scheduler.has_work


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 4), st.integers(1, 4), st.integers(0, 5)),
        st.tuples(st.sampled_from(["cancel", "grant"]), st.integers(0, 9)),
        st.just("step"),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, database=None)
@given(EVENTS)
def test_in_any_order_of_events_every_job_ends_once_and_within_its_credit(
    events: list[Any],
) -> None:
    bench, jobs = Bench(), []
    for event in events:
        if event == "step":
            bench.step()
        elif event[0] == "add":
            _, chunks, tokens, granted = event
            jobs.append(bench.add("j", chunks=chunks, max_tokens=tokens, granted=granted))
        elif jobs and event[0] == "cancel":
            jobs[event[1] % len(jobs)].is_cancelled = True
        elif jobs:
            jobs[event[1] % len(jobs)].granted += 1
        assert all(len(listener_of(job).ids) <= job.granted for job in jobs)
    for job in jobs:
        job.granted = 1_000
    bench.run()
    assert all(job.phase is Phase.DONE for job in jobs)
    for job in jobs:
        assert listener_of(job).has_ended or job.is_cancelled
        if listener_of(job).has_ended:
            assert listener_of(job).ids == list(range(job.max_tokens))
