/**
 * One stream: what has arrived and was not yet taken, and the credit that lets more arrive.
 *
 * Credit follows consumption: what the consumer has taken is granted back in halves of the window,
 * so that a producer never runs further ahead than the window. With `flow` the credit follows
 * arrival instead. Items that lie ready are handed out without waiting; order is that of arrival.
 */

import { AbortError, type IsthmusError } from '../errors.js';
import type { Value } from '../wire/decoder.js';
import { malformed } from '../wire/messages.js';
import { Phase, Request } from './request.js';

/** What a stream needs of its connection. */
export interface StreamControl {
  grant(request: Request, count: number): void;
  cancel(request: Request): void;
  abandon(request: Request, error: IsthmusError): void;
}

/** One delta: its items, and how much credit they took. */
interface Chunk<T> {
  readonly items: readonly T[];
  credit: number;
}

interface Waiter<T> {
  readonly resolve: (result: IteratorResult<T, undefined>) => void;
  readonly reject: (error: unknown) => void;
}

const DONE: IteratorReturnResult<undefined> = Object.freeze({ value: undefined, done: true });

export class TokenStream<T> extends Request {
  protected readonly control: StreamControl;
  readonly #unpack: (payload: Value, count: number) => readonly T[];
  readonly #window: number;
  /** Items the runtime may still send. */
  #credit: number;
  /** Credit that came back and was not granted yet. */
  #returned = 0;
  #chunks: Chunk<T>[] = [];
  /** The next item of the first chunk. */
  #index = 0;
  #waiters: Waiter<T>[] = [];
  #error: IsthmusError | undefined;
  #isFlowing = false;
  #isStopped = false;

  constructor(
    control: StreamControl,
    window: number,
    unpack: (payload: Value, count: number) => readonly T[],
  ) {
    super();
    this.control = control;
    this.#window = window;
    this.#credit = window;
    this.#unpack = unpack;
  }

  override deliver(count: number, payload: Value): void {
    if (count > this.#credit) throw malformed('a stream sends more than it was granted');
    this.#credit -= count;
    const items = this.#unpack(payload, count);
    if (this.#isFlowing || this.#isStopped) this.#giveBack(count);
    if (this.#isStopped) return;
    this.#chunks.push({ items, credit: this.#isFlowing ? 0 : count });
    while (this.#waiters.length > 0 && this.#chunks.length > 0) {
      this.#waiters.shift()?.resolve({ value: this.#take(), done: false });
    }
  }

  override succeed(_value: Value): void {
    for (const waiter of this.#waiters) waiter.resolve(DONE);
    this.#waiters = [];
  }

  override fail(error: IsthmusError): void {
    this.phase = Phase.SETTLED;
    const [first, ...others] = this.#waiters;
    if (first === undefined) this.#error = error;
    else first.reject(error);
    for (const waiter of others) waiter.resolve(DONE);
    this.#waiters = [];
  }

  /** The next item: at once when one lies ready; the error once, after the items before it. */
  next(): Promise<IteratorResult<T, undefined>> {
    if (this.#chunks.length > 0) return Promise.resolve({ value: this.#take(), done: false });
    if (this.#error !== undefined) {
      const error = this.#error;
      this.#error = undefined;
      return Promise.reject(error);
    }
    if (this.phase === Phase.SETTLED || this.#isStopped) return Promise.resolve(DONE);
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** The consumer takes nothing more: free what lies ready and have the producer stopped. */
  stop(): void {
    this.#isStopped = true;
    this.#chunks = [];
    this.#error = undefined;
    for (const waiter of this.#waiters) waiter.resolve(DONE);
    this.#waiters = [];
    if (this.phase !== Phase.SETTLED) this.stopProducer();
  }

  /** How the request ends when its consumer has left. */
  protected stopProducer(): void {
    this.control.abandon(this, new AbortError('CANCELLED', 'the stream was left by its consumer'));
  }

  /** Nobody can take anything more. */
  consumerCollected(): void {
    this.stop();
  }

  /** From now on grant credit as data arrives: someone waits for the end. */
  flow(): void {
    if (this.#isFlowing) return;
    this.#isFlowing = true;
    for (const chunk of this.#chunks) {
      this.#giveBack(chunk.credit);
      chunk.credit = 0;
    }
  }

  /** Take one item; there is one. */
  #take(): T {
    const chunk = this.#chunks[0] as Chunk<T>;
    const item = chunk.items[this.#index++] as T;
    if (this.#index >= chunk.items.length) {
      this.#index = 0;
      this.#chunks.shift();
      if (chunk.credit > 0) this.#giveBack(chunk.credit);
    }
    return item;
  }

  #giveBack(count: number): void {
    this.#returned += count;
    if (2 * this.#returned < this.#window || this.phase !== Phase.SENT) return;
    this.#credit += this.#returned;
    this.control.grant(this, this.#returned);
    this.#returned = 0;
  }
}

interface Collectable {
  consumerCollected(): void;
}

const collected = new FinalizationRegistry<Collectable>((stream) => stream.consumerCollected());

/** Have `stream` told when `consumer`, which must not be reachable from it, is garbage collected. */
export function watchCollection(consumer: object, stream: Collectable): void {
  collected.register(consumer, stream);
}

/** What `for await` holds: the stream ends when its loop does. */
export class StreamIterator<T> implements AsyncIterableIterator<T, undefined> {
  readonly #stream: TokenStream<T>;
  /** Kept reachable as long as the iterator is. */
  readonly owner: object;

  constructor(stream: TokenStream<T>, owner?: object) {
    this.#stream = stream;
    this.owner = owner ?? this;
  }

  next(): Promise<IteratorResult<T, undefined>> {
    return this.#stream.next();
  }

  return(): Promise<IteratorResult<T, undefined>> {
    this.#stream.stop();
    return Promise.resolve(DONE);
  }

  throw(error?: unknown): Promise<IteratorResult<T, undefined>> {
    this.#stream.stop();
    return Promise.reject(error);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#stream.stop();
    return Promise.resolve();
  }
}
