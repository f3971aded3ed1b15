/** What lanes have done, kept longer than the lanes themselves. */

import type { Flush } from './window.js';

/** Lanes that are remembered; the oldest goes first. */
const LANES_KEPT = 256;

/** Frames and calls of one operation with the same model and options. */
export class LaneStats {
  /** Requests sent. */
  frames = 0;
  /** Calls that they carried. */
  calls = 0;
  /** Most calls in one frame. */
  largest = 0;
  /** Frames by how many calls they carried, counted under the next power of two. */
  readonly sizes: Record<number, number> = {};
  /** Frames by why they left. */
  readonly reasons: Record<Flush, number> = {
    turn: 0,
    reply: 0,
    count: 0,
    bytes: 0,
    time: 0,
    close: 0,
  };
  /** Milliseconds that the first call of each frame was kept back. */
  readonly heldMs = { total: 0, max: 0 };

  /** Count one frame. */
  add(calls: number, reason: Flush, heldMs: number): void {
    this.frames++;
    this.calls += calls;
    this.largest = Math.max(this.largest, calls);
    const size = 2 ** Math.ceil(Math.log2(calls));
    this.sizes[size] = (this.sizes[size] ?? 0) + 1;
    this.reasons[reason]++;
    this.heldMs.total += heldMs;
    this.heldMs.max = Math.max(this.heldMs.max, heldMs);
  }
}

/** The statistics of all lanes, by what the lanes are for. */
export class StatsBook {
  readonly #lanes = new Map<string, LaneStats>();

  /** Find or begin the statistics of an operation on a model with these options. */
  of(method: string, model: string, options: Readonly<Record<string, unknown>>): LaneStats {
    const shown = Object.keys(options).length === 0 ? '' : ` ${JSON.stringify(options)}`;
    const label = `${method} ${model}${shown}`;
    let stats = this.#lanes.get(label);
    if (stats === undefined) {
      stats = new LaneStats();
      if (this.#lanes.size >= LANES_KEPT) {
        for (const [oldest] of this.#lanes) {
          this.#lanes.delete(oldest);
          break;
        }
      }
      this.#lanes.set(label, stats);
    }
    return stats;
  }

  /** All of them, as plain values of the caller's own. */
  toObject(): Record<string, LaneStats> {
    return structuredClone(Object.fromEntries(this.#lanes)) as Record<string, LaneStats>;
  }
}
