/**
 * Deadlines of requests: one sweep for all of them instead of a timer each.
 *
 * The runtime enforces a deadline and knows in which phase it passed; this is for the case that its
 * answer does not come. After the host's own event loop was blocked, replies that lie in the pipe
 * are read first: a request expires only after a turn in which nothing answered it.
 */

import { DEADLINE_GRACE_MS, DEADLINE_SWEEP_MS } from '../limits.js';
import { Phase, type Request } from './request.js';

export class Deadlines {
  /** In no order; each request knows its place. */
  readonly #watched: Request[] = [];
  readonly #expire: (request: Request) => void;
  readonly #clock: () => number;
  #timer: NodeJS.Timeout | undefined;
  #wakesAt = Number.POSITIVE_INFINITY;

  constructor(expire: (request: Request) => void, clock: () => number) {
    this.#expire = expire;
    this.#clock = clock;
  }

  add(request: Request, deadlineMs: number): void {
    const now = this.#clock();
    request.deadlineAt = now + deadlineMs + DEADLINE_GRACE_MS;
    request.deadlinePlace = this.#watched.push(request) - 1;
    if (request.deadlineAt < this.#wakesAt) this.#arm(request.deadlineAt, now);
  }

  remove(request: Request): void {
    const last = this.#watched.pop();
    if (last !== undefined && last !== request) {
      this.#watched[request.deadlinePlace] = last;
      last.deadlinePlace = request.deadlinePlace;
    }
    request.deadlineAt = 0;
    if (this.#watched.length === 0) this.#disarm();
  }

  /** What a request has left; undefined when it has no deadline. */
  remainingMs(request: Request): number | undefined {
    if (request.deadlineAt === 0) return undefined;
    return request.deadlineAt - DEADLINE_GRACE_MS - this.#clock();
  }

  #arm(at: number, now: number): void {
    clearTimeout(this.#timer);
    this.#wakesAt = at;
    const delay = Math.min(Math.max(at - now, DEADLINE_SWEEP_MS), LONGEST_TIMER_MS);
    this.#timer = setTimeout(() => setImmediate(this.#sweep), delay).unref();
  }

  #disarm(): void {
    clearTimeout(this.#timer);
    this.#wakesAt = Number.POSITIVE_INFINITY;
  }

  /** Runs after the turn's input has been read. */
  readonly #sweep = (): void => {
    const now = this.#clock();
    let next = Number.POSITIVE_INFINITY;
    for (const request of [...this.#watched]) {
      if (request.deadlineAt > now) next = Math.min(next, request.deadlineAt);
      else if (request.phase !== Phase.SETTLED) this.#expire(request);
    }
    if (this.#watched.length > 0) this.#arm(next, now);
  };
}

/** What setTimeout can hold; a later deadline is swept more than once. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
