"""All weight files of a model are found, and its parameters are counted as mlx-lm counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from isthmus.models.verify import VerifiedModel, verify
from tests.fixtures.bad_models import entry, write_json, write_sound
from tests.fixtures.bad_models import safetensors as safetensors_file


def _saved_llama(folder: Path, *, quantized: bool) -> tuple[VerifiedModel, int]:
    from mlx.nn.layers.quantized import quantize
    from mlx.utils import tree_flatten
    from mlx_lm import utils
    from mlx_lm.models import llama

    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 32,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
    }
    model: Any = llama.Model(llama.ModelArgs(**config))
    model.set_dtype(mx.float16)
    leaves: Any = tree_flatten(model.parameters())
    parameters = sum(array.size for _, array in leaves)
    if quantized:
        quantize(model, group_size=64, bits=4)
        config |= {"quantization": {"group_size": 64, "bits": 4}}
    write_sound(folder)
    utils.save_model(folder, model)
    utils.save_config(dict(config), folder / "config.json")
    return verify(folder, trust_remote_code=False), parameters


def test_all_shards_are_read_and_counted(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    second = safetensors_file({"c": entry([3], 0, 6, "F16")}, bytes(6))
    (folder / "model-2.safetensors").write_bytes(second)
    shards = {"a": "model.safetensors", "c": "model-2.safetensors"}
    write_json(folder / "model.safetensors.index.json", {"weight_map": shards})
    found = verify(folder, trust_remote_code=False)
    assert [path.name for path in found.weight_files] == sorted(shards.values())
    assert found.dtype_bytes == (("float32", 24), ("float16", 6))


def test_a_model_saved_by_mlx_lm_is_accepted(tmp_path: Path) -> None:
    found, parameters = _saved_llama(tmp_path / "model", quantized=False)
    assert (found.parameters, found.weight_bytes) == (parameters, 2 * parameters)
    assert (found.dtype, found.quantization) == ("float16", None)


def test_a_quantized_model_counts_its_weights_before_packing(tmp_path: Path) -> None:
    found, parameters = _saved_llama(tmp_path / "model", quantized=True)
    assert found.quantization == {"bits": 4, "group_size": 64}
    assert (found.parameters, found.dtype) == (parameters, "float16")
    assert found.weight_bytes < parameters
