/** What a connection tells its owner, what it may be told, and the errors that it makes itself. */

import { AbortError, DeadlineError, type IsthmusError, ProtocolError } from '../errors.js';
import type { Value, WireMap } from '../wire/decoder.js';
import type { LoneSurrogates } from '../wire/encoder.js';
import { Phase, type Request } from './request.js';

export interface ConnectionEvents {
  /** The runtime's hello was read, its version is ours, and our own hello is on its way. */
  onHello(hello: WireMap): void;
  /** The protocol was broken; the owner ends the process and calls `detach`. */
  onBroken(error: IsthmusError): void;
  onEvent(name: string, payload: Value): void;
  /** Whether anything is pending that the process must stay alive for. */
  onBusy(isBusy: boolean): void;
}

/** How a process ended, for the requests that it had. */
export interface ProcessEnd {
  /** Another one will take its place. */
  readonly hasNext: boolean;
  /** It ended by a fault, and not because it was told to. */
  readonly hasCrashed: boolean;
  /** The error for a request that is not kept. */
  makeError(isSent: boolean, isDelivered: boolean): IsthmusError;
}

/** Names of the runtime's events that this version knows. */
export const KNOWN_EVENTS: ReadonlySet<string> = new Set([
  ...['progress', 'closing', 'engine_dead', 'breaker'],
  ...['model_loaded', 'model_evicted'],
]);

export interface ConnectionOptions {
  readonly maxQueuedBytes?: number | undefined;
  readonly loneSurrogates?: LoneSurrogates | undefined;
  /** Whether small calls share frames; true unless given. */
  readonly multiplex?: boolean | undefined;
  /** Milliseconds that never go back. */
  readonly clock?: (() => number) | undefined;
}

/** The error for a caller whose signal has fired. */
export function aborted(signal: AbortSignal | undefined): AbortError {
  return new AbortError('CANCELLED', 'the call was aborted', { cause: signal?.reason });
}

/** The error for a deadline to which the runtime said nothing. */
export function expired(request: Request): DeadlineError {
  const phase = request.phase === Phase.WAITING ? 'queue' : 'unanswered';
  return new DeadlineError(
    'DEADLINE_EXCEEDED',
    'the deadline passed without an answer from the runtime',
    { phase },
  );
}

/** The error for something that comes at the wrong time. */
export function unexpected(what: string): ProtocolError {
  return new ProtocolError('REMOTE_PROTOCOL_ERROR', `unexpected: ${what}`);
}
