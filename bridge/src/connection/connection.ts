/**
 * The one connection of a runtime object: requests out, replies in, each request settled exactly
 * once, whichever process answers it.
 *
 *      detached ──attach(pipe)──► greeting ──hello──► open ──detach(end)──► detached ──► …
 *
 * Is pushed what a process writes and writes to its pipe; it does not know when processes begin and
 * why they end. Replies are delivered inline; the requests of one turn leave in one write. While
 * detached, requests wait; after `refuse` none is taken.
 */

import type { Writable } from 'node:stream';
import type { IsthmusError } from '../errors.js';
import { MESSAGE_LIMIT_BYTES, PIECE_BYTES, QUEUED_LIMIT_BYTES } from '../limits.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { Encoder } from '../wire/encoder.js';
import { isMap, writeHello, writePing } from '../wire/messages.js';
import { type BatchOperation, singleParams } from './batch.js';
import {
  aborted,
  type ConnectionEvents,
  type ConnectionOptions,
  KNOWN_EVENTS,
  type ProcessEnd,
  unexpected,
} from './events.js';
import { Exchange } from './exchange.js';
import { checkVersion, peerLimits } from './hello.js';
import { asIsthmusError, type InboxReceiver } from './inbox.js';
import type { Carrier, LaneKey } from './lane.js';
import type { LaneStats } from './lane-stats.js';
import { Link } from './link.js';
import { ModelRegistry, Restoring } from './model-registry.js';
import { OpsMultiplexer } from './ops-multiplexer.js';
import { Pings } from './pings.js';
import type { KeptCounters } from './replay.js';
import { Call, type CallOptions, type Params, Phase, type Request } from './request.js';
import { Unloading } from './unloading.js';

const NO_OPTIONS: CallOptions = {};

export class Connection implements InboxReceiver, Carrier {
  /** Events whose names this version does not know. */
  unknownEvents = 0;
  /** Which models are loaded, under which handles. */
  readonly models: ModelRegistry;
  readonly #exchange: Exchange;
  readonly #events: ConnectionEvents;
  readonly #pings = new Pings();
  readonly #multiplexer: OpsMultiplexer;
  readonly #isMultiplexed: boolean;
  #link: Link | undefined;
  /** A hello was read, of this process or an earlier one. */
  #wasOpen = false;
  /** The present process has said hello. */
  #isOpen = false;
  /** Why no new request is taken. */
  #refusal: (() => IsthmusError) | undefined;
  /** Why there is no process. */
  #absence: () => IsthmusError = () => unexpected('a request before the hello');

  constructor(events: ConnectionEvents, options: ConnectionOptions = {}) {
    this.#events = events;
    const clock = options.clock ?? (() => performance.now());
    const encoder = new Encoder(MESSAGE_LIMIT_BYTES, options.loneSurrogates);
    const limits = {
      messageBytes: MESSAGE_LIMIT_BYTES,
      pieceBytes: PIECE_BYTES,
      queuedBytes: options.maxQueuedBytes ?? QUEUED_LIMIT_BYTES,
    };
    this.models = new ModelRegistry(
      (params, onLoaded, onFailed) =>
        this.send(new Restoring(onLoaded, onFailed), 'load_model', params, NO_OPTIONS),
      () => this.#exchange.recheck(),
    );
    this.#multiplexer = new OpsMultiplexer(this, clock);
    const onTurnEnd = this.#multiplexer.endTurn;
    const { onBusy } = events;
    this.#exchange = new Exchange({
      encoder,
      limits,
      clock,
      models: this.models,
      onTurnEnd,
      onBusy,
    });
    this.#isMultiplexed = options.multiplex !== false;
  }

  /** Replies for ids that no request uses: counted and dropped. */
  get droppedReplies(): number {
    return this.#exchange.requests.droppedReplies;
  }

  /** Bytes that wait for a runtime to read. */
  get queuedBytes(): number {
    return this.#exchange.outbox.queuedBytes;
  }

  /** Whether anything is pending that a process must answer. */
  get isBusy(): boolean {
    return this.#exchange.isBusy;
  }

  get kept(): KeptCounters {
    const { budget, successes } = this.#exchange;
    return {
      replayed: budget.replayed,
      restored: this.models.restored,
      refusedByBudget: budget.refused,
      budgetTokens: budget.tokens(successes),
    };
  }

  /** What the calls that may share frames have done, by operation, model and options. */
  get laneStats(): Record<string, LaneStats> {
    return this.#multiplexer.stats;
  }

  /** A process begins, whose input is `pipe`; what it writes is to be pushed into the link. */
  attach(pipe: Writable): Link {
    const link = new Link(this, (error) => this.#break(error));
    this.#link = link;
    this.#exchange.attach(pipe);
    return link;
  }

  /** The process has ended or can no longer be talked to: keep the requests that the next one may
   * answer, and settle the others. */
  detach(end: ProcessEnd): void {
    if (this.#link === undefined) return;
    this.#link.cut();
    this.#link = undefined;
    this.#isOpen = false;
    this.#absence = () => end.makeError(false, false);
    this.#exchange.detach(end);
    const pings = this.#pings.fail(() => end.makeError(true, false));
    for (let ping = 0; ping < pings; ping++) this.#exchange.finish();
  }

  /** Send the process nothing more: it is about to go. What is made from now on waits. */
  shut(): void {
    this.#exchange.shut();
  }

  /** Take no new request, for `reason`; those that were made go on. */
  refuse(reason: () => IsthmusError): void {
    this.#multiplexer.flush();
    this.#refusal = reason;
  }

  /** Take requests again. */
  accept(): void {
    this.#refusal = undefined;
  }

  /** Reject what no process has seen, each with an error of its own. */
  rejectKept(makeError: () => IsthmusError): void {
    this.#multiplexer.fail(makeError);
    this.#exchange.rejectKept(makeError);
  }

  /** Send a request that is answered by one value, which `convert` turns into the caller's. */
  call<T>(
    method: string,
    params: Params,
    convert: (value: Value) => T,
    options: CallOptions = NO_OPTIONS,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.send(new Call(convert, resolve, reject), method, params, options);
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

  /** Give a reference to a model back, behind the calls that were made before. A model that went
   * with its process, and that no call waits for, is given back here alone. */
  async unload(
    handle: string,
    params: Params,
    options: CallOptions = NO_OPTIONS,
  ): Promise<WireMap> {
    this.#multiplexer.flush();
    await this.#exchange.outbox.largeLeft();
    return new Promise((resolve, reject) => {
      const unloading = new Unloading(this.models, handle, resolve, reject);
      if (this.models.isGone(handle) && !this.#exchange.keepsCallsOf(handle)) {
        return unloading.succeedHere();
      }
      try {
        this.send(unloading, 'unload_model', { model: handle, ...params }, options);
      } catch (error) {
        unloading.fail(asIsthmusError(error));
      }
    });
  }

  /** Send a request; throws, and sends nothing, when it cannot be sent at all. */
  send(
    request: Request,
    method: string,
    params: Params,
    options: CallOptions,
    credit?: number,
  ): void {
    this.checkOpen();
    if (options.signal?.aborted) throw aborted(options.signal);
    this.#exchange.send(request, method, params, options, credit);
  }

  /** Ask the runtime to stop a request; it settles by the runtime's answer. */
  cancel(request: Request): void {
    this.#exchange.cancel(request);
  }

  /** Settle a request now, without the runtime's answer, and have it stopped there. */
  abandon(request: Request, error: IsthmusError): void {
    this.#exchange.abandon(request, error);
  }

  /** Let a stream send `count` more items. */
  grant(request: Request, count: number): void {
    this.#exchange.grant(request, count);
  }

  /** Ask for the runtime's health, past every queue. Rejects when there is no process to ask. */
  ping(): Promise<WireMap> {
    return new Promise((resolve, reject) => {
      this.checkOpen();
      if (!this.#isOpen) throw this.#absence();
      this.#sendPing(this.#pings.add(resolve, reject));
      this.#exchange.begin();
    });
  }

  /** Ask for the runtime's health without anything being pending for it. */
  probe(onHealth: (health: WireMap) => void): void {
    if (this.#isOpen) this.#sendPing(this.#pings.addProbe(onHealth));
  }

  #sendPing(nonce: number): void {
    this.#exchange.outbox.control((encoder) => writePing(encoder, nonce));
  }

  writeNow(): void {
    this.#exchange.outbox.writeNow();
  }

  wakeAtTurnEnd(): void {
    this.#exchange.outbox.wake();
  }

  hold(isHolding: boolean): void {
    if (isHolding) this.#exchange.begin();
    else this.#exchange.finish();
  }

  /** Close the pipe to the runtime once what waits to be written has been. */
  endOutput(): void {
    this.#exchange.outbox.end();
  }

  onHello(hello: WireMap): void {
    if (this.#isOpen) throw unexpected('a second hello');
    checkVersion(hello);
    this.#exchange.outbox.control(writeHello);
    this.#wasOpen = true;
    this.#isOpen = true;
    this.#events.onHello(hello);
    this.#exchange.open(peerLimits(hello));
  }

  onResult(id: number, value: Value): void {
    const exchange = this.#exchange;
    const request = exchange.requests.take(id);
    if (request?.phase === Phase.SENT) {
      exchange.successes++;
      exchange.settle(request);
      exchange.admit();
      request.succeed(value);
    } else {
      exchange.admit();
      request?.succeedLate(value);
    }
  }

  onError(id: number | null, error: IsthmusError): void {
    if (id === null) throw error;
    const exchange = this.#exchange;
    if (error.details.duplicate === true) {
      exchange.requests.droppedReplies++;
      return;
    }
    const request = exchange.requests.take(id);
    const isPending = request?.phase === Phase.SENT;
    if (isPending) exchange.settle(request);
    exchange.admit();
    if (isPending) request.fail(error);
  }

  onUnreadable(id: number, isFinal: boolean, error: IsthmusError): void {
    if (isFinal) return this.onError(id, error);
    const request = this.#exchange.requests.find(id);
    if (request !== undefined) this.abandon(request, error);
  }

  onDelta(id: number, count: number, payload: Value): void {
    const request = this.#exchange.requests.find(id);
    if (request === undefined) return;
    try {
      request.isDelivered = true;
      request.deliver(count, payload);
    } catch (error) {
      this.abandon(request, asIsthmusError(error));
    }
  }

  onEvent(name: string, payload: Value): void {
    if (name === 'progress' && isMap(payload)) {
      this.#exchange.requests.peek(payload.request)?.onProgress?.(payload);
    } else if (!KNOWN_EVENTS.has(name)) {
      this.unknownEvents++;
    }
    this.#events.onEvent(name, payload);
  }

  onPong(nonce: Value, health: WireMap): void {
    const answered = this.#pings.answer(nonce, health);
    if (answered === 'ping') this.#exchange.finish();
    else if (answered === 'nothing') this.#exchange.requests.droppedReplies++;
  }

  /** There is no resynchronisation: read nothing more, and write nothing more. */
  #break(error: IsthmusError): void {
    this.#exchange.shut();
    this.#events.onBroken(error);
  }

  /** Throw when no request is taken. */
  checkOpen(): void {
    if (this.#refusal !== undefined) throw this.#refusal();
    if (!this.#wasOpen) throw this.#absence();
  }
}
