"""What the runtime says of a loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the runtime says of a model (docs/protocol.md, section 3).

    Attributes:
        pinned: Whether it stays in memory though nobody uses it.
        bytes: What it counts against the runtime's budget: weights and room for KV caches.
    """

    model: str
    source: str
    path: str
    architecture: str
    parameters: int
    vocab_size: int
    context_length: int | None
    dtype: str
    quantization: Mapping[str, Any] | None
    weight_bytes: int
    eos_token_ids: tuple[int, ...]
    has_chat_template: bool
    references: int
    load_ms: float
    pinned: bool = False
    bytes: int = 0

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> ModelInfo:
        """Read a model info map; unknown keys are ignored."""
        known = {field.name: wire[field.name] for field in fields(cls) if field.name in wire}
        return cls(**{**known, "eos_token_ids": tuple(known["eos_token_ids"])})
