"""The end of a process sorts its requests: those that stay, and those that settle now."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from ..errors import IsthmusError, own_copy
from .link import Link
from .loading import Restoring, Unloading
from .requests import Replays, Request


@dataclass(slots=True)
class Parting:
    """What becomes of the requests of a process that has ended.

    Attributes:
        kept: Those that wait for the next process, in order.
        failed: Those that settle now, each with its own error.
        unsent: Those that settle now because they were cancelled before they were sent.
        restoring: Models that the process may have been loading again.
        at_work: Models that it may have been computing with.
    """

    kept: dict[int, Request] = field(default_factory=dict)
    failed: list[tuple[Request, IsthmusError]] = field(default_factory=list)
    unsent: list[Request] = field(default_factory=list)
    restoring: list[str] = field(default_factory=list)
    at_work: set[str] = field(default_factory=set)


def part(
    requests: Mapping[int, Request],
    waiting: Container[int],
    link: Link,
    replays: Replays,
    unloadable: Container[str],
    error: IsthmusError,
) -> Parting:
    """Sort the requests of a process.

    Args:
        requests: All that have not settled.
        waiting: Those of them that had not been sent.
        link: Knows which of the others may have been read.
        replays: Says which of these may be sent again.
        unloadable: Models whose references outlive the process: what gives one back is not lost
            with it.
        error: Why the process has ended.
    """
    parting = Parting()
    for number, request in requests.items():
        if number in waiting:
            parting.kept[number] = request
            continue
        is_written = link.has_written(number, request.mark)
        if is_written:
            parting.at_work.update(request.at_work)
        if isinstance(request.pending, Restoring):
            parting.restoring += [request.pending.handle] if is_written else []
        elif not is_written and request.is_cancelled:
            parting.unsent.append(request)
        elif is_written and not _is_unload(request, unloadable) and not replays.take(request):
            parting.failed.append((request, own_copy(error)))
        else:
            parting.kept[number] = request
    return parting


def _is_unload(request: Request, unloadable: Container[str]) -> bool:
    pending = request.pending
    return isinstance(pending, Unloading) and pending.handle in unloadable
