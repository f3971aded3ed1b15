"""Every limit and default of the wire and the runtime, each with its unit and its reason.

One home: the TypeScript twin `bridge/src/limits.ts` repeats only what a host must know before it
has read the runtime's hello.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1
"""The wire protocol that this runtime speaks (docs/protocol.md)."""

FRAME_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Longest frame that is accepted; refused from its header, before memory is taken."""

MESSAGE_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Longest message assembled from pieces: 16 million token ids."""

PIECE_BYTES: Final = 65 * 1024
"""A longer message travels in pieces of this size; a value of 64 KiB and its envelope go whole. One
16 MiB frame stalls every other call for 12 to 27 ms; such pieces for 30 to 130 microseconds."""

LARGE_MESSAGE_BYTES: Final = 1024 * 1024
"""An assembled message of this size is decoded in a turn of its own: joining and decoding 16 MiB
take 4 ms each, and replies to others leave between them."""

DEPTH_LIMIT: Final = 32
"""Deepest nesting of arrays and maps, the message array being 1. msgpack implementations differ
between 1,024 and a million; no message of ours needs more than 8."""

FORBIDDEN_KEYS: Final = frozenset(("__proto__", "constructor", "prototype"))
"""Keys that would reach an object's prototype in a JavaScript host."""

SAFE_INTEGER: Final = 2**53 - 1
"""Largest integer, either way, that JavaScript's numbers hold exactly."""

OPEN_PIECES_LIMIT: Final = 64
"""Messages that may be in pieces at once, so that a peer cannot hold memory without end."""

IN_FLIGHT_LIMIT: Final = 65_536
"""Unsettled requests of one host; more are refused, so that bookkeeping stays bounded."""

REQUEST_ID_LIMIT: Final = 2**32
"""Request ids are below this: msgpackr would send larger ones as floats."""

PENDING_TEXT_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Text that waits for the tokenizer; above it the runtime stops reading until half is done."""

WRITE_WATERMARK_BYTES: Final = 256 * 1024
"""Output buffered in the process before pieces and deltas wait for the host to read."""

READ_BYTES: Final = 64 * 1024
"""asyncio's default read of 256 KiB costs 12 microseconds a read to allocate."""

STREAM_CREDIT: Final = 256
"""Items a stream may send before the host grants more; 64 to 256 cost 0.1 to 0.2 microseconds
an item, a window of 1 costs 11."""

CREDIT_LIMIT: Final = 2**31
"""Largest credit that a stream may hold: a bound, not a need."""

GENERATE_QUEUE_LIMIT: Final = 1_024
"""Generations that wait for the engine; more are refused with QUEUE_FULL."""

INLINE_TEXT_CHARS: Final = 4_096
"""Texts up to this length are tokenized on the event loop; longer ones in the tokenizer's thread.
`encode` holds the GIL: 1 MB stalls the loop for 538 ms."""

DRAIN_GRACE_S: Final = 5.0
"""Time that unsettled requests get after the host has closed our input."""

PREFILL_CHUNK_TOKENS: Final = 512
"""Prompt tokens evaluated between two looks at cancels, deadlines and other requests."""

MAX_TOKENS_DEFAULT: Final = 256
"""As in mlx-lm."""

STOP_STRINGS_LIMIT: Final = 64
"""Stop strings of one request; each is compared with every new text."""

STOP_STRING_CHARS_LIMIT: Final = 1_024
"""Longest stop string: text that may begin one is held back."""

TOP_LOGPROBS_LIMIT: Final = 20
"""As in the OpenAI API."""

PENALTY_CONTEXT_TOKENS: Final = 20
"""mlx-lm's default window of repetition, presence and frequency penalties."""

TEMPLATE_DEADLINE_S: Final = 5.0
"""Chat templates are programs from the model folder: a nested loop may run for hours."""

BATCH_CALLS: Final = 256
"""Calls that a host sends as one batch: enough that frames cost nothing, few enough that the first
replies come early."""

BATCH_BYTES: Final = 1024 * 1024
"""Text of one batch of a host."""

HOLD_LIMIT_MS: Final = 4.0
"""Longest that a host keeps a call back while a batch of its kind is in flight."""

HOLD_FLOOR_MS: Final = 1.0
"""Shortest hold that a host's timer is set for; an answer that comes sooner ends it."""

ALONE_BYTES: Final = 64 * 1024
"""A call larger than this shares no batch: its neighbours would wait for it."""

DRAFT_PASS_LOGITS: Final = 2**23
"""Logits of a verification in one pass without a cache, 32 MiB in fp32. Those of prompt tokens are
computed in vain; beyond this the prompt is evaluated first, without logits."""

DRAFT_CACHE_TOKENS: Final = 16_384
"""Rows times columns of a KV cache that drafts are verified in together: 64 rows of 256 tokens."""

DRAFT_PADDING_RATIO: Final = 1.5
"""Most tokens, padding included, of a group of drafts per token that is none."""

DRAFT_PASS_TOKENS: Final = 64
"""Tokens that cost as much as starting a pass: 3.2 ms and 0.07 ms a token on the built-in model.
Prompts that drafts share are evaluated once where that saves more."""

DRAFT_TOKENS_LIMIT: Final = 256
"""Drafted tokens of one verification; past a dozen hardly any draft is accepted."""

DRAFT_QUEUE_LIMIT: Final = 4_096
"""Drafts that wait for a verification of their model; more are refused with QUEUE_FULL."""

PROMPT_CACHE_BYTES: Final = 512 * 1024 * 1024
"""KV caches of ended generations that a model keeps for prompts that begin alike."""

PROMPT_CACHE_ENTRIES: Final = 64
"""Of them; each is compared with every new prompt, which takes microseconds."""

PROMPT_REUSE_TOKENS: Final = 16
"""Fewest tokens worth reusing: below it evaluating them costs as much as a step."""

RUNNING_LIMIT: Final = 32
"""Generations that hold a KV cache at once; the others wait in the queue without one. mlx-lm's
server batches as many."""

PREFILL_SLICE_S: Final = 0.05
"""How long a chunk of a prompt may hold up the tokens of others."""

PREFILL_SLICE_TOKENS: Final = 4
"""Fewest prompt tokens of a chunk, however slow they are."""

SHORT_PROMPT_TOKENS: Final = 256
"""A prompt with no more left is worth PREFILL_WEIGHT times the time of decoding: its first token
comes soon, and the others wait but shortly."""

PREFILL_WEIGHT: Final = 4.0
"""The time that short prompts have, as a multiple of that of decoding."""

PROMPT_AGE_TOKENS_PER_S: Final = 512.0
"""The shortest prompt goes first; a second of waiting counts like so many tokens less."""

PRIORITY_LIMIT: Final = 100
"""Priorities go from minus this to this; 0 is the default, higher goes first."""

RESPONSE_FORMAT_LIMIT_BYTES: Final = 1024 * 1024
"""Longest schema, pattern, grammar or list of choices; 10,000 choices compile in 20 ms."""

CHOICES_LIMIT: Final = 10_000
"""Choices of one request."""

GRAMMAR_SYMBOLS_LIMIT: Final = 100_000
"""Symbols of a compiled grammar: an object of 3,000 properties takes 0.7 s to compile."""

LEXER_STATES_LIMIT: Final = 20_000
"""States that the lexer of one constraint may make while it runs, 1 to 2 kB each."""

TOOL_CALL_CHARS_LIMIT: Final = 256 * 1024
"""Longest text of a tool call that is parsed: some of mlx-lm's parsers take quadratic time."""

CONTEXT_LIMIT: Final = 2**31 - 1
"""Largest number of tokens that a request may name."""

SPECULATED_TOKENS_DEFAULT: Final = 8
"""Most drafted tokens of a round of speculation, unless a request says otherwise; fewer are drafted
where that is faster."""

SPECULATED_TOKENS_LIMIT: Final = 64
"""Most that a request may ask for; past a dozen hardly any draft is accepted."""
