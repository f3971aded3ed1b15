"""A model's configuration is read within bounds, and does not get its code run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import CodeRefused, ModelLoadFailed
from isthmus.models.verify import verify
from tests.fixtures.bad_models import CANARY, CODE_FOLDERS, BadFolder, write_json, write_sound
from tests.python.models.strategies import JSON, QUICK


@pytest.mark.parametrize("bad", CODE_FOLDERS, ids=lambda bad: bad.name)
def test_refused_code_names_the_option_and_is_not_run(bad: BadFolder, tmp_path: Path) -> None:
    with pytest.raises(CodeRefused, match="trust_remote_code") as caught:
        verify(bad.write(tmp_path / "model"), trust_remote_code=False)
    assert caught.value.details["option"] == "trust_remote_code"
    assert not (tmp_path / CANARY).exists()


def test_what_a_model_does_not_state_is_none(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    write_json(folder / "config.json", {"model_type": "llama"})
    found = verify(folder, trust_remote_code=False)
    assert (found.vocab_size, found.context_length, found.eos_token_ids) == (None, None, ())


def test_sizes_are_found_inside_text_config(tmp_path: Path) -> None:
    folder = write_sound(tmp_path / "model")
    inner = {"vocab_size": 9, "max_position_embeddings": 99}
    write_json(folder / "config.json", {"model_type": "gemma3", "text_config": inner})
    found = verify(folder, trust_remote_code=False)
    assert (found.vocab_size, found.context_length) == (9, 99)


@given(
    value=JSON,
    field=st.sampled_from(
        ["quantization", "eos_token_id", "text_config", "architectures", "model_type", "vocab_size"]
    ),
)
@QUICK
def test_any_json_in_a_config_is_accepted_or_refused(
    value: object, field: str, tmp_path: Path
) -> None:
    folder = write_sound(tmp_path / "model", **{field: value})
    try:
        verify(folder, trust_remote_code=False)
    except (ModelLoadFailed, CodeRefused) as error:
        error.message.encode("utf-8")
