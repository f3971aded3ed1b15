"""`set_circuit`; and `inject_fault` and `clear_faults`, which exist with `--faults` only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ...errors import InvalidRequest
from ...faults import Faults
from ...resilience.breaker import Breaker, State
from ..params import Params
from ..router import Router
from ..services import Services

_BY_HAND: Final[Mapping[str, Callable[[Breaker], None]]] = {
    State.ISOLATED.value: Breaker.isolate,
    State.CLOSED.value: Breaker.restore,
}
"""What a caller may set a circuit to; the other states are the breaker's own."""


def register(router: Router, services: Services) -> None:
    """Add the method."""
    router.register("set_circuit", inline=CircuitMethod(services).set)


def register_faults(router: Router, faults: Faults) -> None:
    """Add the methods that arm faults and remove them."""

    def inject(params: dict[str, Any]) -> object:
        fields = Params(params)
        spec = fields.typed("spec", str)
        fields.done()
        faults.arm(spec)
        return {"faults": faults.to_wire()}

    def clear(params: dict[str, Any]) -> object:
        Params(params).done()
        return {"cleared": faults.clear()}

    router.register("inject_fault", inline=inject)
    router.register("clear_faults", inline=clear)


class CircuitMethod:
    """Answers `set_circuit`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def set(self, params: dict[str, Any]) -> object:
        """Isolate a model, or let its calls begin again."""
        fields = Params(params)
        model = self._services.models.get(fields.typed("model", str))
        wanted = fields.typed("state", str)
        fields.done()
        breaker = self._services.resilience.of(model.handle, model.prior_failures).breaker
        if wanted not in _BY_HAND:
            raise InvalidRequest(f"`state` must be one of {', '.join(_BY_HAND)}", field="state")
        _BY_HAND[wanted](breaker)
        return breaker.snapshot()
