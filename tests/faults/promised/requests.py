"""What may slow or stop a request: rows 32 to 43, and 53."""

from __future__ import annotations

from .promise import NODE, PYTHON_HOST, RUNTIME, SUPERVISION, Promise, Section

REQUESTS = Section(
    "Silence, slowness, cancels and queues",
    (
        Promise(
            32,
            (NODE, PYTHON_HOST),
            "the runtime runs but answers nothing",
            "While something is asked of it, 10 seconds of silence (an option) end it, and it is "
            "started again. What was pending settles with `RUNTIME_UNRESPONSIVE`, or is sent again "
            "where that is allowed.",
            elsewhere=(f"{SUPERVISION}::test_a_blocked_loop_is_found_and_who_waits_is_told",),
        ),
        Promise(
            33,
            (RUNTIME, NODE, PYTHON_HOST),
            "the engine thread is dead or stuck while the rest lives",
            "Health tells it: the engine's state, and how long it has made no progress. A dead "
            "engine refuses at once with `ENGINE_DEAD`; what needs no engine goes on. The host "
            "ends such a runtime and starts it again.",
            elsewhere=(
                f"{SUPERVISION}::test_a_dead_engine_is_found_and_who_had_no_token_need_not_know",
            ),
        ),
        Promise(
            34,
            (RUNTIME,),
            "a prompt that takes long, but goes on",
            "It is not taken for a hang: every chunk counts as progress and is reported. Others "
            "are served in between, and a cancel is heard at the next chunk.",
        ),
        Promise(
            35,
            (NODE, PYTHON_HOST),
            "the host itself was blocked",
            "When it goes on, it does not end a runtime that it had no time to hear: silence is "
            "counted from then.",
            elsewhere=(f"{SUPERVISION}::test_a_host_that_was_blocked_does_not_kill_its_runtime",),
        ),
        Promise(
            36,
            (RUNTIME, NODE),
            "a stream's reader is slow or stops",
            "It holds its own stream back and no other, and memory stays flat at both ends.",
        ),
        Promise(
            37,
            (RUNTIME, NODE),
            "a stream is left: `break`, a throw, `return`, the garbage collector",
            "One cancel is sent, the engine is free within a step, and the next stream sees "
            "nothing of it.",
        ),
        Promise(
            38,
            (RUNTIME, NODE),
            "a cancel at any point of a request's life",
            "It ends that request and no other: before it is sent, in the queue, in the prompt, "
            "between tokens; after the end it changes nothing.",
        ),
        Promise(
            39,
            (RUNTIME, NODE),
            "a deadline passes",
            "`DEADLINE_EXCEEDED` says in which phase. What was still in a queue never runs, and "
            "the host needs no runtime to keep a deadline.",
        ),
        Promise(
            40,
            (NODE,),
            "a request without a deadline takes an hour",
            "No hidden timer ends it.",
        ),
        Promise(
            41,
            (RUNTIME,),
            "ten times as many requests as a queue holds",
            "Those over the limit get `QUEUE_FULL` at once, with the time after which to come "
            "back. All that were accepted finish.",
        ),
        Promise(
            42,
            (RUNTIME, NODE),
            "one item of a batch is bad",
            "It has its own error, by place; the others have their results, in order.",
        ),
        Promise(
            43,
            (NODE,),
            "a cancel, close, crash or unload while calls collect for a batch",
            "Every call settles, each with its own outcome, and no batch is over its limits.",
        ),
        Promise(
            53,
            (NODE, PYTHON_HOST),
            "the wall clock jumps, or the runtime is suspended",
            "Nothing expires that should not: only monotonic clocks decide.",
            elsewhere=(f"{SUPERVISION}::test_one_that_is_stopped_and_goes_on_is_left_alone",),
        ),
    ),
)
