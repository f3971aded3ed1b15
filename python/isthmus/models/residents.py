"""Which models are in memory, under which names, what they hold of the budget, and who must leave.

Pure bookkeeping on the event loop: no clock, no task, no mlx. What is in use is never chosen to
leave. Models that are leaving count until their memory is back, and loads under way count before
they have any.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from ..errors import InvalidRequest, MemoryLimit, ModelNotLoaded
from ..limits import ADDRESS_SPACE_MARGIN_BYTES, MODEL_HANDLE_CHARS
from .load import LoadedModel, Source, Stay
from .room import Room

_HELD_SHOWN = 32
"""Models that an error lists."""


class Residents:
    """The models in memory.

    Args:
        budget_bytes: What they may take together.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.kept_bytes = 0
        """What KV caches hold that are kept and could not give way."""
        self.on_change: Callable[[], None] | None = None
        """Called when something else is held, or promised to loads."""
        self._by_name: dict[str, LoadedModel] = {}
        self._by_source: dict[Source, LoadedModel] = {}
        self._models: dict[LoadedModel, None] = {}
        self._reserved: dict[object, int] = {}
        self._mapped: dict[object, int] = {}
        self._uses = itertools.count(1)

    def get(self, handle: str) -> LoadedModel:
        """Return the model that a handle names, and count that as a use of it.

        Raises:
            ModelNotLoaded: The handle names none, or nobody has a reference.
        """
        model = self._by_name.get(handle)
        if model is None:
            raise ModelNotLoaded(
                f"no model has the handle {handle[:MODEL_HANDLE_CHARS]!r}; call load_model and use "
                "its `model`",
                model=handle[:MODEL_HANDLE_CHARS],
            )
        model.used = next(self._uses)
        return model

    def find(self, handle: str) -> LoadedModel | None:
        """Return the model that a handle names, without counting that as a use."""
        return self._by_name.get(handle)

    def of_source(self, source: Source) -> LoadedModel | None:
        """Return the model that a load of `source` would take."""
        return self._by_source.get(source)

    def all(self) -> list[LoadedModel]:
        """Return the models that loads can take, the oldest first."""
        return [model for model in self._models if model.stay is Stay.RESIDENT]

    def idle(self) -> list[LoadedModel]:
        """Return those that nothing uses, the least recently used first."""
        found = (model for model in self.all() if not model.is_in_use)
        return sorted(found, key=lambda model: model.used)

    def add(self, model: LoadedModel) -> None:
        """Take in a model."""
        self._models[model] = None
        self._by_source[model.source] = model
        model.used = next(self._uses)
        if model.references > 0:
            self._by_name[model.handle] = model
        self.changed()

    def changed(self) -> None:
        """Say that something else is held, or promised."""
        if self.on_change is not None:
            self.on_change()

    def check_name(self, handle: str, source: Source) -> None:
        """Check that a model of `source` may have a name.

        Raises:
            InvalidRequest: A model of another source has it.
        """
        holder = self._by_name.get(handle) or next(
            (model for model in self.all() if model.handle == handle), None
        )
        if holder is not None and holder.source != source:
            raise InvalidRequest(
                f"the handle {handle} is that of {holder.source.source}; choose another one, or "
                "none",
                field="handle",
            )

    def is_free(self, handle: str) -> bool:
        """Whether no model has that name."""
        return handle not in self._by_name and all(model.handle != handle for model in self._models)

    def take(self, model: LoadedModel, references: int, handle: str | None) -> None:
        """Add references, and a name if it is another one than the model has."""
        model.used = next(self._uses)
        if references <= 0:
            return
        model.references += references
        model.idle_since = None
        if handle is not None and handle != model.handle:
            model.names.add(handle)
        for name in (model.handle, *model.names):
            self._by_name[name] = model

    def give_back(self, model: LoadedModel, references: int) -> None:
        """Take references away; with the last one every name of the model ends."""
        model.references = max(model.references - references, 0)
        if model.references == 0:
            for name in (model.handle, *model.names):
                if self._by_name.get(name) is model:
                    del self._by_name[name]
            model.names.clear()

    def withdraw(self, model: LoadedModel, stay: Stay) -> None:
        """Hand a model out no more: it is condemned, or leaves."""
        self.give_back(model, model.references)
        if self._by_source.get(model.source) is model:
            del self._by_source[model.source]
        model.enter(stay)

    def remove(self, model: LoadedModel) -> None:
        """Count a model no longer: its memory is back."""
        model.enter(Stay.GONE)
        del self._models[model]
        self.changed()

    def reserve(self, owner: object, size: int) -> None:
        """Count memory that a load is going to take."""
        self._reserved[owner] = size
        self.changed()

    def has_mapped(self, owner: object, size: int) -> None:
        """Note how much of what was reserved a load has taken already."""
        self._mapped[owner] = size

    def unreserve(self, owner: object) -> None:
        """Count it no longer."""
        self._reserved.pop(owner, None)
        self._mapped.pop(owner, None)
        self.changed()

    @property
    def left_bytes(self) -> int:
        """What the budget leaves when models have what they hold and are going to hold."""
        return self.budget_bytes - self.used_bytes - self.reserved_bytes

    @property
    def used_bytes(self) -> int:
        """What models hold, those that are leaving included."""
        return sum(model.room.total_bytes for model in self._models)

    @property
    def reserved_bytes(self) -> int:
        """What loads under way are going to hold."""
        return sum(self._reserved.values())

    def plan(
        self,
        need: int,
        address_space_left: int | None,
        also: Iterable[LoadedModel] = (),
        besides: LoadedModel | None = None,
    ) -> list[LoadedModel] | None:
        """Choose who must leave so that `need` bytes fit.

        Args:
            address_space_left: What may still be mapped; None without a limit.
            also: Models in use that may leave when those that are not do not suffice.
            besides: An idle model that may not.

        Returns:
            The least recently used idle models, only as many as needed; none of them when it fits
            already; None when it cannot fit.
        """
        promised = self.reserved_bytes + need
        over = self.used_bytes + self.kept_bytes + promised - self.budget_bytes
        short = 0
        if address_space_left is not None:
            unmapped = promised - sum(self._mapped.values())
            short = unmapped + ADDRESS_SPACE_MARGIN_BYTES - address_space_left
        idle = [model for model in self.idle() if model is not besides]
        for candidates in (idle, [*idle, *also]):
            if _suffice(candidates, over, short):
                return _fewest(candidates, over, short)
        return None

    def refusal(self, source: Source, room: Room, address_space_left: int | None) -> MemoryLimit:
        """Return the error of a load that does not fit."""
        budget_s = _size(self.budget_bytes)
        held = [_held(model) for model in self._models]
        reserved = self.reserved_bytes
        held_bytes = self.used_bytes + self.kept_bytes
        is_over = held_bytes + reserved + room.total_bytes > self.budget_bytes
        if is_over:
            limit = f"the budget for models is {budget_s}"
            mend = "raise --model-memory-bytes"
        else:
            left = _size(address_space_left or 0)
            limit = f"the process may map {left} more (RLIMIT_AS)"
            mend = "raise the limit (ulimit -v)"
        names = ", ".join(f"{each['model']} {_size(each['bytes'])}" for each in held[:4])
        others = f"; held by {names}" if held else ""
        if self.kept_bytes:
            others += f"; pinned sessions hold {_size(self.kept_bytes)}"
        under_way = f"; loads under way take {_size(reserved)}" if reserved else ""
        return MemoryLimit(
            f"{source.source} needs {_size(room.total_bytes)} ({_size(room.weight_bytes)} of "
            f"weights, {_size(room.kv_bytes)} for {room.kv_tokens} tokens), but {limit}{others}"
            f"{under_way}. Unload or unpin a model, load with fewer kv_tokens or a quantised "
            f"model, or {mend}.",
            phase="load",
            limit="budget" if is_over else "address_space",
            needed_bytes=room.total_bytes,
            budget_bytes=self.budget_bytes,
            used_bytes=held_bytes,
            reserved_bytes=reserved,
            address_space_left_bytes=address_space_left,
            held=held[:_HELD_SHOWN],
        )


def _suffice(models: Sequence[LoadedModel], over: int, short: int) -> bool:
    freed = sum(model.room.total_bytes for model in models)
    unmapped = sum(model.room.weight_bytes for model in models)
    return freed >= over and unmapped >= short


def _fewest(candidates: Sequence[LoadedModel], over: int, short: int) -> list[LoadedModel]:
    """Return the first that suffice, without those that were not needed in the end."""
    count = next(n for n in range(len(candidates) + 1) if _suffice(candidates[:n], over, short))
    chosen = list(candidates[:count])
    for model in reversed(chosen[:]):
        without = [other for other in chosen if other is not model]
        if _suffice(without, over, short):
            chosen = without
    return chosen


def _held(model: LoadedModel) -> dict[str, object]:
    return {
        "model": model.handle,
        "source": model.source.source,
        "bytes": model.room.total_bytes,
        "references": model.references,
        "pinned": model.is_pinned,
        "in_use": model.is_in_use,
        "leaving": model.stay is not Stay.RESIDENT,
    }


def _size(size: object) -> str:
    assert isinstance(size, int)
    if size < 10**6:
        return f"{size} bytes"
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
