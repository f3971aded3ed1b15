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
"""Unsettled generations of one model; more are refused with QUEUE_FULL."""

GENERATIONS_LIMIT: Final = 8_192
"""Unsettled generations of all models together: room for several models' queues, and still some
tens of megabytes."""

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

KV_MEMORY_PART: Final = 0.5
"""Share of the memory budget that the KV caches which are kept may take at most, those of sessions
and of prompts together; models that need the room come first."""

SESSION_ID_CHARS: Final = 128
"""Longest session id."""

SESSION_TENANT_CHARS: Final = 1_024
"""Longest tenant: room for a token of whatever kind."""

SESSION_DISK_BYTES: Final = 16 * 1024**3
"""What sessions may take on disk: 130,000 tokens of a model with 128 KiB of KV cache a token."""

SESSION_FREE_DISK_BYTES: Final = 1024**3
"""What sessions leave free of the disk: other programs misbehave when it is full."""

SESSION_TTL_S: Final = 30 * 24 * 3_600.0
"""How long a session that nobody uses is kept on disk."""

SESSION_RESTORE_LIMIT_S: Final = 20.0
"""How long a call waits for the disk before it goes on without: by then evaluating is as fast."""

SESSION_SWEEP_S: Final = 3_600.0
"""Between two looks for sessions that are too old."""

SESSIONS_KNOWN_LIMIT: Final = 4_096
"""Sessions that are kept in mind although they are neither hot nor at work: the disk knows them."""

PROMPT_CACHE_ENTRIES: Final = 64
"""Of them; each is compared with every new prompt, which takes microseconds."""

PROMPT_REUSE_TOKENS: Final = 16
"""Fewest tokens worth reusing: below it evaluating them costs as much as a step."""

CACHE_ROOM_TOKENS: Final = 64
"""Room that is made in a KV cache beyond its prompt: without, the first tokens after it would have
all of it copied. Fresh memory costs as much as reading, and first answers are mostly short."""

FIRST_ROOM_TOKENS: Final = 4_096
"""Tokens of a prompt that a KV cache has room for from its beginning; a longer one doubles it."""

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

RETRY_ATTEMPTS: Final = 3
"""Most attempts of one call, the first among them: what two waits do not mend does not pass."""

RETRY_BACKOFF_S: Final = 0.01
"""Upper bound of the first wait before a call is tried again; it doubles. Nobody else's load is to
be spread, only a moment to be let pass: a tenth of a second would cost more than most calls."""

LOAD_RETRY_BACKOFF_S: Final = 0.25
"""The same for loads, which fail by disks and networks: these take longer to come back."""

RETRY_BACKOFF_LIMIT_S: Final = 2.0
"""Upper bound of any wait before a retry."""

RETRY_BUDGET_TOKENS: Final = 100.0
"""Most tokens of the retry budget; a failure that may be retried takes one, and at or under half
nothing is retried. As in gRPC's retry throttling (A6)."""

RETRY_BUDGET_RATIO: Final = 0.1
"""Tokens that a success gives back: in the long run at most a tenth more calls than asked for."""

BREAKER_WINDOW_S: Final = 30.0
"""How far back a breaker looks."""

BREAKER_BUCKETS: Final = 10
"""Parts of that window; the oldest is forgotten as a whole."""

BREAKER_CALLS: Final = 10
"""Fewest calls in the window that a breaker judges by."""

BREAKER_FAILURE_RATE: Final = 0.5
"""Share of failed calls that opens a breaker."""

BREAKER_SLOW_RATE: Final = 0.8
"""Share of slow calls that opens a breaker: slowness may be load, so more of it is borne."""

BREAKER_DEADLINE_S: Final = 1.0
"""A deadline that leaves a call less time than this says nothing of the model: one caller's hurry
must not open the circuit for the others."""

BREAKER_SLOW_CALL_S: Final = 60.0
"""A call that takes longer is slow; for `generate`, from when it runs to its first token. A prompt
of 32,768 tokens takes as long at 550 tokens a second."""

BREAKER_OPEN_S: Final = 5.0
"""How long a breaker is open at first; it doubles each time that it opens again."""

BREAKER_OPEN_LIMIT_S: Final = 60.0
"""Longest that a breaker is open before it tries a call."""

BREAKER_LEASE_S: Final = 30.0
"""How long a half-open breaker waits for a probe; then the next call may be one."""

MODEL_MEMORY_PART: Final = 0.75
"""Share of the memory that may be had which loaded models may take together: the rest is for the
KV caches of long contexts, the libraries (about 0.5 GB) and whoever else uses the machine."""

MODEL_MEMORY_UNKNOWN_BYTES: Final = 4 * 1024**3
"""Budget for models where the system does not say how much memory there is."""

MODEL_IDLE_TIMEOUT_S: Final = 300.0
"""How long a model that nobody has a reference to stays in memory, for the next who asks."""

MODEL_IDLE_TIMEOUT_LIMIT_MS: Final = 1e12
"""Longest idle time-out that a request may name, 31 years: a bound, not a need."""

KV_ROOM_TOKENS: Final = 4_096
"""Tokens of KV cache that the budget keeps room for with each model, unless the load says."""

KV_UNKNOWN_PART: Final = 0.125
"""KV cache of `KV_ROOM_TOKENS` as a share of the weights, where a configuration has no sizes: that
of a 16-bit model of 1 G parameters; larger ones need a smaller share."""

ADDRESS_SPACE_MARGIN_BYTES: Final = 256 * 1024 * 1024
"""Address space that must be left beside a model under RLIMIT_AS: a new thread takes 8 MiB of stack
and 64 MiB for its allocations, and an allocation in mlx that fails ends the process."""

LOAD_GROUP_BYTES: Final = 16 * 1024 * 1024
"""Weights that are read in one step of the engine, between those of generations: 5 to 10 ms from
memory, about 30 ms from a disk of 500 MB/s. A larger tensor has a step of its own."""

KNOWN_FAILURE_S: Final = 30.0
"""How long a load that failed for what the folder holds is answered without looking inside."""

KNOWN_FAILURES_LIMIT: Final = 256
"""Failed loads that are remembered; the oldest is forgotten first."""

MODEL_HANDLE_CHARS: Final = 128
"""Longest model handle."""

MODEL_REFERENCES_LIMIT: Final = 1_000_000
"""References that one load may take: a bound, not a need."""

RESTART_LIMIT: Final = 3
"""Restarts that a host may begin within the window before it gives the runtime up: as Erlang's
supervisors, over a longer time because a start takes seconds."""

RESTART_WINDOW_MS: Final = 60_000.0
"""The window of that limit."""

RESTART_BACKOFF_MS: Final = 250.0
"""Upper bound of the wait before a first restart; each further one may be twice as long."""

RESTART_MAX_BACKOFF_MS: Final = 8_000.0
"""Upper bound of any wait before a restart."""

RESTART_HEALTHY_MS: Final = 10_000.0
"""A process that lived so long after its hello was healthy: its end begins a new count. A hello
alone proves nothing, a crash loop says one each time."""

HEARTBEAT_INTERVAL_MS: Final = 1_000.0
"""Between two looks of a host at a runtime that it waits for."""

HEARTBEAT_SILENCE_MS: Final = 10_000.0
"""A runtime that was pinged and sends nothing for so long listens no more. The longest legal stall
is a library call that holds the interpreter's lock: under a second."""

HEARTBEAT_STUCK_MS: Final = 120_000.0
"""An engine that is busy and finishes nothing for so long hangs: a chunk of a prompt takes 50 ms to
a few seconds, and each is progress."""

HEARTBEAT_LATE_INTERVALS: Final = 1.5
"""A look that comes later than this many intervals says that the host itself was blocked."""

ENGINE_DEAD_ANSWERS_MS: Final = 100.0
"""Time that the answers of a runtime whose engine has died get to arrive before it is ended."""

HEALTH_ANSWER_MS: Final = 1_000.0
"""Longest that a host's `health` waits for the runtime's own."""

REPLAY_LIMIT: Final = 1
"""Times that a request is sent again after it had been written: one that ends its runtime each time
must not end it for ever."""

KEPT_REQUESTS_BYTES: Final = 1024 * 1024 * 1024
"""Requests that a host keeps for a runtime that is being started; more are refused with QUEUE_FULL.
They are the caller's own values, so that the bound is one on mistakes, not on memory."""
