"""Which code answers which method.

A method has one of three forms: `inline` answers at once on the event loop; `begin` starts work
that settles the call later, such as what the multiplexer gathers; `run` begins at once and returns
a coroutine for what takes time. Registering is open, so that a host program or a test can add
methods.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnknownMethod
from .requests import Call

Inline = Callable[[dict[str, Any]], object]
Begin = Callable[[Call, dict[str, Any]], None]
Run = Callable[[Call, dict[str, Any]], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is answered; exactly one of the forms is there."""

    name: str
    inline: Inline | None = None
    begin: Begin | None = None
    run: Run | None = None


class Router:
    """The table of methods."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def register(
        self,
        name: str,
        *,
        inline: Inline | None = None,
        begin: Begin | None = None,
        run: Run | None = None,
    ) -> None:
        """Add a method.

        Raises:
            ValueError: The name is taken, or there is not exactly one form.
        """
        forms = [form for form in (inline, begin, run) if form is not None]
        if name in self._methods or len(forms) != 1:
            raise ValueError(f"method {name} is registered already, or has not exactly one handler")
        self._methods[name] = Method(name, inline, begin, run)

    @property
    def names(self) -> list[str]:
        """All methods, sorted."""
        return sorted(self._methods)

    @property
    def quick_methods(self) -> Mapping[str, Method]:
        """The methods that begin no task: the hot path's table."""
        return {name: method for name, method in self._methods.items() if method.run is None}

    def find(self, name: str) -> Method:
        """Return a method.

        Raises:
            UnknownMethod: There is none of that name.
        """
        method = self._methods.get(name)
        if method is None:
            raise UnknownMethod(
                f"there is no method {name[:128]!r}; hello lists what there is", field="method"
            )
        return method
