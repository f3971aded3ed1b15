/** The options of `createRuntime`, and the frozen settings they become. */

import { InvalidRequestError } from './errors.js';
import {
  CREDIT_LIMIT,
  SHUTDOWN_GRACE_MS,
  SHUTDOWN_KILL_MS,
  SHUTDOWN_TERM_MS,
  START_TIMEOUT_MS,
  STREAM_CREDIT,
} from './limits.js';
import type { Command, StopTimes } from './process/spawn.js';
import type { SupervisorOptions } from './process/supervisor.js';
import type { Value } from './wire/decoder.js';
import type { LoneSurrogates } from './wire/encoder.js';

export interface RuntimeOptions {
  /** The Python that runs the runtime. Looked for unless given. */
  readonly python?: string | undefined;
  /** The whole command line instead, such as `['ssh', 'host', 'isthmus', 'runtime']`. */
  readonly command?: Command | undefined;
  readonly cwd?: string | undefined;
  /** Variables for the runtime beside those on the allow-list; undefined removes one. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined;
  /** From spawn to hello. */
  readonly startTimeoutMs?: number | undefined;
  /** How long each step of `close` may take: closed input, SIGTERM, SIGKILL. */
  readonly shutdown?: Partial<StopTimes> | undefined;
  /** Tokens a stream may run ahead of its consumer. */
  readonly credit?: number | undefined;
  /** Gets the runtime's standard error as it comes. */
  readonly onStderr?: ((text: string) => void) | undefined;
  /** Gets every event of the runtime, known or not. */
  readonly onEvent?: ((name: string, payload: Value) => void) | undefined;
  /** Calls are refused with QUEUE_FULL while more bytes than this wait to be sent. */
  readonly maxQueuedBytes?: number | undefined;
  /** Arguments after `isthmus runtime`. */
  readonly runtimeArgs?: readonly string[] | undefined;
  /** Whether a string with half a surrogate pair fails its request or loses that half. */
  readonly loneSurrogates?: LoneSurrogates | undefined;
  /** Whether small calls of one turn of the event loop share a frame. True unless given; the
   * results are the same. */
  readonly multiplex?: boolean | undefined;
}

export interface Settings extends Omit<SupervisorOptions, 'command' | 'env'> {
  readonly credit: number;
}

/** Check the options and fill in what is missing. */
export function settingsOf(options: RuntimeOptions): Settings {
  const { startTimeoutMs = START_TIMEOUT_MS, shutdown = {}, credit = STREAM_CREDIT } = options;
  if (!Number.isInteger(credit) || credit < 1 || credit >= CREDIT_LIMIT) {
    throw new InvalidRequestError('INVALID_REQUEST', 'credit must be an integer from 1', {
      details: { field: 'credit' },
    });
  }
  const { graceMs, termMs, killMs } = shutdown;
  return Object.freeze({
    cwd: options.cwd,
    startTimeoutMs,
    shutdown: {
      graceMs: graceMs ?? SHUTDOWN_GRACE_MS,
      termMs: termMs ?? SHUTDOWN_TERM_MS,
      killMs: killMs ?? SHUTDOWN_KILL_MS,
    },
    credit,
    onStderr: options.onStderr,
    onEvent: options.onEvent,
    maxQueuedBytes: options.maxQueuedBytes,
    loneSurrogates: options.loneSurrogates,
    multiplex: options.multiplex,
  });
}
