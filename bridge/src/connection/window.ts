/**
 * When collected calls go: a pure controller, the same in both languages.
 *
 * One window stands for one key (method, model, options). It counts; the calls themselves are kept
 * by the multiplexer, which asks it at each event. It never holds a call while nothing of its key is
 * in flight. Twin: `isthmus/multiplex/window.py`; shared cases: `tests/vectors/window.json`.
 *
 *     nothing in flight   a batch leaves at the end of the turn of the event loop that began it
 *     a batch in flight   calls collect until it is answered, the batch is full, or time is up
 *
 * Time is up after as long as batches of this key took lately, at most `holdLimitMs`.
 */

import { BATCH_BYTES, BATCH_CALLS, HOLD_FLOOR_MS, HOLD_LIMIT_MS } from '../limits.js';

/** Why a batch left. */
export type Flush =
  /** Nothing was in flight: it left with its turn. */
  | 'turn'
  /** What was in flight has been answered. */
  | 'reply'
  | 'count'
  | 'bytes'
  | 'time'
  /** The connection is about to end. */
  | 'close';

export interface WindowLimits {
  readonly calls: number;
  readonly sizeBytes: number;
  readonly holdLimitMs: number;
  readonly holdFloorMs: number;
}

const DEFAULT_LIMITS: WindowLimits = {
  calls: BATCH_CALLS,
  sizeBytes: BATCH_BYTES,
  holdLimitMs: HOLD_LIMIT_MS,
  holdFloorMs: HOLD_FLOOR_MS,
};

/** Weight of the latest batch in the average duration. */
const LEARNING_RATE = 0.25;

export class Window {
  /** Calls that collect. */
  calls = 0;
  /** What they carry. */
  sizeBytes = 0;
  /** When the first of them came. */
  openedAt = 0;
  /** Batches of this key that are not answered. */
  inFlight = 0;
  readonly #clock: () => number;
  readonly #limits: WindowLimits;
  #averageMs: number | undefined;
  #isHeld = false;

  /** `clock` gives milliseconds that never go back. */
  constructor(clock: () => number, limits: WindowLimits = DEFAULT_LIMITS) {
    this.#clock = clock;
    this.#limits = limits;
  }

  /** Whether nothing collects and nothing is in flight. */
  get isIdle(): boolean {
    return this.calls === 0 && this.inFlight === 0;
  }

  /** When what collects must leave, answered or not. */
  get dueAt(): number {
    const { holdLimitMs, holdFloorMs } = this.#limits;
    const average = this.#averageMs ?? holdLimitMs;
    return this.openedAt + Math.min(Math.max(average, holdFloorMs), holdLimitMs);
  }

  /** How long the first of the collected calls has been kept back; 0 within its own turn. */
  get heldMs(): number {
    return this.#isHeld ? this.#clock() - this.openedAt : 0;
  }

  /** Why what has collected must leave before a call of this size joins. */
  before(sizeBytes: number): Flush | undefined {
    const isOver = this.calls > 0 && this.sizeBytes + sizeBytes > this.#limits.sizeBytes;
    return isOver ? 'bytes' : undefined;
  }

  /** Take one call; return why the batch must leave now, if it must. */
  join(sizeBytes: number): Flush | undefined {
    if (this.calls === 0) {
      this.openedAt = this.#clock();
      this.#isHeld = this.inFlight > 0;
    }
    this.calls++;
    this.sizeBytes += sizeBytes;
    if (this.calls >= this.#limits.calls) return 'count';
    return this.sizeBytes >= this.#limits.sizeBytes ? 'bytes' : undefined;
  }

  /** Forget one call that collects: its caller gave up. */
  leave(sizeBytes: number): void {
    this.calls--;
    this.sizeBytes -= sizeBytes;
  }

  /** Why the batch leaves with this turn of the event loop; undefined while it is held. */
  endTurn(): Flush | undefined {
    if (this.calls === 0) return undefined;
    if (this.inFlight === 0) return this.#isHeld ? 'reply' : 'turn';
    if (this.#clock() >= this.dueAt) return 'time';
    this.#isHeld = true;
    return undefined;
  }

  /** What collected has left as one batch. */
  sent(): void {
    this.calls = 0;
    this.sizeBytes = 0;
    this.inFlight++;
  }

  /** A batch was answered after so long, or ended without an answer (undefined). */
  settled(tookMs: number | undefined): void {
    this.inFlight--;
    if (tookMs === undefined) return;
    const average = this.#averageMs;
    this.#averageMs = average === undefined ? tookMs : average + LEARNING_RATE * (tookMs - average);
  }
}
