/**
 * Whether an ended process is begun again, and after how long: pure, the same in both languages.
 *
 * At most `limit` restarts begin within `windowMs`, as with Erlang's supervisors; the wait before
 * each is drawn from 0 up to a backoff that doubles with every process that ended before it had
 * lived `healthyMs` (full jitter). A hello alone resets nothing. Twin:
 * `isthmus/host/restarts.py`; shared cases: `tests/vectors/restarts.json`.
 */

import {
  RESTART_BACKOFF_MS,
  RESTART_HEALTHY_MS,
  RESTART_LIMIT,
  RESTART_MAX_BACKOFF_MS,
  RESTART_WINDOW_MS,
} from '../limits.js';

export interface RestartOptions {
  /** Restarts that may begin within the window, and ends in a row of processes that never became
   * healthy. */
  readonly limit: number;
  readonly windowMs: number;
  readonly backoffMs: number;
  readonly maxBackoffMs: number;
  /** How long a process must live after its hello for its end to begin a new count. */
  readonly healthyMs: number;
}

export const DEFAULT_RESTARTS: RestartOptions = {
  limit: RESTART_LIMIT,
  windowMs: RESTART_WINDOW_MS,
  backoffMs: RESTART_BACKOFF_MS,
  maxBackoffMs: RESTART_MAX_BACKOFF_MS,
  healthyMs: RESTART_HEALTHY_MS,
};

export class RestartPolicy {
  readonly #options: RestartOptions;
  readonly #random: () => number;
  /** When the restarts of the window began. */
  #began: number[] = [];
  /** Ends in a row of processes that had not become healthy. */
  #unhealthyEnds = 0;

  /** `random` gives numbers from 0 up to 1. */
  constructor(options: RestartOptions, random: () => number) {
    this.#options = options;
    this.#random = random;
  }

  /** A process ended that had lived so long since its hello, 0 if it said none: return how long to
   * wait before the next, or undefined to give up. */
  next(nowMs: number, healthyForMs: number): number | undefined {
    const { limit, windowMs, backoffMs, maxBackoffMs, healthyMs } = this.#options;
    const isHealthy = healthyForMs >= healthyMs;
    const before = isHealthy ? 0 : this.#unhealthyEnds;
    this.#unhealthyEnds = isHealthy ? 0 : before + 1;
    this.#began = this.#began.filter((began) => nowMs - began < windowMs);
    if (this.#began.length >= limit || this.#unhealthyEnds > limit) return undefined;
    this.#began.push(nowMs);
    return this.#random() * Math.min(backoffMs * 2 ** before, maxBackoffMs);
  }

  /** Forget everything: someone asked for a restart. */
  clear(): void {
    this.#began = [];
    this.#unhealthyEnds = 0;
  }
}
