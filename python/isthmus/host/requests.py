"""What is remembered of a request while it is unsettled, and when it may be sent again.

After the end of a process a request is repeated only when that can change nothing: it was never
written, or its method is idempotent and nobody has had anything of its answer; and only while
requests succeed, so that repeats cannot become a storm. Knows no process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..limits import REPLAY_LIMIT, REQUEST_ID_LIMIT, RETRY_BUDGET_RATIO, RETRY_BUDGET_TOKENS
from ..resilience.retry import RetryBudget
from .streams import Pending

_SINGLE: Final = ("tokenize", "detokenize", "count_tokens", "apply_chat_template", "check_draft")
IDEMPOTENT: Final = frozenset(
    (
        *_SINGLE,
        *(f"batch_{method}" for method in _SINGLE),
        *("echo", "stream_echo", "generate", "check_draft_compatibility"),
        *("list_models", "model_info", "health", "stats"),
        *("open_session", "save_session", "evict_session", "list_sessions", "session_stats"),
    )
)
"""Methods that may be repeated while nothing of their answer was delivered."""

_AT_WORK: Final = frozenset(("generate", "check_draft", "batch_check_draft"))
"""Methods that compute with a model: one that ends its process may be that model's fault."""

UNSENT: Final = -1
"""The mark of a request that no writer has."""

_FULL_AFTER: Final = int(RETRY_BUDGET_TOKENS / RETRY_BUDGET_RATIO) + 1
"""Successes that fill an empty budget."""


class Request:
    """An unsettled request.

    Args:
        method: Its method.
        params: Its params; they are needed until it settles, and must not change.
        options: Its options.
        pending: Gets what it gets.
        made_at: When it was made, in seconds; asked for only where there is a deadline.
    """

    __slots__ = (
        "is_cancelled",
        "made_at",
        "mark",
        "method",
        "options",
        "params",
        "pending",
        "replays",
    )

    def __init__(
        self,
        method: str,
        params: dict[str, Any],
        options: Mapping[str, Any],
        pending: Pending,
        made_at: float,
    ) -> None:
        self.method = method
        self.params = params
        self.options = options
        self.pending = pending
        self.made_at = made_at
        self.mark = 0
        """Bytes that its writer had written before it, or `UNSENT`."""
        self.is_cancelled = False
        self.replays = 0
        """Times that it was sent again after it had been written."""

    @property
    def deadline_at(self) -> float | None:
        """When its deadline passes; None without one. What is no duration is the runtime's to
        refuse."""
        deadline_ms = self.options.get("deadline_ms")
        if isinstance(deadline_ms, int | float) and deadline_ms > 0:
            return self.made_at + deadline_ms / 1_000
        return None

    def options_at(self, now: float) -> Mapping[str, Any]:
        """Return its options with what is left of its deadline."""
        deadline_at = self.deadline_at
        if deadline_at is None:
            return self.options
        left_ms = max((deadline_at - now) * 1_000, 0.001)
        return {**self.options, "deadline_ms": left_ms}

    @property
    def at_work(self) -> tuple[str, ...]:
        """Handles of the models that it computes with."""
        return handles_of(self.params) if self.method in _AT_WORK else ()


def handles_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the handles that a request's params name."""
    speculation = params.get("speculation")
    drafting = speculation.get("draft_model") if isinstance(speculation, Mapping) else None
    named = (params.get("model"), params.get("draft_model"), drafting, params.get("replace"))
    return tuple(handle for handle in named if type(handle) is str)


def names_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a request's params name, models and a session: of requests that name the same,
    none may overtake another."""
    session = params.get("session")
    if not isinstance(session, Mapping):
        return handles_of(params)
    # No handle has a space in it.
    return (*handles_of(params), f"session {session.get('id')!r} of {session.get('tenant')!r}")


class Replays:
    """Decides which requests are sent again, within one budget.

    The budget's successes are counted when it is asked, from the ids that were given out since: a
    request that succeeds pays nothing for it.
    """

    def __init__(self) -> None:
        self.errors = 0
        """Requests that were answered by an error."""
        self.replayed = 0
        self.refused_by_budget = 0
        self._budget = RetryBudget()
        self._last_id = 0

    @property
    def budget_tokens(self) -> float:
        """What the budget holds."""
        return self._budget.tokens

    def note_successes(self, last_id: int, unsettled: int) -> None:
        """Take account of what has succeeded since the last time."""
        made = (last_id - self._last_id) % REQUEST_ID_LIMIT
        self._last_id = last_id
        for _ in range(min(max(made - self.errors - unsettled, 0), _FULL_AFTER)):
            self._budget.success()
        self.errors = 0

    def take(self, request: Request) -> bool:
        """Whether a request that was written may be sent again; counts it."""
        may = (
            request.method in IDEMPOTENT
            and not request.is_cancelled
            and request.replays < REPLAY_LIMIT
            and not request.pending.has_received
        )
        if not may:
            return False
        if not self._budget.failure():
            self.refused_by_budget += 1
            return False
        request.replays += 1
        self.replayed += 1
        return True
