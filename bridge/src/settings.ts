/** The options of `createRuntime`, and the frozen settings they become. */

import { invalidField } from './errors.js';
import {
  CREDIT_LIMIT,
  SHUTDOWN_GRACE_MS,
  SHUTDOWN_KILL_MS,
  SHUTDOWN_TERM_MS,
  START_TIMEOUT_MS,
  STREAM_CREDIT,
} from './limits.js';
import { DEFAULT_RESTARTS, type RestartOptions } from './process/restart-policy.js';
import type { Command, StopTimes } from './process/spawn.js';
import type { StateChange, SupervisorOptions } from './process/supervision.js';
import { DEFAULT_HEARTBEAT, type HeartbeatOptions } from './process/watchdog.js';
import type { SessionStoreOptions } from './session-store-options.js';
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
  /** How often and when a runtime that ended is started again; false: never. */
  readonly restart?: false | Partial<RestartOptions> | undefined;
  /** How a runtime that does not listen any more is noticed; false: it is not. */
  readonly heartbeat?: false | Partial<HeartbeatOptions> | undefined;
  /** Gets each step in the life of the runtime, soon after it; may close or restart the runtime. */
  readonly onState?: ((change: StateChange) => void) | undefined;
  /** Where sessions are kept, and how much of them. */
  readonly sessions?: SessionStoreOptions | undefined;
  /** Faults that the runtime is to have from its start, such as `engine.step:crash:after=5`: for
   * tests. */
  readonly faults?: readonly string[] | undefined;
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

/** Take what is given, and what is missing from the defaults; all must be numbers from 0. */
function filled<T extends object>(
  name: string,
  given: false | { readonly [Key in keyof T]?: T[Key] | undefined } | undefined,
  defaults: T,
): T | false {
  if (given === false) return false;
  const all = { ...defaults } as Record<string, unknown>;
  for (const [key, value] of Object.entries(given ?? {})) {
    const field = `${name}.${key}`;
    if (!Object.hasOwn(defaults, key)) throw invalidField(field, 'is no option');
    if (value === undefined) continue;
    if (typeof value !== 'number' || !(value >= 0)) {
      throw invalidField(field, 'must be a number from 0');
    }
    all[key] = value;
  }
  return Object.freeze(all) as T;
}

/** Check the options and fill in what is missing. */
export function settingsOf(options: RuntimeOptions): Settings {
  const { startTimeoutMs = START_TIMEOUT_MS, shutdown = {}, credit = STREAM_CREDIT } = options;
  if (!Number.isInteger(credit) || credit < 1 || credit >= CREDIT_LIMIT) {
    throw invalidField('credit', 'must be an integer from 1');
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
    onState: options.onState,
    restart: filled('restart', options.restart, DEFAULT_RESTARTS),
    heartbeat: filled('heartbeat', options.heartbeat, DEFAULT_HEARTBEAT),
    maxQueuedBytes: options.maxQueuedBytes,
    loneSurrogates: options.loneSurrogates,
    multiplex: options.multiplex,
  });
}
