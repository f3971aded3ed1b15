"""The JSON configuration of a model folder: read within bounds, checked, and asked.

A file that passes is a JSON object of bounded size; config.json nests within a limit, since mlx-lm
walks it recursively, and states sizes within limits, since mlx-lm builds the model from them.
`refuse_code` finds the settings that would have code of the folder run.

Not known here: whether the weights agree with it, which model types there are, and whether the
caller trusts the folder's code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import CodeRefused, ModelLoadFailed
from .architectures import MODULE_NAME, MODULE_SETTINGS
from .folder import cause_for, load_failed, too_large
from .safetensors_header import shown

CONFIG_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Longest config.json and the like: quantized mixtures of experts list each layer, about 1 MB."""

JSON_DEPTH_LIMIT: Final = 32
"""Deepest nesting of a configuration; published ones need 6. mlx-lm walks it recursively."""

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

_INNER_CONFIGS: Final = ("text_config", "llm_config", "language_config")


def read_object(folder: Path, name: str, limit_bytes: int) -> dict[str, Any]:
    """Read a JSON object from a file of the folder, up to a limit.

    Raises:
        ModelLoadFailed: With cause `bad_tokenizer_json` for a tokenizer's file, else `bad_config`.
    """
    with (folder / name).open("rb") as file:
        raw = file.read(limit_bytes + 1)
    if len(raw) > limit_bytes:
        raise too_large(name, limit_bytes)
    reason = "it is not a JSON object"
    try:
        value = json.loads(raw.decode("utf-8"))
    except RecursionError:
        value, reason = None, "it nests too deep"
    except ValueError as error:
        value, reason = None, f"it is not valid JSON ({shown(str(error))})"
    if isinstance(value, dict):
        return value
    raise load_failed(
        cause_for(name), f"{name} cannot be used: {reason}.", file=name, reason=reason
    )


def read_config(folder: Path, names: frozenset[str]) -> dict[str, Any]:
    """Read and check config.json, with the end tokens of generation_config.json put into it.

    Raises:
        ModelLoadFailed: With cause `bad_config`.
    """
    config = read_object(folder, "config.json", CONFIG_LIMIT_BYTES)
    _check_depth(config)
    for part in (config, *inner_configs(config)):
        _check_numbers(part, NUMBER_LIMITS)
    _check_quantization(config)
    if "generation_config.json" in names:
        # As in mlx-lm, what it says of end tokens counts, unless it says nothing.
        generation = read_object(folder, "generation_config.json", CONFIG_LIMIT_BYTES)
        config["eos_token_id"] = generation.get("eos_token_id") or config.get("eos_token_id")
    eos_token_ids(config)
    if "hf_quant_config.json" in names:
        read_object(folder, "hf_quant_config.json", CONFIG_LIMIT_BYTES)
    return config


def refuse_code(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> None:
    """Refuse settings that make mlx-lm or transformers run code of the model folder.

    Raises:
        CodeRefused: With the file and the field.
    """
    if config.get("model_file") is not None:
        raise _code_refused("config.json", "model_file")
    for file, settings in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        if settings.get("auto_map"):
            raise _code_refused(file, "auto_map")
    for field in MODULE_SETTINGS:
        name = tokenizer_config.get(field)
        if isinstance(name, str) and not MODULE_NAME.fullmatch(name):
            raise _code_refused("tokenizer_config.json", field)


def eos_token_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the end tokens that a configuration states; negative ones are left out.

    Raises:
        ModelLoadFailed: With cause `bad_config`.
    """
    stated = config.get("eos_token_id")
    ids = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if len(ids) > EOS_IDS_LIMIT or not all(type(i) is int and abs(i) < 2**31 for i in ids):
        raise bad_config("eos_token_id", f"is not a list of up to {EOS_IDS_LIMIT} token ids")
    return tuple(i for i in ids if i >= 0)


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, int] | None:
    """Return `bits` and `group_size` where a configuration states both."""
    for field in ("quantization", "quantization_config"):
        settings = config.get(field) or {}
        stated = {k: settings[k] for k in QUANTIZATION_LIMITS if isinstance(settings.get(k), int)}
        if len(stated) == len(QUANTIZATION_LIMITS):
            return stated
    return None


def stated_size(config: Mapping[str, Any], fields: Sequence[str]) -> int | None:
    """Return the first of the fields that states one from 1 to 2**31 - 1, inner objects last."""
    for part in (config, *inner_configs(config)):
        for field in fields:
            value = part.get(field)
            if type(value) is int and 0 < value < 2**31:
                return value
    return None


def bad_config(field: str, why: str) -> ModelLoadFailed:
    """Return the error of a field of config.json, for the caller to raise."""
    return load_failed(
        "bad_config", f"config.json: {field} {why}.", file="config.json", field=field
    )


def _check_depth(config: dict[str, Any]) -> None:
    level: list[Any] = [config]
    for _ in range(JSON_DEPTH_LIMIT):
        children = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in children for v in values if isinstance(v, dict | list)]
    if level:
        raise load_failed("bad_config", f"config.json nests over {JSON_DEPTH_LIMIT} deep.")


def inner_configs(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the configurations inside one, such as that of a multimodal model's text part.

    Raises:
        ModelLoadFailed: With cause `bad_config`.
    """
    for name in _INNER_CONFIGS:
        if not isinstance(config.get(name), dict | None):
            raise bad_config(name, "is not an object")
    return [config[name] for name in _INNER_CONFIGS if config.get(name)]


def _check_numbers(part: Mapping[str, Any], limits: Mapping[str, tuple[int, int]]) -> None:
    for field, (least, most) in limits.items():
        value = part.get(field)
        # Some architectures state one size for each layer, with null where it has none.
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (type(number) is int and least <= number <= most):
                raise bad_config(field, f"is not an integer from {least} to {most}")


def _check_quantization(config: Mapping[str, Any]) -> None:
    for field in ("quantization", "quantization_config"):
        settings = config.get(field)
        if settings is None or settings is False:
            continue
        if not isinstance(settings, dict):
            raise bad_config(field, "is not an object")
        _check_numbers(settings, QUANTIZATION_LIMITS)
        if field == "quantization" and not settings.keys() >= QUANTIZATION_LIMITS.keys():
            raise bad_config(field, "does not state bits and group_size")


def _code_refused(file: str, field: str) -> CodeRefused:
    return CodeRefused(
        f"{file} asks through {field} for code from the model folder to be run. If you trust its "
        "author, load the model with trust_remote_code.",
        phase="load",
        option="trust_remote_code",
        file=file,
        field=field,
    )
