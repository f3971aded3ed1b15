"""What may happen to the runtime's process, its pipes and its host: rows 16 to 31, and 67."""

from __future__ import annotations

from .promise import NODE, PYTHON_HOST, RUNTIME, SUPERVISION, Promise, Section

PROCESSES = Section(
    "Processes and pipes",
    (
        Promise(
            16,
            (RUNTIME,),
            "a library writes to standard output",
            "None of it is on the wire, and all of it is in the runtime's standard error.",
        ),
        Promise(
            17,
            (RUNTIME,),
            "a library reads standard input",
            "It meets the end at once, and the wire loses no byte.",
        ),
        Promise(
            18,
            (RUNTIME, NODE),
            "a hundred megabytes on standard error",
            "Nobody blocks. The host keeps the last 64 KiB for its reports, and memory stays flat.",
        ),
        Promise(
            19,
            (NODE, PYTHON_HOST),
            "the runtime is killed: idle, inside a frame, inside a stream",
            "Every pending call settles once, with the signal and the last lines of standard "
            "error. A stream first gives what had arrived. What was never written, and what may be "
            "repeated, goes to the next process.",
            elsewhere=(
                f"{SUPERVISION}::test_one_that_is_killed_while_nothing_is_asked_of_it_is_followed",
                f"{SUPERVISION}::test_one_that_is_killed_at_work_leaves_nobody_waiting",
            ),
        ),
        Promise(
            20,
            (NODE,),
            "native code crashes the runtime",
            "As when it is killed; the error names the signal or the exit code, and shows the "
            "Python stack of the crash.",
        ),
        Promise(
            21,
            (RUNTIME, NODE, PYTHON_HOST),
            "memory runs out",
            "A load that does not fit is refused before it begins, as often as it is tried, "
            "without a crash. When the system ends the runtime all the same, the error says that "
            "memory may be the reason.",
            elsewhere=(f"{SUPERVISION}::test_a_runtime_that_runs_out_of_memory_is_said_to",),
        ),
        Promise(
            22,
            (NODE,),
            "the runtime ends before its hello",
            "Starting fails with the exit code and the last lines of standard error. It is not "
            "tried again by itself.",
        ),
        Promise(
            23,
            (NODE,),
            "there is no Python, or it cannot be run",
            "`PYTHON_NOT_FOUND` lists every candidate that was tried and what was wrong with it.",
        ),
        Promise(
            24,
            (NODE,),
            "the runtime never says hello",
            "Starting fails with `START_TIMEOUT` after the time that was allowed. The process is "
            "gone and reaped by then, also one that ignores SIGTERM.",
        ),
        Promise(
            25,
            (NODE,),
            "the host dies while the runtime starts",
            "The runtime goes too.",
        ),
        Promise(
            26,
            (NODE,),
            "the host is killed, whatever the runtime is doing",
            "The runtime is gone within a second: idle, generating, loading, or with the "
            "interpreter's lock held by native code.",
        ),
        Promise(
            27,
            (RUNTIME,),
            "the host closes the runtime's input and reads on",
            "What is in flight has 5 seconds to end, everything written is flushed, and the exit "
            "code is 0.",
        ),
        Promise(
            28,
            (RUNTIME, NODE),
            "a shell, or a tool such as npm or uv, stands in between",
            "Closing still ends the runtime and keeps its exit code; killing the wrapper or the "
            "host leaves nothing behind.",
        ),
        Promise(
            29,
            (RUNTIME,),
            "nobody reads the runtime's output any more",
            "The runtime exits once, without spinning.",
        ),
        Promise(
            30,
            (NODE,),
            "the runtime's input is closed under the host's hands",
            "The host lives: everything pending settles, and nothing is thrown but rejections.",
        ),
        Promise(
            31,
            (NODE,),
            "a process that the runtime started keeps its output open",
            "The host acts on the runtime's exit and does not wait for the pipe.",
        ),
        Promise(
            67,
            (RUNTIME, NODE),
            "Ctrl-C, or SIGTERM, reaches the whole process group",
            "A Ctrl-C leaves the runtime to its host, without a traceback. SIGTERM lets what is "
            "in flight end; the exit code is 0.",
        ),
    ),
)
