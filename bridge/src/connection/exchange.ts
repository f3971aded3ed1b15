/**
 * Requests from when they are made to their settlement, over whatever processes come and go.
 *
 * A request leaves at once when the runtime has room for it, every model that it names is loaded
 * there, and no call of its session waits for its model; else it waits here, encoded and counted,
 * with its deadline and its signal. When a process ends, `detach` decides for each request whether
 * the next process gets it (`replay.ts`); those keep their ids and their order. Each request settles
 * exactly once. Knows no processes and no promises.
 */

import type { Writable } from 'node:stream';
import { copyError, IsthmusError } from '../errors.js';
import type { Encoder } from '../wire/encoder.js';
import { HEADER_BYTES } from '../wire/frames.js';
import { writeCancel, writeCredit, writeRequest } from '../wire/messages.js';
import { Deadlines } from './deadlines.js';
import { aborted, expired, type ProcessEnd } from './events.js';
import type { PeerLimits } from './hello.js';
import { asIsthmusError } from './inbox.js';
import { handlesOf, type ModelRegistry, type Verdict } from './model-registry.js';
import { Outbox, type OutboxLimits } from './outbox.js';
import { isRepeatable, RetryBudget, RUNS_MODEL } from './replay.js';
import {
  type AbortHandler,
  type CallOptions,
  isSameSession,
  type Params,
  Phase,
  type Request,
} from './request.js';
import { RequestTable } from './request-table.js';

export interface ExchangeOptions {
  readonly encoder: Encoder;
  readonly limits: OutboxLimits;
  readonly clock: () => number;
  readonly models: ModelRegistry;
  onTurnEnd(): void;
  onBusy(isBusy: boolean): void;
}

export class Exchange implements AbortHandler {
  readonly outbox: Outbox;
  readonly requests = new RequestTable(0);
  readonly budget = new RetryBudget();
  /** Requests that succeeded. */
  successes = 0;
  readonly #encoder: Encoder;
  readonly #deadlines: Deadlines;
  readonly #models: ModelRegistry;
  readonly #onBusy: (isBusy: boolean) => void;
  #active = 0;

  constructor(options: ExchangeOptions) {
    const { encoder, limits, clock, models } = options;
    this.#encoder = encoder;
    this.#models = models;
    this.#onBusy = options.onBusy;
    this.outbox = new Outbox(encoder, limits, options.onTurnEnd);
    this.#deadlines = new Deadlines((request) => this.abandon(request, expired(request)), clock);
  }

  /** Whether anything is pending. */
  get isBusy(): boolean {
    return this.#active > 0;
  }

  /** A process begins: its input is `pipe`, and it takes no request yet. */
  attach(pipe: Writable): void {
    this.outbox.attach(pipe);
  }

  /** The process takes requests from now on, so many and so large. */
  open(limits: PeerLimits): void {
    const { messageBytes, pieceBytes, inFlight } = limits;
    this.outbox.limits = { ...this.outbox.limits, messageBytes, pieceBytes };
    this.requests.limit = inFlight;
    this.admit();
  }

  /** Send the process nothing more. */
  shut(): void {
    this.requests.limit = 0;
  }

  /** Send a request, or have it wait; throws, and keeps nothing, when it cannot be sent at all. */
  send(
    request: Request,
    method: string,
    params: Params,
    { signal, deadlineMs }: CallOptions,
    credit: number | undefined,
  ): void {
    const isHeld = !this.#models.isFresh && this.#mustWait(params);
    request.id = this.requests.takeId();
    request.method = method;
    request.params = params;
    request.credit = credit;
    this.#write(request, deadlineMs, isHeld);
    this.requests.add(request, isHeld);
    if (signal !== undefined) request.watch(signal, this);
    if (deadlineMs !== undefined) this.#deadlines.add(request, deadlineMs);
    this.begin();
  }

  /** Whether the request waits for more than room; while there is no room that is asked later. */
  #mustWait(params: Params): boolean {
    const verdict = this.requests.hasRoom ? this.#look(params) : 'go';
    if (verdict instanceof IsthmusError) throw verdict;
    return verdict === 'wait';
  }

  /** What a request must do: wait for a model that it names, or behind a call of its session that
   * is held. */
  #look(params: Params, held?: readonly Request[]): Verdict {
    const verdict = this.#models.look(params);
    if (verdict !== 'go' || params.session === undefined) return verdict;
    const others = held ?? this.requests.held;
    return others.some((other) => isSameSession(params, other.params)) ? 'wait' : 'go';
  }

  #write(request: Request, deadlineMs: number | undefined, isHeld: boolean): void {
    const start = this.outbox.begin();
    try {
      this.#encode(request, deadlineMs);
      if (this.requests.hasRoom && !isHeld) this.#finish(request, start);
      else request.payload = this.outbox.takeOut(start);
    } catch (error) {
      this.#encoder.rewind(start);
      throw error;
    }
  }

  #encode(request: Request, deadlineMs: number | undefined): void {
    const { id, method, params, credit } = request;
    writeRequest(this.#encoder, id, method, params, deadlineMs, credit);
  }

  #finish(request: Request, start: number): void {
    this.outbox.finish(start, request);
    request.phase = Phase.SENT;
    request.writesBefore = this.outbox.writes;
  }

  /** Ask the runtime to stop a request; it settles by the runtime's answer. */
  cancel(request: Request): void {
    if (request.phase === Phase.SETTLED || request.isCancelSent) return;
    request.isCancelSent = true;
    if (this.#takeBack(request)) {
      this.settle(request);
      request.cancelUnsent();
    } else {
      this.#sendCancel(request.id);
    }
  }

  /** Settle a request now, without the runtime's answer, and have it stopped there. */
  abandon(request: Request, error: IsthmusError): void {
    if (request.phase === Phase.SETTLED) return;
    if (!this.#takeBack(request) && !request.isCancelSent) this.#sendCancel(request.id);
    request.isCancelSent = true;
    this.settle(request);
    request.fail(error);
  }

  /** The caller's signal fired. */
  abort(request: Request): void {
    this.abandon(request, aborted(request.signal));
  }

  /** Let a stream send `count` more items. */
  grant(request: Request, count: number): void {
    if (request.phase !== Phase.SENT || request.isCancelSent) return;
    this.outbox.control((encoder) => writeCredit(encoder, request.id, count));
  }

  /** The request has its answer, or is about to get it. */
  settle(request: Request): void {
    request.phase = Phase.SETTLED;
    if (request.signal !== undefined) request.unwatch();
    if (request.deadlineAt !== 0) this.#deadlines.remove(request);
    request.forget();
    this.finish();
  }

  /** Something more is pending. */
  begin(): void {
    if (this.#active++ === 0) this.#onBusy(true);
  }

  /** Something is no longer pending. */
  finish(): void {
    if (--this.#active === 0) this.#onBusy(false);
  }

  /** Send the requests for which the runtime has room now. */
  admit(): void {
    const { requests } = this;
    for (let next = requests.admit(); next; next = requests.admit()) this.#sendWaiting(next);
  }

  #sendWaiting(request: Request): void {
    const verdict = this.#models.isFresh ? 'go' : this.#look(request.params);
    if (verdict === 'wait') return this.requests.hold(request);
    if (verdict instanceof IsthmusError) return this.abandon(request, verdict);
    if (request.deadlineAt !== 0) return this.#sendInTime(request);
    const { payload } = request;
    if (payload === undefined) return;
    request.payload = undefined;
    request.phase = Phase.SENT;
    request.writesBefore = this.outbox.writes;
    this.outbox.send(payload, request);
  }

  /** A deadline counts from the call: what is left of it is written anew. */
  #sendInTime(request: Request): void {
    const remainingMs = this.#deadlines.remainingMs(request);
    if (remainingMs !== undefined && remainingMs <= 0) {
      return this.abandon(request, expired(request));
    }
    const start = this.#encoder.begin(HEADER_BYTES);
    try {
      this.#encode(request, remainingMs);
    } catch (error) {
      this.#encoder.rewind(start);
      return this.abandon(request, asIsthmusError(error));
    }
    if (request.payload !== undefined) this.outbox.drop(request.payload);
    request.payload = undefined;
    this.#finish(request, start);
  }

  /** A model that requests wait for can be used now, or cannot. */
  recheck(): void {
    const failures = this.#models.takeFailures();
    const ready: Request[] = [];
    const held: Request[] = [];
    for (const request of this.requests.held) {
      const failed = handlesOf(request.params).find((handle) => failures.has(handle));
      const error = failed === undefined ? undefined : failures.get(failed);
      const verdict = error === undefined ? this.#look(request.params, held) : copyError(error);
      if (verdict === 'go') ready.push(request);
      else if (verdict === 'wait') held.push(request);
      else this.abandon(request, verdict);
    }
    this.requests.release(ready);
    this.admit();
  }

  /** The process ended: keep what the next one may answer, and settle the rest. */
  detach(end: ProcessEnd): void {
    const { writes, partlyWritten } = this.outbox;
    const all = this.requests.clear().filter(({ phase }) => phase !== Phase.SETTLED);
    this.outbox.detach();
    this.shut();
    const running: string[] = [];
    const kept: Request[] = [];
    const settled: (() => void)[] = [];
    for (const request of all) {
      const isSent = request.phase === Phase.SENT;
      const isWritten = isSent && request.writesBefore !== writes && !partlyWritten.has(request);
      if (isWritten && RUNS_MODEL.has(request.method)) running.push(String(request.params.model));
      const settlement = isSent ? this.#fate(request, isWritten, kept, end) : undefined;
      if (settlement === undefined) kept.push(request);
      else settled.push(settlement);
    }
    this.requests.restore(kept);
    this.#models.ended(end.hasCrashed, running);
    for (const settle of settled) settle();
  }

  /** How a request ends with its process; undefined when it is kept for the next one. */
  #fate(
    request: Request,
    isWritten: boolean,
    kept: readonly Request[],
    end: ProcessEnd,
  ): (() => void) | undefined {
    const settle = (tell: () => void) => (): void => {
      this.settle(request);
      tell();
    };
    if (!isWritten && request.isCancelSent) return settle(() => request.cancelUnsent());
    if (request.method === 'unload_model' && end.hasNext) {
      // The reference went with the process, unless it is restored for calls that came before.
      const [handle = ''] = handlesOf(request.params);
      if (kept.some(({ params }) => handlesOf(params).includes(handle)) && this.#requeue(request)) {
        return undefined;
      }
      return settle(() => request.succeed(this.#models.unloadedHere(handle)));
    }
    if (end.hasNext && this.#mayGoOn(request, isWritten) && this.#requeue(request)) {
      return undefined;
    }
    const error = end.makeError(isWritten, request.isDelivered);
    return settle(() => request.fail(error));
  }

  #mayGoOn(request: Request, isWritten: boolean): boolean {
    if (!isWritten) return true;
    if (!isRepeatable(request) || !this.budget.take(this.successes)) return false;
    request.replays++;
    return true;
  }

  /** Encode a request again, to wait; it fails as others do when its params have become impossible. */
  #requeue(request: Request): boolean {
    const start = this.#encoder.begin(HEADER_BYTES);
    try {
      this.#encode(request, this.#deadlines.remainingMs(request));
      request.payload = this.outbox.takeOut(start);
    } catch {
      this.#encoder.rewind(start);
      return false;
    }
    request.phase = Phase.WAITING;
    return true;
  }

  /** Reject what no process has seen. */
  rejectKept(makeError: () => IsthmusError): void {
    for (const request of this.requests.unsent) this.abandon(request, makeError());
  }

  /** Whether calls of a model wait here. */
  keepsCallsOf(handle: string): boolean {
    return this.requests.unsent.some(({ params }) => handlesOf(params).includes(handle));
  }

  /** Undo a request that the runtime has not seen, or not wholly. */
  #takeBack(request: Request): boolean {
    const { payload } = request;
    if (payload !== undefined) this.outbox.drop(payload);
    else if (!this.outbox.abandon(request)) return false;
    request.payload = undefined;
    this.requests.withdraw(request);
    if (payload === undefined) this.admit();
    return true;
  }

  #sendCancel(id: number): void {
    this.outbox.control((encoder) => writeCancel(encoder, id));
  }
}
