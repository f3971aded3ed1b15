/**
 * Which request ids are in use, and which requests wait for the runtime to have room.
 *
 * An id is taken from a 32-bit counter that wraps and skips ids in use. A request that was settled
 * here before the runtime answered keeps its id until that answer: a late reply must not reach a
 * newer request. A reply for any other id is counted and dropped. When the runtime ends, requests
 * that the next one may answer keep their ids and their order.
 *
 * Requests lie in an array at their id modulo its length, and an id whose place is taken is skipped
 * too. (A Map under this churn leaves a chain of outgrown tables behind that the young-generation
 * collector keeps alive: it took two thirds of the time of a busy host.)
 */

import { ID_LIMIT } from '../limits.js';
import type { Value } from '../wire/decoder.js';
import { Phase, type Request } from './request.js';

const FIRST_CAPACITY = 1_024;

export class RequestTable {
  /** Requests the runtime holds at once; more wait here. */
  limit: number;
  droppedReplies = 0;
  #places: (Request | undefined)[] = emptyPlaces(FIRST_CAPACITY);
  #mask = FIRST_CAPACITY - 1;
  #size = 0;
  /** Requests that leave as soon as there is room, in order. */
  #waiting = new Set<Request>();
  /** Requests that wait for something else than room, in order. */
  readonly #held = new Set<Request>();
  #next: number;

  constructor(limit: number, firstId = 0) {
    this.limit = limit;
    this.#next = firstId;
  }

  /** Whether the runtime may get one more request now. */
  get hasRoom(): boolean {
    return this.#waiting.size === 0 && this.#size - this.#held.size < this.limit;
  }

  /** Requests that wait for something else than room. */
  get held(): readonly Request[] {
    return [...this.#held];
  }

  /** All that no runtime has seen. */
  get unsent(): readonly Request[] {
    return [...this.#held, ...this.#waiting];
  }

  /** Return an id that no request uses. It is in use once a request with it is added. */
  takeId(): number {
    if (2 * this.#size >= this.#places.length) this.#grow();
    while (this.#places[this.#next & this.#mask] !== undefined) {
      this.#next = (this.#next + 1) % ID_LIMIT;
    }
    return this.#next;
  }

  /** Add a request with the id that was taken last; one that is held waits for more than room. */
  add(request: Request, isHeld = false): void {
    this.#places[request.id & this.#mask] = request;
    this.#size++;
    this.#next = (request.id + 1) % ID_LIMIT;
    if (request.phase === Phase.WAITING) (isHeld ? this.#held : this.#waiting).add(request);
  }

  /** The unsettled request with this id, whether the runtime has seen it or not. */
  peek(id: Value | undefined): Request | undefined {
    const request = typeof id === 'number' ? this.#places[id & this.#mask] : undefined;
    return request?.id === id && request?.phase !== Phase.SETTLED ? request : undefined;
  }

  /** The request that a delta is for. */
  find(id: number): Request | undefined {
    const request = this.#sent(id);
    return request?.phase === Phase.SENT ? request : undefined;
  }

  /** The runtime settled this id: free it, and return its request, settled here or not. */
  take(id: number): Request | undefined {
    const request = this.#sent(id);
    if (request !== undefined) this.#free(id);
    return request;
  }

  /** What the runtime knows by this id, settled here or not. */
  #sent(id: number): Request | undefined {
    const request = this.#places[id & this.#mask];
    if (request !== undefined && request.id === id && request.phase !== Phase.WAITING) {
      return request;
    }
    this.droppedReplies++;
    return undefined;
  }

  #free(id: number): void {
    this.#places[id & this.#mask] = undefined;
    this.#size--;
  }

  /** Forget a request that the runtime never saw. */
  withdraw(request: Request): void {
    this.#free(request.id);
    this.#waiting.delete(request);
    this.#held.delete(request);
  }

  /** Return the next waiting request when there is room for it. */
  admit(): Request | undefined {
    if (this.#waiting.size === 0) return undefined;
    const sent = this.#size - this.#waiting.size - this.#held.size;
    if (sent >= this.limit) return undefined;
    const [request] = this.#waiting;
    if (request !== undefined) this.#waiting.delete(request);
    return request;
  }

  /** Have a request wait for something else than room. */
  hold(request: Request): void {
    this.#waiting.delete(request);
    this.#held.add(request);
  }

  /** Have held requests wait for room alone, before those that do already. */
  release(requests: readonly Request[]): void {
    for (const request of requests) this.#held.delete(request);
    this.#waiting = new Set([...requests, ...this.#waiting]);
  }

  /** Forget and return all requests, oldest first. */
  clear(): Request[] {
    const requests = this.#places.filter((request) => request !== undefined);
    this.#places.fill(undefined);
    this.#size = 0;
    this.#waiting.clear();
    this.#held.clear();
    // Ids are given in order: the one that was given longest ago lies furthest behind the counter.
    const age = ({ id }: Request): number => (id - this.#next + ID_LIMIT) % ID_LIMIT;
    return requests.sort((one, other) => age(one) - age(other));
  }

  /** Take back requests in their order, each under the id that it had. */
  restore(requests: readonly Request[]): void {
    for (const request of requests) {
      this.#places[request.id & this.#mask] = request;
      this.#waiting.add(request);
    }
    this.#size += requests.length;
  }

  /** Double the places. Ids that differed modulo the old length differ modulo the new. */
  #grow(): void {
    const requests = this.#places.filter((request) => request !== undefined);
    this.#places = emptyPlaces(2 * this.#places.length);
    this.#mask = this.#places.length - 1;
    for (const request of requests) this.#places[request.id & this.#mask] = request;
  }
}

function emptyPlaces(count: number): (Request | undefined)[] {
  return new Array<Request | undefined>(count).fill(undefined);
}
