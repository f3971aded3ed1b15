"""What a host knows of its models, so that they can be loaded again in the next process.

For each handle: the params that it was loaded with, how many references the host has, and how often
a process ended with work of it in flight. Handles stay the caller's across processes; what is
behind them goes with each. Pure bookkeeping: sends nothing.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from ..errors import IsthmusError, ModelLoadFailed

_OF_ONE_LOAD: Final = ("replace", "handle", "references", "prior_failures")
"""Params of `load_model` that say nothing about the model itself."""

_SOURCE: Final = ("source", "revision", "adapter_path", "trust_remote_code", "local_files_only")
"""Params that say which model it is."""


class ModelState(Enum):
    """What is behind a handle."""

    READY = auto()
    """A model of the present process, as far as the host knows."""
    STALE = auto()
    """A model of a process that has ended; the next call that names it has it loaded again."""
    RESTORING = auto()
    """It is being loaded again."""
    LOST = auto()
    """A process ended while it was being loaded again: only the caller may try that once more."""


@dataclass(slots=True)
class ModelRecord:
    """What is known of one handle."""

    params: dict[str, Any]
    references: int = 1
    crashes: int = 0
    state: ModelState = ModelState.READY
    is_revived: bool = False
    """Whether it is its caller who has it loaded again; such a load may outlive a process."""


class ModelRegistry:
    """The handles of one host; one it does not know is taken for one that the runtime knows."""

    def __init__(self) -> None:
        self.unready: set[str] = set()
        """Handles whose model is not in the present process."""
        self._records: dict[str, ModelRecord] = {}

    @property
    def handles(self) -> Container[str]:
        """Those that the host has references to."""
        return self._records.keys()

    def loaded(self, handle: str, params: Mapping[str, Any]) -> None:
        """The caller has loaded a model, and has one more reference to it."""
        own = {name: value for name, value in params.items() if name not in _OF_ONE_LOAD}
        record = self._records.get(handle)
        if record is None:
            self._records[handle] = ModelRecord(own)
        else:
            record.references += 1
            record.params |= {name: value for name, value in own.items() if value is not None}
            record.is_revived = False
            self._to(handle, ModelState.READY)
        for other in self._lost(own):
            self._to(other, ModelState.STALE)

    def given_back(self, handle: str) -> None:
        """The caller has one reference less."""
        record = self._records.get(handle)
        if record is not None:
            record.references -= 1
            if record.references <= 0:
                del self._records[handle]
                self.unready.discard(handle)

    def unload_result(self, handle: str) -> dict[str, Any]:
        """Return what `unload_model` says of a model that no process has."""
        references = max(self._records[handle].references - 1, 0)
        return {"unloaded": references == 0, "references": references, "resident": False}

    def state_of(self, handle: str) -> ModelState:
        """Return what is behind a handle."""
        record = self._records.get(handle)
        return ModelState.READY if record is None else record.state

    def process_ended(self, at_work: Iterable[str]) -> None:
        """No model is in memory any more; those in `at_work` may have been the reason."""
        for handle in set(at_work) & self._records.keys():
            self._records[handle].crashes += 1
        for handle, record in self._records.items():
            if record.state is not ModelState.LOST and not record.is_revived:
                self._to(handle, ModelState.STALE)

    def begin_restoring(self, handle: str) -> dict[str, Any]:
        """Return the params that load a stale model under the handle that it had."""
        self._to(handle, ModelState.RESTORING)
        return self._restoring(handle, 0)

    def restored(self, handle: str) -> None:
        """It is in the present process again."""
        self._to(handle, ModelState.READY)

    def not_restored(self, handle: str) -> None:
        """It could not be loaded; the next call that names it tries again."""
        self._to(handle, ModelState.STALE)

    def lost(self, handle: str) -> None:
        """The process ended while it was being loaded again."""
        self._to(handle, ModelState.LOST)

    def loss(self, handle: str) -> IsthmusError:
        """Return what calls of a lost model fail with."""
        source = self._records[handle].params.get("source")
        return ModelLoadFailed(
            f"the runtime ended while it loaded {source!r} again, and the model is not loaded a "
            "second time by itself; load it again with `load_model`, or load a smaller one",
            phase="load",
            cause="crashed",
            model=handle,
        )

    def revival(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a caller's load of a lost model says besides, to have its handle again.

        One load does so at a time: the runtime is told all references of the handle at once.
        """
        for handle in self._lost(params):
            self._records[handle].is_revived = True
            self._to(handle, ModelState.RESTORING)
            # A reference that the same load gives back is not one more.
            revived = self._restoring(handle, 0 if params.get("replace") == handle else 1)
            return {name: revived[name] for name in _OF_ONE_LOAD if name in revived}
        return {}

    def not_revived(self, handle: str) -> None:
        """The caller's load of a lost model has failed; a later one may try again."""
        record = self._records.get(handle)
        if record is not None and record.is_revived:
            record.is_revived = False
            self._to(handle, ModelState.LOST)

    def _lost(self, params: Mapping[str, Any]) -> list[str]:
        """Return the lost handles of the model that these params load."""
        return [
            handle
            for handle, record in self._records.items()
            if record.state is ModelState.LOST
            and all(record.params.get(name) == params.get(name) for name in _SOURCE)
        ]

    def _restoring(self, handle: str, more: int) -> dict[str, Any]:
        record = self._records[handle]
        return {
            **record.params,
            "handle": handle,
            "references": record.references + more,
            "prior_failures": record.crashes,
        }

    def _to(self, handle: str, state: ModelState) -> None:
        record = self._records.get(handle)
        if record is not None:
            record.state = state
            if state is ModelState.READY:
                self.unready.discard(handle)
            else:
                self.unready.add(handle)
