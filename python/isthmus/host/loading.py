"""Requests that change what models a host has: their answers go into its registry first.

At the moment at which they arrive, not when the caller's task runs next: the process may end in
between, and a model that the caller has must be known by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import IsthmusError, RemoteProtocolError
from .registry import ModelRegistry
from .streams import Progress, Reply


class Loading(Reply):
    """A caller's `load_model`.

    Args:
        registry: Learns of the model.
        params: What it is loaded with.
        revived: The lost handle that it brings back, if it does.
        on_revived: Told that handle when it is back, or is lost as before.
        on_progress: Told of progress events.
        give_back: Unloads a model whose caller was cancelled when it had been loaded.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        params: Mapping[str, Any],
        revived: str | None,
        on_revived: Callable[[str], object],
        on_progress: Progress | None,
        give_back: Callable[[str], object],
    ) -> None:
        super().__init__(on_progress, lambda info: give_back(info["model"]))
        self._registry = registry
        self._params = params
        self._revived = revived
        self._on_revived = on_revived

    def on_value(self, value: Any) -> None:
        """Note the model, and that another was given back for it."""
        handle = value.get("model") if isinstance(value, dict) else None
        if type(handle) is not str:
            message = "the runtime sent a model without a handle"
            self.on_error(RemoteProtocolError(message, kind="message"))
            return
        if self._revived is not None and handle != self._revived:
            self._registry.not_revived(self._revived)
        self._registry.loaded(handle, self._params)
        self._replaced()
        super().on_value(value)
        if self._revived is not None:
            self._on_revived(self._revived)

    def on_error(self, error: IsthmusError) -> None:
        """Note when the model that was to be replaced is gone though nothing took its place."""
        if error.details.get("replaced") is True:
            self._replaced()
        super().on_error(error)
        if self._revived is not None:
            self._registry.not_revived(self._revived)
            self._on_revived(self._revived)

    def _replaced(self) -> None:
        if (replaced := self._params.get("replace")) is not None:
            self._registry.given_back(replaced)


class Unloading(Reply):
    """An `unload_model`.

    Args:
        registry: Learns of it.
        handle: The model's.
    """

    def __init__(self, registry: ModelRegistry, handle: str) -> None:
        super().__init__()
        self.handle = handle
        self._registry = registry

    def on_value(self, value: Any) -> None:
        """Note that a reference was given back."""
        self._registry.given_back(self.handle)
        super().on_value(value)


class GivingBack(Unloading):
    """An `unload_model` of the host's own, for a caller who has left: nobody hears how it ends."""

    def on_error(self, error: IsthmusError) -> None:
        """Note that nobody has that reference, whatever the runtime says."""
        self._registry.given_back(self.handle)


class Restoring(Reply):
    """A `load_model` of the host's own, after a restart.

    Args:
        handle: Which model.
        on_restored: Told when it is loaded.
        on_failed: Told why it is not.
    """

    def __init__(
        self,
        handle: str,
        on_restored: Callable[[str], object],
        on_failed: Callable[[str, IsthmusError], object],
    ) -> None:
        super().__init__()
        self.handle = handle
        self._on_restored = on_restored
        self._on_failed = on_failed

    def on_value(self, value: Any) -> None:
        """Say so."""
        self._on_restored(self.handle)

    def on_error(self, error: IsthmusError) -> None:
        """Say why."""
        self._on_failed(self.handle, error)
