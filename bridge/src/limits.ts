/**
 * Every limit and default of the host, each with its unit and its reason.
 *
 * The Python twin is `isthmus/limits.py`. What the runtime's hello states (frame, message, piece and
 * in-flight limits) overrides the value here for what we send; what we accept is decided here.
 */

const KIB = 1024;
const MIB = 1024 * KIB;

/** The wire protocol this host speaks (docs/protocol.md). */
export const PROTOCOL_VERSION = 1;

/** This package's version, sent in the hello. */
export const HOST_VERSION = '0.1.0';

/** Longest frame accepted; refused from its header, before memory is taken. */
export const FRAME_LIMIT_BYTES = 16 * MIB;

/** Longest message that is assembled from pieces, or sent in them: 16 million token ids. */
export const MESSAGE_LIMIT_BYTES = 64 * MIB;

/** A longer message travels in pieces: one 16 MiB frame stalls every other call for 12 to 27 ms,
 * pieces of 64 KiB for 30 to 130 microseconds. */
export const PIECE_BYTES = 65 * KIB;

/** Deepest nesting of arrays and maps, the message array being 1. No message needs more than 8;
 * libraries stop anywhere between 1,024 and a million. */
export const DEPTH_LIMIT = 32;

/** Incoming messages that may be in pieces at once, so that a peer cannot hold memory without end. */
export const OPEN_PIECES_LIMIT = 64;

/** Outgoing messages that share the pipe piece by piece; below the runtime's 64, so that abandoned
 * channels still on their way never add up to more. */
export const SENDING_PIECES_LIMIT = 16;

/** Unsettled requests when the hello names no limit; more wait in the host. */
export const IN_FLIGHT_LIMIT = 65_536;

/** Request ids and piece channels are below this: they are unsigned 32-bit. */
export const ID_LIMIT = 2 ** 32;

/** Items a stream may send ahead of its consumer. 64 to 256 cost 0.1 to 0.2 microseconds an item,
 * a window of 1 costs 11. */
export const STREAM_CREDIT = 256;

/** Credit is below this on the wire. */
export const CREDIT_LIMIT = 2 ** 31;

/** Bytes that may wait in the host for a runtime that does not read: Node itself has no bound. */
export const QUEUED_LIMIT_BYTES = 1024 * MIB;

/** The outgoing buffer at rest: one piece and its neighbours. */
export const OUTGOING_BUFFER_BYTES = 128 * KIB;

/** An outgoing buffer that grew beyond this is not kept for the next turn. */
export const OUTGOING_BUFFER_KEPT_BYTES = MIB;

/** First buffer of a frame that arrives in parts; it grows with what has really arrived. */
export const PARTIAL_FRAME_BYTES = 64 * KIB;

/** Read at once from standard output: a value of 64 KiB and what came with it. */
export const OUTPUT_READ_BYTES = 160 * KIB;

/** Read at once from standard error. */
export const STDERR_READ_BYTES = 64 * KIB;

/** Standard error kept for error messages: enough for a traceback with a few log lines. */
export const STDERR_TAIL_BYTES = 64 * KIB;

/** Time from spawn to hello: Python and its standard library on a cold disk. */
export const START_TIMEOUT_MS = 15_000;

/** After stdin is closed: the runtime gives unsettled requests 5 s. */
export const SHUTDOWN_GRACE_MS = 5_000;

/** After SIGTERM. */
export const SHUTDOWN_TERM_MS = 2_000;

/** After SIGKILL: only the kernel's reaping is waited for. */
export const SHUTDOWN_KILL_MS = 1_000;

/** A grandchild may hold stdout for as long as it lives: what the pipe still holds after the
 * child's exit, or the exit after the pipe's end, is waited for this long. */
export const EXIT_DRAIN_MS = 100;

/** A runtime that was not needed for this long lets Node end: long enough that a loop of calls does
 * not switch it, short enough that a script that forgets `close` ends at once. */
export const IDLE_MS = 20;

/** The runtime knows in which phase a deadline passed: its own answer gets this long to arrive. */
export const DEADLINE_GRACE_MS = 100;

/** Shortest time between two sweeps over the deadlines. */
export const DEADLINE_SWEEP_MS = 10;

/** Restarts that may begin within the window before the runtime is given up: Erlang's supervisors'
 * default intensity, over a longer time because a start takes seconds. */
export const RESTART_LIMIT = 3;

/** The window of that limit. */
export const RESTART_WINDOW_MS = 60_000;

/** The first wait before a restart is up to this long; each further one up to twice as long. */
export const RESTART_BACKOFF_MS = 250;

/** No wait before a restart is longer. */
export const RESTART_MAX_BACKOFF_MS = 8_000;

/** A process that lived this long after its hello was healthy: its end begins a new count. A hello
 * alone proves nothing, a crash loop says hello each time. */
export const RESTART_HEALTHY_MS = 10_000;

/** Between two looks at a runtime that something is asked of. */
export const HEARTBEAT_INTERVAL_MS = 1_000;

/** A runtime that sends nothing for so long, though it was pinged, does not listen any more. The
 * longest stall that is legal is the interpreter's lock held by one library call: under a second. */
export const HEARTBEAT_SILENCE_MS = 10_000;

/** An engine that is at work and finished nothing for so long hangs: chunks of a prompt take 50 ms
 * to a few seconds each, and each counts as progress. */
export const HEARTBEAT_STUCK_MS = 120_000;

/** A tick of the heartbeat that comes later than this many intervals says that the host itself was
 * blocked. */
export const HEARTBEAT_LATE_INTERVALS = 1.5;

/** A runtime whose engine died answers what it had for it: those errors get this long to arrive. */
export const ENGINE_DEAD_ANSWERS_MS = 100;

/** `health()` never waits longer than this for the runtime's own words. */
export const HEALTH_ANSWER_MS = 1_000;

/** Tokens of the retry budget, as in gRPC's retry throttling (proposal A6). */
export const RETRY_BUDGET_TOKENS = 100;

/** What a success gives back to the retry budget. */
export const RETRY_BUDGET_REFUND = 0.1;

/** Times that one request is sent again after it had been written. */
export const REPLAY_LIMIT = 1;

/** Time for one `python -c` while looking for a usable Python. */
export const PROBE_TIMEOUT_MS = 5_000;

/** Oldest Python that runs the runtime; it brings `-P`. */
export const PYTHON_MINIMUM = [3, 11] as const;

/** Calls that travel as one batch: enough that frames cost nothing, few enough that the first
 * replies come early. */
export const BATCH_CALLS = 256;

/** Text of one batch. */
export const BATCH_BYTES = MIB;

/** Longest that a call is kept back while a batch of its kind is in flight. */
export const HOLD_LIMIT_MS = 4;

/** Shortest hold that a timer is set for; an answer that comes sooner ends it. */
export const HOLD_FLOOR_MS = 1;

/** A call larger than this shares no batch: its neighbours would wait for it. */
export const ALONE_BYTES = 64 * KIB;
