"""What methods work with: made once, at the start of the runtime."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.kv_memory import KvMemory
from ..engine.thread import EngineThread
from ..faults import Faults
from ..models.cache import ModelCache
from ..multiplex.multiplexer import Multiplexer
from ..resilience.registry import Resilience
from ..settings import Settings
from .session_service import SessionService
from .text_operations import TextOperations


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the runtime that methods call."""

    settings: Settings
    engine: EngineThread
    models: ModelCache
    text: TextOperations
    multiplexer: Multiplexer
    resilience: Resilience
    sessions: SessionService
    memory: KvMemory
    faults: Faults | None = None
