"""What happens after a failure, and after many: rows 44 to 52."""

from __future__ import annotations

from .promise import NODE, PYTHON_HOST, RUNTIME, Promise, Section

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
            (NODE,),
            "the runtime ends again and again",
            "It is started at most 3 times in 60 seconds, with growing pauses. Then everything "
            "fails at once with `RUNTIME_FAILED`, whose message is the report: how each process "
            "ended, its last lines and the fix. Saying hello does not reset the count.",
        ),
        Promise(
            50,
            (NODE,),
            "a model is used after the runtime was started anew",
            "The same `Model` object works: its model is loaded again at first use, under the same "
            "handle. If that fails, its calls get a typed error; never another model's answer.",
        ),
        Promise(
            51,
            (NODE,),
            "close, restart and a crash race each other",
            "There is at most one process at any time, each call of `close` and `restart` settles, "
            "and a second one changes nothing.",
        ),
        Promise(
            52,
            (NODE,),
            "many runtimes, restarts and requests",
            "Descriptors, handles, listeners, zombies and memory are back where they were.",
        ),
    ),
)
