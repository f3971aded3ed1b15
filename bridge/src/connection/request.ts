/**
 * One request from its id to its settlement, seen from the connection: what to do with a result, an
 * error, a delta. Subclasses turn these into a promise or a stream.
 *
 *      waiting ──► sent ──► settled          waiting: no runtime has room for it yet
 *         ▲         │          ▲             settled: the caller has its answer; the runtime may not
 *         ├─────────┘          │             have given its own yet
 *         └────────────────────┘             back to waiting: the runtime ended before it could tell
 *
 * A request settles once; who tells it twice is ignored. What it asks is kept until then, so that
 * it can be sent again. It knows nothing of pipes.
 */

import { AbortError, type IsthmusError } from '../errors.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { malformed } from '../wire/messages.js';
import { unwatchSignal, watchSignal } from './signals.js';

export const Phase = { WAITING: 0, SENT: 1, SETTLED: 2 } as const;
export type Phase = (typeof Phase)[keyof typeof Phase];

/** What the caller may say about the life of any call. */
export interface CallOptions {
  /** Rejects with an AbortError and cancels the request in the runtime. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds from the call to its settlement, 0 excluded. None unless given. */
  readonly deadlineMs?: number | undefined;
}

/** Who is told that a caller's signal fired. */
export interface AbortHandler {
  abort(request: Request): void;
}

/** What is asked, by the names of the wire. */
export type Params = Readonly<Record<string, unknown>>;

const NO_PARAMS: Params = Object.freeze({});

/** Whether two calls name the same session: neither may overtake the other. */
export function isSameSession(one: Params, other: Params): boolean {
  const [session, another] = [one.session, other.session] as (Params | null | undefined)[];
  if (session === undefined || another === undefined) return false;
  return session?.id === another?.id && session?.tenant === another?.tenant;
}

export abstract class Request {
  id = 0;
  method = '';
  params: Params = NO_PARAMS;
  credit: number | undefined = undefined;
  phase: Phase = Phase.WAITING;
  isCancelSent = false;
  /** On the connection's clock; 0 is none. */
  deadlineAt = 0;
  /** Where the deadlines hold this request. */
  deadlinePlace = 0;
  signal: AbortSignal | undefined = undefined;
  onProgress: ((progress: WireMap) => void) | undefined = undefined;
  /** The encoded request while no runtime has room for it. */
  payload: Buffer | undefined = undefined;
  /** How many writes there had been when it joined those that wait to be written. */
  writesBefore = 0;
  /** Times that it was sent again after it had been written. */
  replays = 0;
  /** A part of the answer has reached the caller. */
  isDelivered = false;
  #abortHandler: AbortHandler | undefined = undefined;

  /** Take the value of a result or an end. */
  abstract succeed(value: Value): void;

  /** Take the one error. */
  abstract fail(error: IsthmusError): void;

  /** The runtime's result came after the request had been settled here. */
  succeedLate(_value: Value): void {}

  /** It will not be sent again: free what it asked. */
  forget(): void {
    this.params = NO_PARAMS;
  }

  /** Take a delta; only streams expect one. */
  deliver(_count: number, _payload: Value): void {
    throw malformed('a delta for a request that is no stream');
  }

  /** The request was cancelled before the runtime saw it. Subclasses may settle otherwise. */
  cancelUnsent(): void {
    this.fail(new AbortError('CANCELLED', 'the request was cancelled before it was sent'));
  }

  /** Watch the caller's signal. */
  watch(signal: AbortSignal, handler: AbortHandler): void {
    this.signal = signal;
    this.#abortHandler = handler;
    watchSignal(signal, this);
  }

  /** Stop watching. */
  unwatch(): void {
    if (this.signal !== undefined) unwatchSignal(this.signal, this);
    this.#abortHandler = undefined;
  }

  onAbort(): void {
    this.#abortHandler?.abort(this);
  }
}

/** A request that is answered by one value. */
export class Call<T> extends Request {
  readonly #convert: (value: Value) => T;
  readonly #resolve: (value: T) => void;
  readonly #reject: (error: unknown) => void;

  constructor(
    convert: (value: Value) => T,
    resolve: (value: T) => void,
    reject: (error: unknown) => void,
  ) {
    super();
    this.#convert = convert;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  override succeed(value: Value): void {
    try {
      this.#resolve(this.#convert(value));
    } catch (error) {
      this.#reject(error);
    }
  }

  override fail(error: IsthmusError): void {
    this.#reject(error);
  }
}
