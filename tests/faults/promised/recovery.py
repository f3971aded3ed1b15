"""What happens after a failure, and after many: rows 44 to 52."""

from __future__ import annotations

from .promise import NODE, PYTHON_HOST, RUNTIME, SUPERVISION, Promise, Section

RECOVERY = Section(
    "Failing and coming back",
    (
        Promise(
            44,
            (RUNTIME,),
            "calls of a model succeed and fail by turns",
            "Its circuit does not flap: it opens after enough calls and failures of one window, at "
            "most once a window, and stays open longer each time.",
        ),
        Promise(
            45,
            (RUNTIME,),
            "the call that tries a half-open circuit hangs, is cancelled, or ends late",
            "Its slot has a deadline and goes to the next call then. A cancelled call and a "
            "caller's own mistake decide nothing, and an old call's end moves no newer state.",
        ),
        Promise(
            46,
            (RUNTIME,),
            "a thousand callers wait for a circuit to close",
            "One call goes through to try; the others fail at once with `CIRCUIT_OPEN` and the "
            "time after which to come back. After a success more are let through step by step.",
        ),
        Promise(
            47,
            (RUNTIME,),
            "everything fails, and everybody tries again",
            "Retries have a budget: a thousand failing calls make at most a tenth more attempts, "
            "and no wait for a retry passes the caller's deadline.",
        ),
        Promise(
            48,
            (NODE, PYTHON_HOST),
            "a generation fails after its first token",
            "It is never repeated. The error carries the text, the ids and the number of tokens "
            "that were delivered; `retryable` is false.",
        ),
        Promise(
            49,
            (NODE, PYTHON_HOST),
            "the runtime ends again and again",
            "It is started again at most 3 times in 60 seconds, with pauses. Then everything "
            "fails at once with `RUNTIME_FAILED`, whose message is the report: how each process "
            "ended, its last lines and the fix. Saying hello does not reset the count.",
            elsewhere=(
                f"{SUPERVISION}::test_a_runtime_that_cannot_run_is_given_up_with_a_report_and_restarted_by_hand",
            ),
        ),
        Promise(
            50,
            (NODE, PYTHON_HOST),
            "a model is used after the runtime was started anew",
            "The same `Model` object works: its model is loaded again at first use, under the same "
            "handle. If that fails, its calls get a typed error; never another model's answer.",
            elsewhere=(
                f"{SUPERVISION}::test_a_model_that_is_gone_from_the_disk_fails_its_callers_and_no_others",
            ),
        ),
        Promise(
            51,
            (NODE, PYTHON_HOST),
            "close, restart and a crash race each other",
            "There is at most one process at any time, each call of `close` and `restart` settles, "
            "and a second one changes nothing.",
            elsewhere=(f"{SUPERVISION}::test_closing_while_it_restarts_leaves_no_process",),
        ),
        Promise(
            52,
            (NODE, PYTHON_HOST),
            "many runtimes, restarts and requests",
            "Descriptors, handles, listeners, zombies and memory are back where they were.",
            elsewhere=(f"{SUPERVISION}::test_a_hundred_restarts_leave_nothing_open",),
        ),
    ),
)
