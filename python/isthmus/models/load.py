"""What a loaded model is, and how its tokenizer is loaded.

A model stays in memory while somebody has a reference, while it is pinned, or while work holds a
lease on its weights; `Stay` says what becomes of it after that. The weights are loaded by
`network.py`, handles are given out by `cache.py`. Fields are written on the event loop only, the
network is touched on the engine thread only.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from ..errors import ModelLoadFailed, ModelNotLoaded
from ..limits import MODEL_IDLE_TIMEOUT_S
from ..sessions.fingerprint import FileStamp
from ..text.tokenizer import TextTokenizer
from .room import NO_ROOM, Room
from .verify import VerifiedModel

T = TypeVar("T")

Progress = Callable[[str, int, int, str], None]
"""Told `(stage, done, total, unit)` while a model loads."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a caller asked for; equal sources share one load."""

    source: str
    revision: str | None = None
    adapter_path: str | None = None
    trust_remote_code: bool = False
    local_files_only: bool = False


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a caller wants to have a model; equal sources share one load whatever these are.

    Attributes:
        pin: Whether it stays without references; None leaves that as it is.
        idle_timeout_s: How long it stays once nobody has a reference; None leaves that as it is.
        replace: A handle of which one reference is given back.
        kv_tokens: Tokens of KV cache that room is kept for.
        handle: The name that it must have: a host restores the one it had.
        references: How many are taken; 0 only loads.
        prior_failures: Ends of the runtime so far with calls of this model in flight.
    """

    pin: bool | None = None
    idle_timeout_s: float | None = None
    replace: str | None = None
    kv_tokens: int | None = None
    handle: str | None = None
    references: int = 1
    prior_failures: int = 0


class Stay(enum.Enum):
    """Whether a model stays in memory."""

    RESIDENT = "resident"
    """The next load of its source takes it."""
    CONDEMNED = "condemned"
    """It leaves when the work on it has ended."""
    LEAVING = "leaving"
    """The engine thread is giving its memory back."""
    GONE = "gone"


STAYS: Final[Mapping[Stay, frozenset[Stay]]] = {
    Stay.RESIDENT: frozenset({Stay.CONDEMNED, Stay.LEAVING}),
    Stay.CONDEMNED: frozenset({Stay.LEAVING}),
    Stay.LEAVING: frozenset({Stay.GONE}),
    Stay.GONE: frozenset(),
}
"""What may follow what."""


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model that can be used.

    Attributes:
        handle: Its name on the wire; `names` has further ones.
        network: The mlx-lm model; touched on the engine thread only.
        tokenizer: For the loop and the text threads.
        stamps: How its files looked when they were read; None when they changed meanwhile.
        room: What it holds of the memory budget.
        leases: Pieces of work on its weights that have not ended.
        idle_since: Monotonic seconds since when nothing uses it.
        used: When it was used last: a count of uses of all models, not a time.
        on_free: Told when the last lease ended and nobody has a reference.
    """

    handle: str
    source: Source
    verified: VerifiedModel
    network: Any = field(repr=False)
    tokenizer: TextTokenizer = field(repr=False)
    vocab_size: int
    load_ms: float
    references: int = 0
    stamps: tuple[FileStamp, ...] | None = field(default=None, repr=False)
    room: Room = NO_ROOM
    names: set[str] = field(default_factory=set)
    is_pinned: bool = False
    idle_timeout_s: float = MODEL_IDLE_TIMEOUT_S
    idle_since: float | None = None
    prior_failures: int = 0
    leases: int = 0
    used: int = 0
    stay: Stay = Stay.RESIDENT
    on_free: Callable[[LoadedModel], None] | None = field(default=None, repr=False)
    _operations: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def is_in_use(self) -> bool:
        """Whether it must not be evicted."""
        return self.references > 0 or self.is_pinned or self.leases > 0

    def enter(self, stay: Stay) -> None:
        """Go to the next state.

        Raises:
            ValueError: It does not follow the present one.
        """
        if stay not in STAYS[self.stay]:
            raise ValueError(f"{self.handle} cannot go from {self.stay.value} to {stay.value}")
        self.stay = stay

    def lease(self) -> Lease:
        """Return what keeps the weights in memory: `with model.lease():` around work on them.

        Raises:
            ModelNotLoaded: They have left it.
        """
        if self.stay is Stay.LEAVING or self.stay is Stay.GONE:
            raise ModelNotLoaded(
                f"{self.handle} was unloaded before the work on it began; load it again",
                model=self.handle,
            )
        return Lease(self)

    def operation(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what can be done on this model under `key`, made on its first use."""
        found: T | None = self._operations.get(key)
        if found is None:
            found = self._operations[key] = make()
        return found

    def release(self) -> None:
        """Drop the weights and what was made for operations; where the weights were made."""
        self.network = None
        self._operations.clear()

    def info(self, handle: str | None = None) -> dict[str, Any]:
        """Return the model info of the protocol (section 3), under one of its names."""
        quantization = self.verified.quantization
        return {
            "model": handle or self.handle,
            "source": self.source.source,
            "path": str(self.verified.path),
            "architecture": self.verified.architecture,
            "parameters": self.verified.parameters,
            "vocab_size": self.vocab_size,
            "context_length": self.verified.context_length,
            "dtype": self.verified.dtype,
            "quantization": dict(quantization) if quantization is not None else None,
            "weight_bytes": self.verified.weight_bytes,
            "eos_token_ids": sorted(self.tokenizer.end_tokens),
            "has_chat_template": self.tokenizer.has_chat_template,
            "references": self.references,
            "pinned": self.is_pinned,
            "bytes": self.room.total_bytes,
            "load_ms": self.load_ms,
        }


class Lease:
    """Work on a model's weights, as a context manager."""

    __slots__ = ("_model",)

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._model.leases += 1

    def __exit__(self, *_: object) -> None:
        model = self._model
        model.leases -= 1
        if not model.leases and model.references <= 0 and model.on_free is not None:
            model.on_free(model)


def load_tokenizer(folder: Path, eos_token_ids: list[int] | None) -> Any:
    """Return mlx-lm's `TokenizerWrapper` of a folder; off the event loop, on any thread.

    Raises:
        ModelLoadFailed: With cause `bad_tokenizer`.
    """
    from mlx_lm.utils import load_tokenizer as load

    try:
        return load(folder, eos_token_ids=eos_token_ids)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise ModelLoadFailed(
            f"the tokenizer in {folder} cannot be loaded: {type(error).__name__}: {error}",
            phase="load",
            cause="bad_tokenizer",
        ) from error
