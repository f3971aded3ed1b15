/**
 * One connection to one runtime: requests out, replies in, each request settled exactly once.
 *
 * Is pushed what was read and writes to a pipe; it does not know that a process is behind them.
 * Replies are delivered inline; the requests of one turn leave in one write. After `fail`
 * everything pending is rejected and nothing is sent again.
 */

import type { Writable } from 'node:stream';
import { type IsthmusError, makeError } from '../errors.js';
import {
  IN_FLIGHT_LIMIT,
  MESSAGE_LIMIT_BYTES,
  PIECE_BYTES,
  QUEUED_LIMIT_BYTES,
} from '../limits.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { Encoder } from '../wire/encoder.js';
import {
  isMap,
  writeCancel,
  writeCredit,
  writeHello,
  writePing,
  writeRequest,
} from '../wire/messages.js';
import { type BatchOperation, singleParams } from './batch.js';
import { Deadlines } from './deadlines.js';
import {
  aborted,
  type ConnectionEvents,
  type ConnectionOptions,
  expired,
  unexpected,
} from './events.js';
import { checkVersion, peerLimits } from './hello.js';
import { asIsthmusError, Inbox, type InboxReceiver } from './inbox.js';
import type { Carrier, LaneKey } from './lane.js';
import type { LaneStats } from './lane-stats.js';
import { OpsMultiplexer } from './ops-multiplexer.js';
import { Outbox } from './outbox.js';
import { Pings } from './pings.js';
import { type AbortHandler, Call, type CallOptions, Phase, type Request } from './request.js';
import { RequestTable } from './request-table.js';

type Params = Readonly<Record<string, unknown>>;

const NO_OPTIONS: CallOptions = {};

export class Connection implements InboxReceiver, AbortHandler, Carrier {
  /** Events whose names this version does not know. */
  unknownEvents = 0;
  readonly #inbox = new Inbox(this);
  readonly #outbox: Outbox;
  readonly #requests = new RequestTable(IN_FLIGHT_LIMIT);
  readonly #deadlines: Deadlines;
  readonly #events: ConnectionEvents;
  readonly #pings = new Pings();
  readonly #multiplexer: OpsMultiplexer;
  readonly #isMultiplexed: boolean;
  #active = 0;
  #isOpen = false;
  #isBroken = false;
  #isDead = false;
  /** Why no new request is taken. */
  #refusal: (() => IsthmusError) | undefined;

  constructor(pipe: Writable, events: ConnectionEvents, options: ConnectionOptions = {}) {
    this.#events = events;
    const clock = options.clock ?? (() => performance.now());
    const encoder = new Encoder(MESSAGE_LIMIT_BYTES, options.loneSurrogates);
    const limits = {
      messageBytes: MESSAGE_LIMIT_BYTES,
      pieceBytes: PIECE_BYTES,
      queuedBytes: options.maxQueuedBytes ?? QUEUED_LIMIT_BYTES,
    };
    this.#multiplexer = new OpsMultiplexer(this, clock);
    this.#outbox = new Outbox(pipe, encoder, limits, this.#multiplexer.endTurn);
    this.#isMultiplexed = options.multiplex !== false;
    this.#deadlines = new Deadlines((request) => this.abandon(request, expired(request)), clock);
  }

  /** Replies for ids that no request uses: counted and dropped. */
  get droppedReplies(): number {
    return this.#requests.droppedReplies;
  }

  /** Bytes that wait for the runtime to read. */
  get queuedBytes(): number {
    return this.#outbox.queuedBytes;
  }

  /** Take what was read from the runtime. */
  push(chunk: Buffer): void {
    if (this.#isDead || this.#isBroken) return;
    try {
      this.#inbox.push(chunk);
    } catch (error) {
      this.#break(error);
    }
  }

  /** The input ended; the owner is told when that was inside a frame. */
  end(): void {
    if (this.#isDead || this.#isBroken) return;
    try {
      this.#inbox.end();
    } catch (error) {
      this.#break(error);
    }
  }

  /** Send a request that is answered by one value, which `convert` turns into the caller's. */
  call<T>(
    method: string,
    params: Params,
    convert: (value: Value) => T,
    options: CallOptions = NO_OPTIONS,
    onProgress?: (progress: WireMap) => void,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const call = new Call(convert, resolve, reject);
      if (onProgress !== undefined) call.onProgress = onProgress;
      this.send(call, method, params, options);
    });
  }

  /** Make a call of an operation that may share its frame with others of the same key. */
  callOne<Item, T>(
    operation: BatchOperation<Item, T>,
    item: Item,
    key: LaneKey,
    options: CallOptions = NO_OPTIONS,
  ): Promise<T> {
    if (this.#isMultiplexed) return this.#multiplexer.call(operation, item, key, options);
    const params = singleParams(operation, item, key.model, key.options);
    return this.call(operation.method, params, operation.convert, options);
  }

  /** What the calls that may share frames have done, by operation, model and options. */
  get laneStats(): Record<string, LaneStats> {
    return this.#multiplexer.stats;
  }

  /** Send the calls that collect, and wait until all before the next request has left, so that it
   * overtakes nothing. */
  async flushCalls(): Promise<void> {
    this.#multiplexer.flush();
    await this.#outbox.largeLeft();
  }

  /** Send a request; throws, and sends nothing, when it cannot be sent at all. */
  send(
    request: Request,
    method: string,
    params: Params,
    options: CallOptions,
    credit?: number,
  ): void {
    const { signal, deadlineMs } = options;
    this.checkOpen();
    if (signal?.aborted) throw aborted(signal);
    request.id = this.#requests.takeId();
    this.#write(request, method, params, deadlineMs, credit);
    this.#requests.add(request);
    if (signal !== undefined) request.watch(signal, this);
    if (deadlineMs !== undefined) this.#deadlines.add(request, deadlineMs);
    this.#begin();
  }

  #write(
    request: Request,
    method: string,
    params: Params,
    deadlineMs: number | undefined,
    credit: number | undefined,
  ): void {
    const start = this.#outbox.begin();
    try {
      writeRequest(this.#outbox.encoder, request.id, method, params, deadlineMs, credit);
      if (this.#requests.hasRoom) {
        this.#outbox.finish(start, request);
        request.phase = Phase.SENT;
      } else {
        request.payload = this.#outbox.takeOut(start);
      }
    } catch (error) {
      this.#outbox.encoder.rewind(start);
      throw error;
    }
  }

  /** Ask the runtime to stop a request; it settles by the runtime's answer. */
  cancel(request: Request): void {
    if (request.phase === Phase.SETTLED || request.isCancelSent) return;
    request.isCancelSent = true;
    if (this.#takeBack(request)) {
      this.#settle(request);
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
    this.#settle(request);
    request.fail(error);
  }

  /** The caller's signal fired. */
  abort(request: Request): void {
    this.abandon(request, aborted(request.signal));
  }

  /** Let a stream send `count` more items. */
  grant(request: Request, count: number): void {
    if (this.#isDead || request.phase !== Phase.SENT || request.isCancelSent) return;
    this.#outbox.control((encoder) => writeCredit(encoder, request.id, count));
  }

  /** Ask for the runtime's health, past every queue. */
  ping(): Promise<WireMap> {
    return new Promise((resolve, reject) => {
      this.checkOpen();
      const nonce = this.#pings.add(resolve, reject);
      this.#outbox.control((encoder) => writePing(encoder, nonce));
      this.#begin();
    });
  }

  /** Take no new request, for `reason`; those that were made go on. */
  refuse(reason: () => IsthmusError): void {
    if (this.#refusal !== undefined) return;
    this.#multiplexer.flush();
    this.#refusal = reason;
  }

  writeNow(): void {
    this.#outbox.writeNow();
  }

  wakeAtTurnEnd(): void {
    this.#outbox.wake();
  }

  hold(isHolding: boolean): void {
    if (isHolding) this.#begin();
    else this.#finish();
  }

  /** Close the pipe to the runtime once what waits has been written. */
  endOutput(): void {
    this.#outbox.end();
  }

  /** Reject everything pending, each with an error of its own, and forget the connection. */
  fail(makeError: (isSent: boolean) => IsthmusError): void {
    if (this.#isDead) return;
    this.#isDead = true;
    this.#refusal ??= () => makeError(false);
    this.#outbox.close();
    this.#multiplexer.fail(() => makeError(false));
    for (const request of this.#requests.clear()) {
      if (request.phase === Phase.SETTLED) continue;
      const error = makeError(request.phase === Phase.SENT);
      this.#settle(request);
      request.fail(error);
    }
    const pings = this.#pings.fail(() => makeError(true));
    for (let ping = 0; ping < pings; ping++) this.#finish();
  }

  onHello(hello: WireMap): void {
    if (this.#isOpen) throw unexpected('a second hello');
    checkVersion(hello);
    const { messageBytes, pieceBytes, inFlight } = peerLimits(hello);
    this.#outbox.limits = { ...this.#outbox.limits, messageBytes, pieceBytes };
    this.#requests.limit = inFlight;
    this.#outbox.control(writeHello);
    this.#isOpen = true;
    this.#events.onHello(hello);
  }

  onResult(id: number, value: Value): void {
    this.#answered(id)?.succeed(value);
  }

  onError(id: number | null, error: IsthmusError): void {
    if (id === null) throw error;
    if (error.details.duplicate === true) this.#requests.droppedReplies++;
    else this.#answered(id)?.fail(error);
  }

  onUnreadable(id: number, isFinal: boolean, error: IsthmusError): void {
    if (isFinal) return this.onError(id, error);
    const request = this.#requests.find(id);
    if (request !== undefined) this.abandon(request, error);
  }

  onDelta(id: number, count: number, payload: Value): void {
    const request = this.#requests.find(id);
    if (request === undefined) return;
    try {
      request.deliver(count, payload);
    } catch (error) {
      this.abandon(request, asIsthmusError(error));
    }
  }

  onEvent(name: string, payload: Value): void {
    if (name === 'progress' && isMap(payload)) {
      this.#requests.peek(payload.request)?.onProgress?.(payload);
    } else if (name !== 'closing') {
      this.unknownEvents++;
    }
    this.#events.onEvent(name, payload);
  }

  onPong(nonce: Value, health: WireMap): void {
    if (this.#pings.answer(nonce, health)) this.#finish();
    else this.#requests.droppedReplies++;
  }

  /** There is no resynchronisation: read nothing more. */
  #break(error: unknown): void {
    const reason = asIsthmusError(error);
    this.#isBroken = true;
    const { code, message, details } = reason;
    this.refuse(() => makeError(code, message, { details, cause: reason }));
    this.#events.onBroken(reason);
  }

  /** Throw when no request is taken. */
  checkOpen(): void {
    if (this.#refusal !== undefined) throw this.#refusal();
    if (!this.#isOpen) throw unexpected('a request before the hello');
  }

  /** The runtime settled `id`; return its request if that still waits for an answer. */
  #answered(id: number): Request | undefined {
    const request = this.#requests.take(id);
    if (request !== undefined) this.#settle(request);
    this.#admit();
    return request;
  }

  /** The request has its answer, or is about to get it. */
  #settle(request: Request): void {
    request.phase = Phase.SETTLED;
    if (request.signal !== undefined) request.unwatch();
    if (request.deadlineAt !== 0) this.#deadlines.remove(request);
    this.#finish();
  }

  #begin(): void {
    if (this.#active++ === 0) this.#events.onBusy(true);
  }

  #finish(): void {
    if (--this.#active === 0) this.#events.onBusy(false);
  }

  /** Send the requests for which the runtime has room now. */
  #admit(): void {
    for (let next = this.#requests.admit(); next; next = this.#requests.admit()) {
      const { payload } = next;
      if (payload === undefined) continue;
      next.payload = undefined;
      next.phase = Phase.SENT;
      this.#outbox.send(payload, next);
    }
  }

  /** Undo a request that the runtime has not seen, or not wholly. */
  #takeBack(request: Request): boolean {
    const { payload } = request;
    if (payload !== undefined) this.#outbox.drop(payload);
    else if (!this.#outbox.abandon(request)) return false;
    request.payload = undefined;
    this.#requests.withdraw(request);
    this.#admit();
    return true;
  }

  #sendCancel(id: number): void {
    this.#outbox.control((encoder) => writeCancel(encoder, id));
  }
}
