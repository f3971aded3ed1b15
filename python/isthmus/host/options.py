"""How a runtime is started, watched, started again and ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..limits import DRAIN_GRACE_S
from .life import OnState
from .restarts import RestartOptions
from .watchdog import HeartbeatOptions


@dataclass(frozen=True, slots=True)
class Graces:
    """How long the end may take.

    Attributes:
        close_s: Time to drain after the input was closed; then SIGTERM.
        terminate_s: Time after SIGTERM; then SIGKILL.
    """

    close_s: float = DRAIN_GRACE_S + 2.0
    terminate_s: float = 2.0


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """How a runtime is kept.

    Attributes:
        start_timeout_s: Time until the hello of a process.
        graces: How long an end may take.
        restart: When it is started again; None for never.
        heartbeat: How it is watched; None for not at all.
        on_state: Told of each step of its life.
    """

    start_timeout_s: float = 30.0
    graces: Graces = field(default_factory=Graces)
    restart: RestartOptions | None = field(default_factory=RestartOptions)
    heartbeat: HeartbeatOptions | None = field(default_factory=HeartbeatOptions)
    on_state: OnState | None = None
