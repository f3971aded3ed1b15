"""Whether a LoRA adapter folder may be given to mlx-lm, decided as for a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ..errors import ModelLoadFailed, PathRefused
from .safetensors_header import read_header

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapters.safetensors"
_CONFIG_LIMIT_BYTES: Final = 1024 * 1024


def verify_adapter(folder: Path) -> Path:
    """Check the two files that mlx-lm reads of an adapter; return the folder.

    Raises:
        ModelLoadFailed: With cause `missing_adapter`, `bad_adapter_config` or `corrupt_weights`.
        PathRefused: A file leads out of the folder.
    """
    for name in (_CONFIG, _WEIGHTS):
        file = folder / name
        if not file.is_file():
            raise _failed(f"{folder} has no {name}; give the folder that mlx_lm.lora wrote", folder)
        if file.resolve().parent != folder.resolve():
            raise PathRefused(f"{file} leads out of its folder", phase="load", field="adapter_path")
    config = folder / _CONFIG
    try:
        is_sound = config.stat().st_size <= _CONFIG_LIMIT_BYTES and isinstance(
            json.loads(config.read_bytes()), dict
        )
    except (ValueError, RecursionError):
        is_sound = False
    if not is_sound:
        raise _failed(f"{config} is not a JSON object", folder, cause="bad_adapter_config")
    read_header(folder / _WEIGHTS)
    return folder


def adapter_files(folder: Path) -> list[Path]:
    """Return the files that mlx-lm reads of an adapter."""
    return [folder / _CONFIG, folder / _WEIGHTS]


def adapter_bytes(folder: Path) -> int:
    """Return the size of a verified adapter's weights."""
    return sum(tensor.size_bytes for tensor in read_header(folder / _WEIGHTS).tensors)


def _failed(message: str, folder: Path, cause: str = "missing_adapter") -> ModelLoadFailed:
    return ModelLoadFailed(message, phase="load", cause=cause, path=str(folder))
