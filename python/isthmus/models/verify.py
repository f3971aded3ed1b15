"""Whether a model folder may be given to mlx-lm, decided without mlx and without running anything.

The checks run in this order: `folder`, `config`, the model type (`architectures`),
`tokenizer_files`, `weights`. Code is refused unless `trust_remote_code`: `model_file` and
`auto_map` in config.json, `auto_map` in tokenizer_config.json, and tokenizer settings that name a
module. A stray `.py` that nothing refers to is never run, so it is let be.

Not seen here: the values of the weights. A folder that changes between this check and the load is
not detected either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .architectures import Architectures, installed_architectures
from .config import (
    bad_config,
    eos_token_ids,
    quantization_of,
    read_config,
    refuse_code,
    stated_size,
)
from .folder import check_links, check_plain_name, load_failed, names_in
from .safetensors_header import Tensor, shown
from .tokenizer_files import check_tokenizer, read_tokenizer_config
from .weights import count_parameters, read_weights, weight_names_in

_CONTEXT_FIELDS: Final = (
    *("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len"),
    *("seq_length", "n_ctx"),
)
_MODEL_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """What a sound model folder says of itself; sizes are in bytes.

    `parameters` counts the weights before packing, as mlx-lm does; `dtype_bytes` holds each
    dtype's share of the weights, the largest first; `context_length`, `vocab_size` and
    `quantization` (`bits` and `group_size`) are None where the folder does not state them.
    """

    path: Path
    config: Mapping[str, Any]
    architecture: str
    weight_files: tuple[Path, ...]
    weight_bytes: int
    tensor_count: int
    parameters: int
    dtype_bytes: tuple[tuple[str, int], ...]
    quantization: Mapping[str, int] | None
    context_length: int | None
    vocab_size: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def dtype(self) -> str | None:
        """The floating-point type that holds most bytes: that of the scales when quantized."""
        for name, _ in self.dtype_bytes:
            if name.startswith(("float", "bfloat")):
                return name
        return self.dtype_bytes[0][0] if self.dtype_bytes else None


def verify(
    folder: Path,
    *,
    trust_remote_code: bool,
    allowed_roots: tuple[Path, ...] = (),
    architectures: Architectures | None = None,
) -> VerifiedModel:
    """Check a model folder and describe it. Reads headers and JSON only; safe on any thread.

    Args:
        folder: As `locate` returned it.
        trust_remote_code: Let the folder name code of its own.
        allowed_roots: Where symlinks may lead besides the folder (`Located.allowed_roots`).
        architectures: Defaults to those of the installed mlx-lm.

    Raises:
        ModelLoadFailed: With cause `missing_folder`, `not_a_folder`, `empty_folder`,
            `missing_config`, `bad_config`, `unsupported_type`, `missing_tokenizer`,
            `bad_tokenizer_json`, `missing_weights`, `corrupt_weights`, `unsupported_format`,
            `not_a_file` or `io_error`.
        PathRefused: A file or a name in the folder leads out of it.
        CodeRefused: The folder wants code of its own to be run.
    """
    try:
        return _verify(folder, trust_remote_code, allowed_roots, architectures)
    except OSError as error:
        reason = error.strerror or str(error)
        raise load_failed("io_error", f"{shown(str(folder))} cannot be read: {reason}.") from error


def _verify(
    folder: Path,
    trust_remote_code: bool,
    allowed_roots: tuple[Path, ...],
    architectures: Architectures | None,
) -> VerifiedModel:
    names = names_in(folder)
    check_links(folder, names, allowed_roots)
    weight_names = weight_names_in(names)
    if "config.json" not in names:
        raise load_failed("missing_config", f"{shown(str(folder))} has no config.json.")
    config = read_config(folder, names)
    tokenizer_config = read_tokenizer_config(folder, names)
    if not trust_remote_code:
        refuse_code(config, tokenizer_config)
    architectures = architectures or installed_architectures()
    _check_model_type(folder, config, architectures)
    check_tokenizer(folder, names, tokenizer_config, architectures)
    tensors = read_weights(folder, names, weight_names)
    return _describe(folder, config, weight_names, tensors)


def _check_model_type(
    folder: Path, config: Mapping[str, Any], architectures: Architectures
) -> None:
    model_file = config.get("model_file")
    if model_file is not None:
        _check_model_file(folder, model_file)
        return
    model_type = config.get("model_type")
    if model_type is None:
        raise bad_config("model_type", "is missing")
    is_name = isinstance(model_type, str) and _MODEL_TYPE.fullmatch(model_type) is not None
    if not is_name or architectures.module_of(config) is None:
        raise load_failed(
            "unsupported_type",
            f"The installed mlx-lm has no model type {shown(model_type)}; a newer one may.",
            model_type=shown(model_type),
        )


def _check_model_file(folder: Path, model_file: object) -> None:
    if not isinstance(model_file, str):
        raise bad_config("model_file", "is not a file name")
    check_plain_name(model_file, "config.json")
    if not model_file.endswith(".py") or not (folder / model_file).is_file():
        raise bad_config("model_file", f"names {shown(model_file)}, no Python file of the folder")


def _describe(
    folder: Path,
    config: Mapping[str, Any],
    weight_names: Sequence[str],
    tensors: Mapping[str, Tensor],
) -> VerifiedModel:
    dtype_bytes: Counter[str] = Counter()
    for tensor in tensors.values():
        dtype_bytes[tensor.dtype] += tensor.size_bytes
    return VerifiedModel(
        path=folder,
        config=config,
        architecture=str(config.get("model_type") or config["model_file"]),
        weight_files=tuple(folder / name for name in weight_names),
        weight_bytes=dtype_bytes.total(),
        tensor_count=len(tensors),
        parameters=count_parameters(config, tensors),
        dtype_bytes=tuple(dtype_bytes.most_common()),
        quantization=quantization_of(config),
        context_length=stated_size(config, _CONTEXT_FIELDS),
        vocab_size=stated_size(config, ("vocab_size",)),
        eos_token_ids=eos_token_ids(config),
    )
