"""The installed mlx-lm's model types are read as mlx-lm itself would resolve them."""

from __future__ import annotations

import pytest

from isthmus.models.architectures import installed_architectures


@pytest.mark.parametrize(
    ("model_type", "module"),
    [
        ("llama", "llama"),
        ("mistral", "llama"),
        ("phi-msft", "phixtral"),
        ("lfm2-vl", "lfm2-vl"),
        ("solar_open", "solar_open"),
        ("Llama", None),
        ("base", None),
        ("../utils", None),
    ],
)
def test_a_model_type_leads_to_the_module_that_mlx_lm_would_import(
    model_type: str, module: str | None
) -> None:
    assert installed_architectures().module_of({"model_type": model_type}) == module


def test_an_architecture_can_rename_a_model_type() -> None:
    config = {"model_type": "bailing_hybrid", "architectures": ["BailingMoeV3ForCausalLM"]}
    assert installed_architectures().module_of(config) == "bailing_moe_v3"


def test_the_tables_of_renamed_types_are_those_of_mlx_lm() -> None:
    from mlx_lm import utils

    installed = installed_architectures()
    assert installed.renamed == utils.MODEL_REMAPPING
    assert installed.renamed_by_class == utils.MODEL_ARCHITECTURE_REMAPPING
