"""Random requests: each method's own params with values that are right, wrong, or absurd.

`MODEL` and `FOLDER` stand for the handle and the source of a model that the test has. Every method
of the runtime must be in `PARAMS`.
"""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from isthmus.errors import BY_CODE

MODEL: Final = "<the model>"
FOLDER: Final = "<its folder>"

SAFE: Final = 2**53 - 1
CODES: Final = frozenset(BY_CODE) - {"INTERNAL"}
"""Of refusals; INTERNAL would be a defect."""

Values = st.SearchStrategy[Any]
ANY_TEXT: Final = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "\u00e9\U0001f600\u202e", "ffi" * 40, "{{ x }}", "<|end|>", "x" * 5_000]
)
WRONG: Final = st.recursive(
    st.booleans()
    | st.integers(-SAFE, SAFE)
    | st.sampled_from([0, -1, 2**31, 2**32, SAFE, -SAFE])
    | st.floats()
    | ANY_TEXT
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=2),
    max_leaves=6,
)
"""Values that mostly do not belong where they are put."""

TEXT: Final = st.sampled_from(["a", "abc", "once upon a time", "\u00e9\u00df\U0001f600"]) | ANY_TEXT
IDS: Final = st.lists(st.integers(-2, 330), max_size=6) | st.lists(
    st.integers(0, 255), min_size=1, max_size=6
).map(lambda ids: b"".join(token.to_bytes(4, "little") for token in ids))
FLAG: Final = st.booleans()
HANDLE: Final = st.just(MODEL)
MESSAGES: Final = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", ""]), "content": TEXT}),
    max_size=3,
)
FORMATS: Final = st.sampled_from(
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "schema": {"type": "boolean"}},
        {"type": "json_schema", "schema": {"type": "nothing"}},
        {"type": "regex", "pattern": "a{2,4}"},
        {"type": "regex", "pattern": "(("},
        {"type": "choice", "choices": ["a", "b"]},
        {"type": "choice", "choices": []},
        {"type": "grammar", "grammar": 'start: "x"'},
        {"type": "grammar", "grammar": "start"},
    ]
)
PROMPTS: Final = {"prompt": TEXT, "messages": MESSAGES, "ids": IDS}
TEMPLATE: Final = {
    "add_generation_prompt": FLAG,
    "tools": st.lists(st.dictionaries(TEXT, TEXT, max_size=1), max_size=1),
    "template_options": st.dictionaries(TEXT, TEXT, max_size=2),
}
SAMPLING: Final = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 400),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0, 3),
    "repetition_context_size": st.integers(0, 30),
    "presence_penalty": st.floats(-11, 11),
    "frequency_penalty": st.floats(-11, 11),
    "penalty_context_size": st.integers(0, 30),
    "logit_bias": st.lists(st.tuples(st.integers(-1, 330), st.floats(-9, 9)).map(list), max_size=2),
    "seed": st.integers(0, SAFE),
}
ENCODING: Final = {"model": HANDLE, "add_special_tokens": FLAG}
PIECES: Final = {
    "offsets": FLAG,
    "tokens": FLAG,
    "offset_unit": st.sampled_from(["code_point", "utf16", "byte"]),
}
DRAFT: Final = {
    **PROMPTS,
    **TEMPLATE,
    **SAMPLING,
    "draft": IDS,
    "position": st.integers(0, 9),
    "logprobs": st.integers(0, 21),
    "proposal": st.lists(
        st.fixed_dictionaries({"ids": IDS, "probs": st.lists(st.floats(-1, 2), max_size=6)}),
        max_size=6,
    ),
}

SESSION: Final = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "A", "../a", "", "..", "a\0"])},
    optional={
        "tenant": st.sampled_from(["one", "two", ""]),
        "kv": st.sampled_from(["native", "q8", "k8v4", "q4", "q2"]),
        "pin": FLAG,
        "when_busy": st.sampled_from(["queue", "fail", "wait"]),
    },
)

PARAMS: Final[dict[str, dict[str, Values]]] = {
    "echo": {"data": WRONG},
    "stream_echo": {"count": st.integers(0, 600), "data": WRONG},
    "health": {},
    "stats": {},
    "load_model": {
        "source": st.sampled_from([FOLDER, FOLDER, "/no/such", "a/b", "../..", "", "a\0"]),
        "local_files_only": st.just(True),
        "revision": TEXT,
        "adapter_path": TEXT,
        "trust_remote_code": FLAG,
        "pin": FLAG,
        "idle_timeout_ms": st.integers(-1, 10_000),
        "replace": st.sampled_from([MODEL, "nobody"]),
        "kv_tokens": st.integers(0, 2**31),
        "handle": st.sampled_from([MODEL, "restored", "a/b", ""]),
        "references": st.integers(0, 3),
        "prior_failures": st.integers(-1, 3),
    },
    "unload_model": {"model": HANDLE, "evict": FLAG},
    "list_models": {},
    "model_info": {"model": HANDLE},
    "set_circuit": {
        "model": HANDLE,
        "state": st.sampled_from(["isolated", "closed", "open", "half_open"]),
    },
    "tokenize": {**ENCODING, **PIECES, "text": TEXT},
    "count_tokens": {**ENCODING, "text": TEXT},
    "detokenize": {"model": HANDLE, "ids": IDS, "skip_special_tokens": FLAG},
    "apply_chat_template": {"model": HANDLE, "messages": MESSAGES, "tokenize": FLAG, **TEMPLATE},
    "batch_tokenize": {**ENCODING, **PIECES, "texts": st.lists(TEXT | WRONG, max_size=4)},
    "batch_count_tokens": {**ENCODING, "texts": st.lists(TEXT | WRONG, max_size=4)},
    "batch_detokenize": {
        "model": HANDLE,
        "ids": st.lists(IDS | WRONG, max_size=4),
        "skip_special_tokens": FLAG,
    },
    "batch_apply_chat_template": {
        "model": HANDLE,
        "conversations": st.lists(MESSAGES | WRONG, max_size=3),
        "tokenize": FLAG,
        **TEMPLATE,
    },
    "generate": {
        "model": HANDLE,
        **PROMPTS,
        **TEMPLATE,
        **SAMPLING,
        "max_tokens": st.integers(0, 40),
        "stop": st.lists(TEXT, max_size=2),
        "stop_token_ids": st.lists(st.integers(-1, 330), max_size=2),
        "ignore_eos": FLAG,
        "logprobs": st.integers(0, 21),
        "stream": FLAG,
        "priority": st.integers(-101, 101),
        "batch": FLAG,
        "cache_prompt": FLAG,
        "speculation": st.fixed_dictionaries(
            {},
            optional={
                "draft_model": HANDLE,
                "prompt_lookup": FLAG,
                "max_draft_tokens": st.integers(0, 65),
            },
        ),
        "response_format": FORMATS,
        "session": SESSION,
    },
    "open_session": {"model": HANDLE, "session": SESSION},
    "save_session": {"session": SESSION},
    "evict_session": {"session": SESSION},
    "fork_session": {"session": SESSION, "to": st.sampled_from(["a", "b", "c", "", "/"])},
    "truncate_session": {"session": SESSION, "tokens": st.integers(-1, 40)},
    "delete_session": {"session": SESSION},
    "list_sessions": {"tenant": st.sampled_from(["one", "two", ""])},
    "session_stats": {},
    "check_draft": {"model": HANDLE, **DRAFT},
    "batch_check_draft": {
        "model": HANDLE,
        "items": st.lists(st.fixed_dictionaries({}, optional=DRAFT) | WRONG, max_size=3),
    },
    "check_draft_compatibility": {
        "model": HANDLE,
        "draft_model": HANDLE,
        "draft_tokens": st.integers(0, 9),
        "measure": st.just(False),
    },
}
NEEDED: Final = {
    "text": 97,
    "texts": 97,
    "model": 98,
    "draft_model": 95,
    "source": 97,
    "local_files_only": 100,
    "draft": 95,
    "proposal": 5,
    "prompt": 65,
    "data": 90,
    "count": 95,
    "ids": 15,
    "items": 97,
    "conversations": 97,
    "state": 95,
    "max_tokens": 80,
}
"""In how many of a hundred requests a key is there; others are rarer, so that many are served."""
ALWAYS: Final = frozenset(
    (
        *(("detokenize", "ids"), ("batch_detokenize", "ids"), ("apply_chat_template", "messages")),
        *(("fork_session", "to"), ("truncate_session", "tokens")),
        *((method, "session") for method in PARAMS if method.endswith("_session")),
    )
)
RARE: Final = 10
WRONG_SHARE: Final = 3
ONLY_RIGHT: Final = frozenset(("local_files_only", "measure"))
"""Never wrong: one would ask the network, the other takes seconds."""


PERCENT: Final = st.integers(0, 99)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Draw a method, its params and the request's options."""
    method = draw(st.sampled_from(sorted(PARAMS)))
    params: dict[str, Any] = {}
    for name, values in PARAMS[method].items():
        share = 97 if (method, name) in ALWAYS else NEEDED.get(name, RARE)
        if draw(PERCENT) < share:
            is_wrong = name not in ONLY_RIGHT and draw(PERCENT) >= 100 - WRONG_SHARE
            params[name] = draw(WRONG if is_wrong else values)
    if draw(PERCENT) >= 100 - WRONG_SHARE:
        params[draw(ANY_TEXT)] = draw(WRONG)
    return method, params, draw(OPTIONS)


OPTIONS: Final = (
    st.none()
    | st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "deadline_ms": st.sampled_from([0.001, 1, *[60_000] * 8, 0, "soon"]),
            "credit": st.sampled_from([0, 1, *[7, 256] * 4, -1, 2**31]),
        },
    )
)
"""Of a request."""


def fill(value: Any, handle: str, folder: str) -> Any:
    """Return a drawn value with the model's names in place of what stands for them."""
    if isinstance(value, list):
        return [fill(item, handle, folder) for item in value]
    if isinstance(value, dict):
        return {key: fill(item, handle, folder) for key, item in value.items()}
    return {MODEL: handle, FOLDER: folder}.get(value, value) if isinstance(value, str) else value
