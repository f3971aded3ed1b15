"""The sampling options of `generate` and `check_draft` (docs/protocol.md, section 4)."""

from __future__ import annotations

import secrets
from typing import Any, Final

from ..errors import InvalidRequest
from ..limits import CONTEXT_LIMIT, PENALTY_CONTEXT_TOKENS
from ..models.load import LoadedModel
from .params import Params

SEED_LIMIT: Final = 2**53 - 1
_BIAS_LIMIT: Final = 65_536


def read_sampling(fields: Params, model: LoadedModel) -> dict[str, Any]:
    """Read how tokens are chosen: the fields of `engine.sampling.SamplingOptions`, by name.

    Raises:
        InvalidRequest: A field has a wrong type or range.
    """
    seed = fields.integer("seed", 0, SEED_LIMIT, None)
    top_p = fields.number("top_p", 0.0, 1.0, 1.0)
    repetition = fields.number("repetition_penalty", 0.0, 100.0, 1.0)
    for name, value in (("top_p", top_p), ("repetition_penalty", repetition)):
        if value <= 0:
            raise InvalidRequest(f"`{name}` must be above 0", field=name)
    return {
        "temperature": fields.number("temperature", 0.0, 10.0, 0.0),
        "top_p": top_p,
        "top_k": fields.integer("top_k", 0, CONTEXT_LIMIT, 0),
        "min_p": fields.number("min_p", 0.0, 1.0, 0.0),
        "repetition_penalty": repetition,
        "repetition_context_size": _context_size(fields, "repetition_context_size"),
        "presence_penalty": fields.number("presence_penalty", -10.0, 10.0, 0.0),
        "frequency_penalty": fields.number("frequency_penalty", -10.0, 10.0, 0.0),
        "penalty_context_size": _context_size(fields, "penalty_context_size"),
        "logit_bias": _read_bias(fields, model),
        "seed": secrets.randbelow(SEED_LIMIT) if seed is None else seed,
    }


def _context_size(fields: Params, name: str) -> int:
    return fields.integer(name, 1, CONTEXT_LIMIT, PENALTY_CONTEXT_TOKENS)


def _read_bias(fields: Params, model: LoadedModel) -> dict[int, float]:
    bias: dict[int, float] = {}
    for index, pair in enumerate(fields.items("logit_bias", list, _BIAS_LIMIT, [])):
        if (
            len(pair) != 2
            or type(pair[0]) is not int
            or type(pair[1]) not in (int, float)
            or not -1e9 <= pair[1] <= 1e9
        ):
            raise InvalidRequest(
                f"logit_bias[{index}] must be [token id, number]", field=f"logit_bias[{index}]"
            )
        bias[pair[0]] = float(pair[1])
    model.tokenizer.check(list(bias), "logit_bias")
    return bias
