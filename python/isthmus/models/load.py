"""Loads a verified folder: weights on the engine thread, the tokenizer beside it.

mlx-lm does the loading. What it may raise becomes `ModelLoadFailed` with a cause; weights are
evaluated and checked for NaN at once, inside the same `try`, because mlx loads lazily. One token is
run through the model before anybody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import IsthmusError, ModelLoadFailed
from ..text.tokenizer import TextTokenizer
from .verify import VerifiedModel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """What a caller asked for; equal sources share one load."""

    source: str
    revision: str | None = None
    adapter_path: str | None = None
    trust_remote_code: bool = False
    local_files_only: bool = False


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model that can be used.

    Attributes:
        handle: Its name on the wire.
        network: The mlx-lm model; touched on the engine thread only.
        tokenizer: For the loop and the text threads.
    """

    handle: str
    source: Source
    verified: VerifiedModel
    network: Any = field(repr=False)
    tokenizer: TextTokenizer = field(repr=False)
    vocab_size: int
    load_ms: float
    references: int = 0
    _operations: dict[Hashable, Any] = field(default_factory=dict, repr=False)

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

    def info(self) -> dict[str, Any]:
        """Return the model info of the protocol (section 3)."""
        quantization = self.verified.quantization
        return {
            "model": self.handle,
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
            "load_ms": self.load_ms,
        }


def load_network(folder: Path, adapter: Path | None, trust_remote_code: bool) -> tuple[Any, int]:
    """Load, evaluate and check the weights, and run one token; on the engine thread.

    Returns:
        The mlx-lm model, and the columns of its logits.

    Raises:
        ModelLoadFailed: With cause `unsupported_type`, `not_finite` or `load_failed`.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_adapters, load_model

    with _failures(folder):
        network, _ = load_model(folder, lazy=True, trust_remote_code=trust_remote_code)
        if adapter is not None:
            network = load_adapters(network, str(adapter))
            network.eval()
        parameters = dict(tree_flatten(network.parameters()))
        mx.eval(parameters)
        _check_finite(folder, parameters)
        return network, _warm_up(network)


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


def _warm_up(network: Any) -> int:
    """Run one token through the model; return the columns of its logits."""
    import mlx.core as mx

    logits = network(mx.array([[0]]))
    mx.eval(logits)
    return int(logits.shape[-1])


def _check_finite(folder: Path, parameters: dict[str, Any]) -> None:
    import mlx.core as mx

    floating = {
        name: mx.isfinite(mx.sum(array.astype(mx.float32)))
        for name, array in parameters.items()
        if mx.issubdtype(array.dtype, mx.floating)
    }
    mx.eval(floating)
    broken = [name for name, is_finite in floating.items() if not is_finite.item()]
    if broken:
        raise ModelLoadFailed(
            f"the weights in {folder} are not finite: {broken[0]} and "
            f"{len(broken) - 1} more hold NaN or infinity; download or convert the model again",
            phase="load",
            cause="not_finite",
            tensor=broken[0],
        )


class _failures:
    """Turns what mlx-lm raises while it loads `folder` into ModelLoadFailed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, IsthmusError) or not isinstance(error, Exception):
            return
        cause = "unsupported_type" if "not supported" in str(error) else "load_failed"
        raise ModelLoadFailed(
            f"the model in {self._folder} cannot be loaded: {type(error).__name__}: {error}",
            phase="load",
            cause=cause,
        ) from error


Progress = Callable[[str, int, int, str], None]
"""Told `(stage, done, total, unit)` while a model loads."""
