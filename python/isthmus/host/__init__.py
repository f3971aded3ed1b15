"""A Python host for the runtime: for scripts, tests and benchmarks.

    async with await isthmus.host.start() as runtime:
        model = await runtime.load_model()
        async for delta in model.generate("Once upon a time", max_tokens=40):
            ...

Works on asyncio's own loop and on uvloop. Imports neither mlx nor mlx_lm.
"""

from .draft import DraftCheck, DraftCompatibility, DraftCosts, DraftVerdict
from .generation import (
    Delta,
    GenerateOptions,
    Generation,
    GenerationResult,
    TokenLogprobs,
    Usage,
)
from .life import RuntimeState, StateChange
from .model import Model
from .model_info import ModelInfo
from .options import Graces, SessionOptions
from .process import ExitReport
from .restarts import RestartOptions
from .runtime import Runtime
from .session import Session
from .session_info import EvictResult, SaveResult, SessionInfo
from .sessions import Sessions
from .start import start
from .text import Encoding
from .watchdog import HeartbeatOptions

__all__ = [
    "Delta",
    "DraftCheck",
    "DraftCompatibility",
    "DraftCosts",
    "DraftVerdict",
    "Encoding",
    "EvictResult",
    "ExitReport",
    "GenerateOptions",
    "Generation",
    "GenerationResult",
    "Graces",
    "HeartbeatOptions",
    "Model",
    "ModelInfo",
    "RestartOptions",
    "Runtime",
    "RuntimeState",
    "SaveResult",
    "Session",
    "SessionInfo",
    "SessionOptions",
    "Sessions",
    "StateChange",
    "TokenLogprobs",
    "Usage",
    "start",
]
