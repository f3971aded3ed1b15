"""What may be wrong with a model, its folder and what it computes: rows 54 to 65."""

from __future__ import annotations

from .promise import NODE, PYTHON_HOST, RUNTIME, Promise, Section

SESSIONS = "tests/contract/test_sessions.py"
"""What sessions promise while nothing goes wrong."""

MODELS = Section(
    "Models and what they compute",
    (
        Promise(
            54,
            (RUNTIME,),
            "a model folder that is missing, empty, or holds what cannot be loaded",
            "Each has its own cause in the error. Nothing is kept of it, other models are "
            "unaffected, and a mended folder loads at the next try.",
        ),
        Promise(
            55,
            (RUNTIME,),
            "weight files that lie, are cut short, or hold no numbers",
            "The load is refused with its cause and the runtime lives: headers are checked before "
            "mlx reads them, every number is checked at load. Only `.safetensors` files are read.",
        ),
        Promise(
            56,
            (RUNTIME,),
            "a model folder asks for its own code to be run",
            "It is refused with `CODE_REFUSED`, which names the option that would allow it. "
            "Nothing of the folder is imported, and no pickle is opened.",
        ),
        Promise(
            57,
            (RUNTIME,),
            "paths and ids that lead out of the folder they are confined to",
            "They are refused with `PATH_REFUSED`, however they are written, also inside a model's "
            "own files; nothing outside is read. No id and no tenant of a session is part of a "
            "path.",
        ),
        Promise(
            58,
            (RUNTIME,),
            "token ids that the model has no row for",
            "They are refused with the field, wherever they may be given, and never reach mlx, "
            "where one could end the process.",
        ),
        Promise(
            59,
            (RUNTIME,),
            "models that do not fit the memory budget",
            "A load is checked before it begins, with its room for text and with the loads under "
            "way. Models that nobody uses leave first, the least recently used one at first; if "
            "that is not enough, `MEMORY_LIMIT` says what holds how much.",
        ),
        Promise(
            60,
            (RUNTIME,),
            "a model is evicted, unloaded or fails to load while others use it",
            "One that is in use stays until it is not. The same model loads once however many ask, "
            "and each of them has its own deadline, cancel and error.",
        ),
        Promise(
            61,
            (RUNTIME,),
            "a model's logits become NaN, infinite or minus infinity everywhere",
            "`NUMERIC_ERROR` comes at that very step, after the tokens before it; others of the "
            "same batch keep theirs. A session is not saved with it, and goes on from what it had.",
        ),
        Promise(
            62,
            (RUNTIME,),
            "the same seed twice, in turn or at once",
            "It gives the same tokens, whoever else is served and however it is generated. A seed "
            "that was drawn is told.",
        ),
        Promise(
            63,
            (PYTHON_HOST, NODE),
            "a kept conversation whose files, disk, model or process fail it",
            "No answer depends on what was kept bit for bit (`native`): it has the tokens that it "
            "has without a session. Every byte that is read is checked, and what is damaged is put "
            "aside and evaluated again. A full or vanished disk costs the saving alone, and a "
            "counter says so. A killed runtime leaves whole files, which the next one goes on "
            "from. Nothing is reused of another model, tokenizer, adapter, format or tenant.",
            elsewhere=(
                f"{SESSIONS}::test_speculation_changes_no_token_of_a_session",
                f"{SESSIONS}::test_sessions_and_plain_generations_at_once_have_their_own_tokens",
                f"{SESSIONS}::test_another_format_is_kept_smaller_and_answers",
            ),
        ),
        Promise(
            64,
            (RUNTIME,),
            "a chat template that never ends, or a huge list of stop strings",
            "The template's request fails after 5 seconds, or when it wants too much memory; the "
            "others are rendered. Stop strings are compared as text, in bounded time.",
        ),
        Promise(
            65,
            (RUNTIME, NODE),
            "secrets in the environment, shell words in arguments, prompts in logs",
            "Only an allow-list of variables reaches the runtime, no shell sees an argument, and "
            "no prompt is in a log line or an error.",
        ),
    ),
)
