"""The runtime's settings: one frozen object, made at the process's entry from its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .limits import (
    DRAIN_GRACE_S,
    FRAME_LIMIT_BYTES,
    MODEL_IDLE_TIMEOUT_S,
    PIECE_BYTES,
    PREFILL_CHUNK_TOKENS,
    PROMPT_CACHE_BYTES,
    SESSION_DISK_BYTES,
    SESSION_FREE_DISK_BYTES,
    SESSION_TTL_S,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may set.

    Attributes:
        codec: `msgpack` or `json`.
        model_roots: Folders that local models must lie in; empty allows any folder.
        blas: Path of a BLAS library to put in front of mlx's on Linux, `auto` or `off`.
        frame_limit_bytes: Longest frame that is accepted.
        piece_bytes: Longer messages travel in pieces of this size.
        prefill_chunk_tokens: Prompt tokens evaluated at a time.
        prompt_cache_bytes: KV caches that a model keeps of ended generations; 0 keeps none.
        model_memory_bytes: What loaded models may take together; None asks the machine.
        model_idle_timeout_s: How long a model without references stays in memory.
        preload: Sources that are loaded at the start, and pinned.
        session_dir: Where sessions are kept; None keeps them in memory only.
        session_disk_bytes: What they may take there.
        session_free_disk_bytes: What they leave free of the disk.
        session_memory_bytes: What kept KV caches may take in memory; None: a share of the budget.
        session_ttl_s: How long an unused session is kept.
        session_fsync: Whether a save waits until the disk has it.
        faults: Specs of faults that are armed at the start (`isthmus.faults`); None: there are no
            faults, and none can be armed.
        drain_grace_s: Seconds that unsettled requests get once the host has closed our input.
    """

    codec: str = "msgpack"
    model_roots: tuple[Path, ...] = ()
    blas: str = "auto"
    frame_limit_bytes: int = FRAME_LIMIT_BYTES
    piece_bytes: int = PIECE_BYTES
    prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS
    prompt_cache_bytes: int = PROMPT_CACHE_BYTES
    model_memory_bytes: int | None = None
    model_idle_timeout_s: float = MODEL_IDLE_TIMEOUT_S
    preload: tuple[str, ...] = ()
    session_dir: Path | None = None
    session_disk_bytes: int = SESSION_DISK_BYTES
    session_free_disk_bytes: int = SESSION_FREE_DISK_BYTES
    session_memory_bytes: int | None = None
    session_ttl_s: float = SESSION_TTL_S
    session_fsync: bool = False
    faults: tuple[str, ...] | None = None
    drain_grace_s: float = DRAIN_GRACE_S
