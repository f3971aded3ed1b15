"""Which weight files mlx-lm would load from a model folder, and the tensors their headers name.

Every header is sound (`safetensors_header`), no tensor is in two files, and an index names only
files that are there.

Not known here: the values. NaN weights are found on the engine thread, after the load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from ..errors import IsthmusError
from .config import quantization_of, read_object
from .folder import TEXT_FILE_LIMIT_BYTES, WEIGHT_PATTERN, check_plain_name, load_failed
from .safetensors_header import Tensor, corrupt_weights, read_header, shown

_FOREIGN_FORMATS: Final = re.compile(
    r"(?i)\.(gguf|ggml|bin|pt|pth|pkl|pickle|ckpt|h5|onnx|npz|msgpack|mlmodel)$"
)


def weight_names_in(names: frozenset[str]) -> list[str]:
    """Name the files that mlx-lm would load; refuse a folder that has other formats only.

    Raises:
        ModelLoadFailed: With cause `unsupported_format`.
    """
    weights = sorted(name for name in names if fnmatchcase(name, WEIGHT_PATTERN))
    foreign = sorted(name for name in names if _FOREIGN_FORMATS.search(name))
    if not weights and foreign and not any(name.endswith(".safetensors") for name in names):
        raise load_failed(
            "unsupported_format",
            f"{shown(foreign[0])}: only safetensors weights are loaded. Convert the model with "
            "mlx_lm.convert, or fetch it from mlx-community.",
            file=shown(foreign[0]),
        )
    return weights


def read_weights(
    folder: Path, names: frozenset[str], weight_names: Sequence[str]
) -> dict[str, Tensor]:
    """Read the headers of all weight files: each tensor by its name.

    Raises:
        ModelLoadFailed: With cause `missing_weights` or `corrupt_weights`.
        PathRefused: The index names a file outside the folder.
    """
    if "model.safetensors.index.json" in names:
        _check_index(folder, weight_names)
    if not weight_names:
        others = sorted(name for name in names if name.endswith(".safetensors"))
        found = f" (only {shown(others[0])})" if others else ""
        raise load_failed(
            "missing_weights", f"{shown(str(folder))} has no {WEIGHT_PATTERN}{found}."
        )
    tensors: dict[str, Tensor] = {}
    for name in weight_names:
        for tensor in read_header(folder / name).tensors:
            if tensor.name in tensors:
                # mlx-lm would keep whichever file it happens to read last.
                raise corrupt_weights(name, "another file holds it too", tensor.name)
            tensors[tensor.name] = tensor
    if not tensors:
        raise corrupt_weights(weight_names[0], "it holds no tensors")
    return tensors


def count_parameters(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Count as `get_total_parameters` of mlx_lm.utils: packed weights count unpacked."""
    quantization = config.get("quantization") or {}
    default = quantization_of(config) or {}
    total = 0
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        is_packed = f"{layer}.scales" in tensors and f"{layer}.weight" in tensors
        if is_packed and kind in ("scales", "biases"):
            continue
        own = quantization.get(layer)
        bits = (own if isinstance(own, dict) else default).get("bits")
        if is_packed and kind == "weight" and tensor.dtype == "uint32" and isinstance(bits, int):
            total += tensor.elements * 32 // max(bits, 1)
        else:
            total += tensor.elements
    return total


def _check_index(folder: Path, weight_names: Sequence[str]) -> None:
    file = "model.safetensors.index.json"
    try:
        weight_map = read_object(folder, file, TEXT_FILE_LIMIT_BYTES).get("weight_map")
    except IsthmusError as error:
        raise corrupt_weights(file, error.message) from error
    shards = weight_map.values() if isinstance(weight_map, dict) else [None]
    if not all(isinstance(shard, str) for shard in shards):
        raise corrupt_weights(file, "weight_map is not a map of strings")
    for shard in sorted(set(shards)):
        check_plain_name(shard, file)
        if not fnmatchcase(shard, WEIGHT_PATTERN):
            raise corrupt_weights(file, f"shard {shown(shard)} is not called {WEIGHT_PATTERN}")
        if shard not in weight_names:
            raise corrupt_weights(shard, f"{file} names it, but it is not there")
