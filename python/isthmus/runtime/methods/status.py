"""`health` and `stats`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..params import Params
from ..router import Router

Report = Callable[[], dict[str, Any]]


def register(router: Router, health: Report, stats: Report) -> None:
    """Add the methods."""
    router.register("health", inline=lambda params: _without_params(params, health))
    router.register("stats", inline=lambda params: _without_params(params, stats))


def _without_params(params: dict[str, Any], report: Report) -> object:
    Params(params).done()
    return report()
