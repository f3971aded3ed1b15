"""What docs/faults.md says of injecting faults: from the tables that the runtime itself reads."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.faults import ACTIONS, POINTS
from isthmus.faults.spec import TRIGGERS
from tests.faults.prose import head, paragraph, row

_BEGINNING = """\
## Making faults happen

A runtime can be told to fail, so that you see what your program makes of it. This is off unless the
runtime was started for it: `isthmus runtime --faults` adds the methods `inject_fault` and
`clear_faults`, and `--fault SPEC`, which may be repeated, also arms a fault at the start. Without
either, the methods do not exist. A runtime with faults says so in its hello (`faults: true`).

```sh
isthmus runtime --fault engine.step:crash:after=100 --fault request:slow:ms=200,method=tokenize
```

```ts
const runtime = await createRuntime({ faults: ['engine.step:crash:after=100'] });
await runtime.injectFault('model.load:fail:times=2'); // at any time
await runtime.clearFaults();
```

In Python: `start(faults=[...])`, `runtime.inject_fault(spec)`, `runtime.clear_faults()`.

A spec is `point:action`, or `point:action:key=value,key=value`.
"""


def injecting() -> Iterator[str]:
    """Yield the chapter on making faults happen."""
    yield _BEGINNING
    yield head("point", "passed when", "actions", "filter")
    for point, info in POINTS.items():
        actions = ", ".join(f"`{action.value}`" for action in info.actions)
        wanted = "" if info.filter is None else f"`{info.filter}`"
        yield row((f"`{point.value}`", info.when, actions, wanted))
    yield "\n" + head("action", "what happens", "its keys")
    for action, told in ACTIONS.items():
        keys = "; ".join(f"`{key}`: {meaning}" for key, meaning in told.keys.items())
        yield row((f"`{action.value}`", told.what, keys))
    yield "\n" + head("key of every action", "meaning")
    for key, meaning in TRIGGERS.items():
        yield row((f"`{key}`", meaning))
    yield "\n" + paragraph(
        "A point's filter is a key too: only what it names counts as a pass, and its value may "
        "have `*` and `?`, as in `engine.token:fail:model=chat-*,after=5`."
    )
    yield ""
