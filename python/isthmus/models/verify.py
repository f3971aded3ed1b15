"""Whether a model folder may be given to mlx-lm, decided without mlx and without running anything.

Every file that mlx-lm or transformers would read must be a regular file inside the folder (or an
allowed root: the Hub's cache is made of links), of bounded size; configuration must be sane JSON,
the model type one that mlx-lm has, and every weight header sound (`safetensors_header`).

Code is refused unless `trust_remote_code`: `model_file` and `auto_map` in config.json, `auto_map`
in tokenizer_config.json, and tokenizer settings that name a module. A stray `.py` that nothing
refers to, and a `.bin` or pickle beside safetensors, are never opened, so they are let be.

Not seen here: the values of the weights. NaN weights are found on the engine thread, after the
load. A folder that changes between this check and the load is not detected either.
"""

from __future__ import annotations

import ast
import functools
import glob
import importlib.util
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from isthmus.errors import CodeRefused, IsthmusError, ModelLoadFailed, PathRefused
from isthmus.models.safetensors_header import Tensor, corrupt_weights, read_header, shown

CONFIG_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Longest config.json and the like: quantized mixtures of experts list each layer, about 1 MB."""

TOKENIZER_CONFIG_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Longest tokenizer_config.json: it may hold the chat template and thousands of added tokens."""

TEXT_FILE_LIMIT_BYTES: Final = 128 * 1024 * 1024
"""Longest file of any other kind but weights: the largest published tokenizer.json has 35 MB."""

JSON_DEPTH_LIMIT: Final = 32
"""Deepest nesting of a configuration; published ones need 6. mlx-lm walks it recursively."""

FOLDER_ENTRIES_LIMIT: Final = 10_000
"""Most entries of a folder; the largest published model has 300 files."""

NUMBER_LIMITS: Final[Mapping[str, tuple[int, int]]] = {
    "vocab_size": (1, 2**24),
    "hidden_size": (1, 2**20),
    "intermediate_size": (0, 2**24),
    "moe_intermediate_size": (0, 2**24),
    "num_hidden_layers": (1, 4096),
    "n_layer": (1, 4096),
    "n_layers": (1, 4096),
    "num_attention_heads": (0, 2**16),
    "num_key_value_heads": (0, 2**16),
    "head_dim": (0, 2**16),
    "num_experts": (0, 2**16),
    "num_local_experts": (0, 2**16),
    "n_routed_experts": (0, 2**16),
    "max_position_embeddings": (1, 2**31 - 1),
}
"""Sizes that a configuration may state, 8 to 64 times the largest published ones. mlx-lm builds
the whole model from them before it looks at a weight: a million layers would be built."""

QUANTIZATION_LIMITS: Final[Mapping[str, tuple[int, int]]] = {
    "bits": (1, 16),
    "group_size": (1, 4096),
}
"""Wider than what mlx quantizes to, so that its own error decides within them."""

EOS_IDS_LIMIT: Final = 1_024
"""Most end tokens; published models state up to 10."""

WEIGHT_PATTERN: Final = "model*.safetensors"
"""What `mlx_lm.utils.load_model` loads."""

_READ_PATTERNS: Final = (
    *(WEIGHT_PATTERN, "*.json", "*.jinja", "*.jsonl", "*.txt"),
    *("tokenizer.model*", "tiktoken.model", "*.tiktoken", "*.py"),
)
_TEMPLATE_FOLDER: Final = "additional_chat_templates"
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model*", "tiktoken.model", "*.tiktoken")
_VOCABULARY_FILES: Final = (("vocab.json", "merges.txt"), ("vocab.txt",), ("tekken.json",))
_FOREIGN_FORMATS: Final = re.compile(
    r"(?i)\.(gguf|ggml|bin|pt|pth|pkl|pickle|ckpt|h5|onnx|npz|msgpack|mlmodel)$"
)
_CONTEXT_FIELDS: Final = (
    *("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len"),
    *("seq_length", "n_ctx"),
)
_INNER_CONFIGS: Final = ("text_config", "llm_config", "language_config")
_MODEL_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MODULE_NAME: Final = re.compile(r"[a-z0-9_]{1,128}")
_DEFINES_MODEL: Final = re.compile(r"(?m)^(class Model\b|Model *=|from \S+ import .*\bModel\b)")
_MODULE_SETTINGS: Final = {
    "chat_template_type": "chat_templates",
    "tool_parser_type": "tool_parsers",
}


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


@dataclass(frozen=True, slots=True)
class Architectures:
    """The model types and tokenizer modules of the installed mlx-lm, read without importing it."""

    folder: Path
    renamed: Mapping[str, str]
    renamed_by_class: Mapping[tuple[str, str], str]

    def module_of(self, config: Mapping[str, Any]) -> str | None:
        """Name the module that mlx-lm would import for a configuration, or None.

        Follows `_get_classes` of mlx_lm.utils.
        """
        model_type = str(config.get("model_type"))
        classes = config.get("architectures")
        classes = classes if isinstance(classes, list) else [classes]
        names = (self.renamed_by_class.get((model_type, str(name))) for name in classes)
        renamed = next(filter(None, names), self.renamed.get(model_type, model_type))
        return renamed if self._defines_model(renamed) else None

    def has_module(self, package: str, name: str) -> bool:
        """Tell whether mlx_lm.<package> has that module, in exactly that spelling."""
        folder = self.folder / package
        return folder.is_dir() and f"{name}.py" in os.listdir(folder)

    def _defines_model(self, name: str) -> bool:
        # Beside the architectures lie helpers (cache, base, ...) that define no model.
        if not self.has_module("models", name):
            return False
        source = (self.folder / "models" / f"{name}.py").read_text("utf-8")
        return _DEFINES_MODEL.search(source) is not None


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
        raise _failed("io_error", f"{shown(str(folder))} cannot be read: {reason}.") from error


def _verify(
    folder: Path,
    trust_remote_code: bool,
    allowed_roots: tuple[Path, ...],
    architectures: Architectures | None,
) -> VerifiedModel:
    names = _names_in(folder)
    _check_links(folder, names, allowed_roots)
    weight_names = _weight_names(names)
    if "config.json" not in names:
        raise _failed("missing_config", f"{shown(str(folder))} has no config.json.")
    config = _config(folder, names)
    tokenizer_config = _tokenizer_config(folder, names)
    if not trust_remote_code:
        _refuse_code(config, tokenizer_config)
    architectures = architectures or installed_architectures()
    _check_model_type(folder, config, architectures)
    _check_tokenizer(folder, names, tokenizer_config, architectures)
    tensors = _weights(folder, names, weight_names)
    return _describe(folder, config, weight_names, tensors)


# --- the folder and its files ---------------------------------------------------------------


def _failed(cause: str, message: str, **details: object) -> ModelLoadFailed:
    error = ModelLoadFailed(message, phase="load", cause=cause)
    error.details.update(details)
    return error


def _names_in(folder: Path) -> frozenset[str]:
    if not folder.exists():
        raise _failed("missing_folder", f"There is no folder {shown(str(folder))}.")
    if not folder.is_dir():
        raise _failed("not_a_folder", f"{shown(str(folder))} is not a folder.")
    if glob.escape(str(folder)) != str(folder):
        # mlx-lm globs with the folder's name: a[b] would load the weights of the folder ab.
        raise PathRefused(
            f"{shown(str(folder))} holds one of * ? [, which mlx-lm reads as a pattern; rename it.",
            phase="load",
        )
    names = [name for name in os.listdir(folder) if not name.startswith(".")]
    if not names:
        raise _failed("empty_folder", f"{shown(str(folder))} is empty.")
    if len(names) > FOLDER_ENTRIES_LIMIT:
        raise _failed("bad_config", f"{shown(str(folder))} has over {FOLDER_ENTRIES_LIMIT} files.")
    return frozenset(names)


def _check_links(folder: Path, names: Iterable[str], allowed_roots: Sequence[Path]) -> None:
    """Refuse links that lead out, and pipes and devices that would block or flood a reader."""
    roots = [Path(os.path.realpath(root)) for root in (folder, *allowed_roots)]
    read = [folder / name for name in names if _matches(name, _READ_PATTERNS)]
    templates = folder / _TEMPLATE_FOLDER
    if os.path.lexists(templates):
        _check_inside(templates, roots)
        read += templates.glob("*.jinja")
    for path in read:
        _check_inside(path, roots)
        if not path.exists():
            raise _failed("not_a_file", f"{shown(path.name)} is a link to nothing.")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _failed("not_a_file", f"{shown(path.name)} is not a regular file.")
        is_weight = fnmatchcase(path.name, WEIGHT_PATTERN)
        if not is_weight and status.st_size > TEXT_FILE_LIMIT_BYTES:
            raise _too_large(path.name, TEXT_FILE_LIMIT_BYTES)


def _check_inside(path: Path, roots: Sequence[Path]) -> None:
    target = Path(os.path.realpath(path))
    if not any(target.is_relative_to(root) for root in roots):
        raise PathRefused(
            f"{shown(path.name)} is a link out of the model folder; copy the file into it.",
            phase="load",
            file=shown(path.name),
        )


def _check_plain_name(name: str, where: str) -> None:
    """Refuse names that are joined to the folder's path and could leave it."""
    if name in ("", ".", "..") or any(char in name for char in "/\\:\0"):
        raise PathRefused(
            f"{where} names the file {shown(name)}, which is not a plain file name.",
            phase="load",
            file=shown(name),
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _cause_for(name: str) -> str:
    return "bad_tokenizer_json" if name.startswith("tokenizer") else "bad_config"


def _too_large(name: str, limit_bytes: int) -> ModelLoadFailed:
    return _failed(
        _cause_for(name), f"{shown(name)} is over {limit_bytes} bytes.", file=shown(name)
    )


def _read_object(folder: Path, name: str, limit_bytes: int) -> dict[str, Any]:
    with (folder / name).open("rb") as file:
        raw = file.read(limit_bytes + 1)
    if len(raw) > limit_bytes:
        raise _too_large(name, limit_bytes)
    reason = "it is not a JSON object"
    try:
        value = json.loads(raw.decode("utf-8"))
    except RecursionError:
        value, reason = None, "it nests too deep"
    except ValueError as error:
        value, reason = None, f"it is not valid JSON ({shown(str(error))})"
    if isinstance(value, dict):
        return value
    raise _failed(_cause_for(name), f"{name} cannot be used: {reason}.", file=name, reason=reason)


# --- the configuration ----------------------------------------------------------------------


def _config(folder: Path, names: frozenset[str]) -> dict[str, Any]:
    config = _read_object(folder, "config.json", CONFIG_LIMIT_BYTES)
    _check_depth(config)
    for part in (config, *_inner_configs(config)):
        _check_numbers(part, NUMBER_LIMITS)
    _check_quantization(config)
    if "generation_config.json" in names:
        # As in mlx-lm, what it says of end tokens counts, unless it says nothing.
        generation = _read_object(folder, "generation_config.json", CONFIG_LIMIT_BYTES)
        config["eos_token_id"] = generation.get("eos_token_id") or config.get("eos_token_id")
    _eos_token_ids(config)
    if "hf_quant_config.json" in names:
        _read_object(folder, "hf_quant_config.json", CONFIG_LIMIT_BYTES)
    return config


def _bad_config(field: str, why: str) -> ModelLoadFailed:
    return _failed("bad_config", f"config.json: {field} {why}.", file="config.json", field=field)


def _check_depth(config: dict[str, Any]) -> None:
    level: list[Any] = [config]
    for _ in range(JSON_DEPTH_LIMIT):
        children = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in children for v in values if isinstance(v, dict | list)]
    if level:
        raise _failed("bad_config", f"config.json nests over {JSON_DEPTH_LIMIT} deep.")


def _inner_configs(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    for name in _INNER_CONFIGS:
        if not isinstance(config.get(name), dict | None):
            raise _bad_config(name, "is not an object")
    return [config[name] for name in _INNER_CONFIGS if config.get(name)]


def _check_numbers(part: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]) -> None:
    for field, (least, most) in limits.items():
        value = part.get(field)
        # Some architectures state one size for each layer, with null where it has none.
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (type(number) is int and least <= number <= most):
                raise _bad_config(field, f"is not an integer from {least} to {most}")


def _check_quantization(config: Mapping[str, Any]) -> None:
    for field in ("quantization", "quantization_config"):
        settings = config.get(field)
        if settings is None or settings is False:
            continue
        if not isinstance(settings, dict):
            raise _bad_config(field, "is not an object")
        _check_numbers(settings, QUANTIZATION_LIMITS)
        if field == "quantization" and not settings.keys() >= QUANTIZATION_LIMITS.keys():
            raise _bad_config(field, "does not state bits and group_size")


def _eos_token_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    stated = config.get("eos_token_id")
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if len(ids) > EOS_IDS_LIMIT or not all(type(i) is int and abs(i) < 2**31 for i in ids):
        raise _bad_config("eos_token_id", f"is not a list of up to {EOS_IDS_LIMIT} token ids")
    return tuple(i for i in ids if i >= 0)


# --- code -----------------------------------------------------------------------------------


def _refuse_code(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> None:
    if config.get("model_file") is not None:
        raise _code_refused("config.json", "model_file")
    for file, settings in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        if settings.get("auto_map"):
            raise _code_refused(file, "auto_map")
    for field in _MODULE_SETTINGS:
        name = tokenizer_config.get(field)
        if isinstance(name, str) and not _MODULE_NAME.fullmatch(name):
            raise _code_refused("tokenizer_config.json", field)


def _code_refused(file: str, field: str) -> CodeRefused:
    return CodeRefused(
        f"{file} asks through {field} for code from the model folder to be run. If you trust its "
        "author, load the model with trust_remote_code.",
        phase="load",
        option="trust_remote_code",
        file=file,
        field=field,
    )


# --- the model type -------------------------------------------------------------------------


@functools.cache
def installed_architectures() -> Architectures:
    """Read the installed mlx-lm's model types from its files.

    Importing mlx_lm takes 0.8 s and starts mlx on the calling thread, so its two tables of
    renamed types are parsed out of `utils.py` instead.

    Raises:
        ModelLoadFailed: Cause `unsupported_type`: mlx-lm is not installed.
    """
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        raise _failed("unsupported_type", "mlx_lm is not installed; run isthmus doctor.")
    folder = Path(next(iter(spec.submodule_search_locations)))
    tables: dict[str, Any] = {}
    for node in ast.parse((folder / "utils.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("MODEL_REMAPPING", "MODEL_ARCHITECTURE_REMAPPING"):
                tables[name] = ast.literal_eval(node.value)
    return Architectures(
        folder,
        tables.get("MODEL_REMAPPING", {}),
        tables.get("MODEL_ARCHITECTURE_REMAPPING", {}),
    )


def _check_model_type(
    folder: Path, config: Mapping[str, Any], architectures: Architectures
) -> None:
    model_file = config.get("model_file")
    if model_file is not None:
        _check_model_file(folder, model_file)
        return
    model_type = config.get("model_type")
    if model_type is None:
        raise _bad_config("model_type", "is missing")
    is_name = isinstance(model_type, str) and _MODEL_TYPE.fullmatch(model_type) is not None
    if not is_name or architectures.module_of(config) is None:
        raise _failed(
            "unsupported_type",
            f"The installed mlx-lm has no model type {shown(model_type)}; a newer one may.",
            model_type=shown(model_type),
        )


def _check_model_file(folder: Path, model_file: object) -> None:
    if not isinstance(model_file, str):
        raise _bad_config("model_file", "is not a file name")
    _check_plain_name(model_file, "config.json")
    if not model_file.endswith(".py") or not (folder / model_file).is_file():
        raise _bad_config("model_file", f"names {shown(model_file)}, no Python file of the folder")


# --- the tokenizer --------------------------------------------------------------------------


def _tokenizer_config(folder: Path, names: frozenset[str]) -> dict[str, Any]:
    if "tokenizer_config.json" not in names:
        return {}
    return _read_object(folder, "tokenizer_config.json", TOKENIZER_CONFIG_LIMIT_BYTES)


def _check_tokenizer(
    folder: Path,
    names: frozenset[str],
    tokenizer_config: Mapping[str, Any],
    architectures: Architectures,
) -> None:
    has_file = any(_matches(name, _TOKENIZER_FILES) for name in names)
    if not has_file and not any(names.issuperset(files) for files in _VOCABULARY_FILES):
        raise _failed("missing_tokenizer", f"{shown(str(folder))} has no tokenizer.json.")
    if "tokenizer.json" in names:
        tokenizer = _read_object(folder, "tokenizer.json", TEXT_FILE_LIMIT_BYTES)
        if not isinstance(tokenizer.get("model"), dict):
            raise _failed("bad_tokenizer_json", "tokenizer.json has no model.")
    _check_tokenizer_modules(tokenizer_config, architectures)
    files = tokenizer_config.get("fast_tokenizer_files", [])
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise _failed("bad_tokenizer_json", "fast_tokenizer_files is not a list of file names.")
    for name in files:
        _check_plain_name(name, "tokenizer_config.json")


def _check_tokenizer_modules(
    tokenizer_config: Mapping[str, Any], architectures: Architectures
) -> None:
    for field, package in _MODULE_SETTINGS.items():
        name = tokenizer_config.get(field)
        if name is None:
            continue
        is_name = isinstance(name, str) and _MODULE_NAME.fullmatch(name) is not None
        if not is_name or not architectures.has_module(package, name):
            raise _failed(
                "unsupported_type",
                f"The installed mlx-lm has no {field} {shown(name)}.",
                field=field,
            )


# --- the weights ----------------------------------------------------------------------------


def _weight_names(names: frozenset[str]) -> list[str]:
    """Name the files that mlx-lm would load; refuse a folder that has other formats only."""
    weights = sorted(name for name in names if fnmatchcase(name, WEIGHT_PATTERN))
    foreign = sorted(name for name in names if _FOREIGN_FORMATS.search(name))
    if not weights and foreign and not any(name.endswith(".safetensors") for name in names):
        raise _failed(
            "unsupported_format",
            f"{shown(foreign[0])}: only safetensors weights are loaded. Convert the model with "
            "mlx_lm.convert, or fetch it from mlx-community.",
            file=shown(foreign[0]),
        )
    return weights


def _weights(folder: Path, names: frozenset[str], weight_names: Sequence[str]) -> dict[str, Tensor]:
    if "model.safetensors.index.json" in names:
        _check_index(folder, weight_names)
    if not weight_names:
        others = sorted(name for name in names if name.endswith(".safetensors"))
        found = f" (only {shown(others[0])})" if others else ""
        raise _failed("missing_weights", f"{shown(str(folder))} has no {WEIGHT_PATTERN}{found}.")
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


def _check_index(folder: Path, weight_names: Sequence[str]) -> None:
    file = "model.safetensors.index.json"
    try:
        weight_map = _read_object(folder, file, TEXT_FILE_LIMIT_BYTES).get("weight_map")
    except IsthmusError as error:
        raise corrupt_weights(file, error.message) from error
    shards = weight_map.values() if isinstance(weight_map, dict) else [None]
    if not all(isinstance(shard, str) for shard in shards):
        raise corrupt_weights(file, "weight_map is not a map of strings")
    for shard in sorted(set(shards)):
        _check_plain_name(shard, file)
        if not fnmatchcase(shard, WEIGHT_PATTERN):
            raise corrupt_weights(file, f"shard {shown(shard)} is not called {WEIGHT_PATTERN}")
        if shard not in weight_names:
            raise corrupt_weights(shard, f"{file} names it, but it is not there")


# --- what is told of the model --------------------------------------------------------------


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
        parameters=_parameters(config, tensors),
        dtype_bytes=tuple(dtype_bytes.most_common()),
        quantization=_quantization(config),
        context_length=_stated(config, _CONTEXT_FIELDS),
        vocab_size=_stated(config, ("vocab_size",)),
        eos_token_ids=_eos_token_ids(config),
    )


def _quantization(config: Mapping[str, Any]) -> Mapping[str, int] | None:
    for field in ("quantization", "quantization_config"):
        settings = config.get(field) or {}
        stated = {k: settings[k] for k in QUANTIZATION_LIMITS if isinstance(settings.get(k), int)}
        if len(stated) == len(QUANTIZATION_LIMITS):
            return stated
    return None


def _parameters(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Count as `get_total_parameters` of mlx_lm.utils: packed weights count unpacked."""
    quantization = config.get("quantization") or {}
    default = _quantization(config) or {}
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


def _stated(config: Mapping[str, Any], fields: Sequence[str]) -> int | None:
    for part in (config, *_inner_configs(config)):
        for field in fields:
            value = part.get(field)
            if type(value) is int and 0 < value < 2**31:
                return value
    return None
