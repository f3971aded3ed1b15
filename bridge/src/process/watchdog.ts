/**
 * Whether a runtime that something is asked of still lives: pure decisions, the time passed in.
 *
 * A runtime is alive while it sends anything at all, so receipts are counted, not pongs. It is
 * unresponsive when it has sent nothing for `silenceMs` with a ping unanswered, or when its engine
 * is at work and has finished nothing for `stuckMs`; a long prompt finishes chunks and is neither.
 * A tick that comes late says that the host was blocked: what was silent meanwhile may lie unread
 * in the pipe, so counting begins anew. Twin: `isthmus/host/watchdog.py`.
 */

import {
  HEARTBEAT_INTERVAL_MS,
  HEARTBEAT_LATE_INTERVALS,
  HEARTBEAT_SILENCE_MS,
  HEARTBEAT_STUCK_MS,
} from '../limits.js';
import type { Value, WireMap } from '../wire/decoder.js';
import { isMap } from '../wire/messages.js';

export interface HeartbeatOptions {
  /** Between two looks. */
  readonly intervalMs: number;
  /** Without a byte, though pinged. */
  readonly silenceMs: number;
  /** At work without having finished anything. */
  readonly stuckMs: number;
}

export const DEFAULT_HEARTBEAT: HeartbeatOptions = {
  intervalMs: HEARTBEAT_INTERVAL_MS,
  silenceMs: HEARTBEAT_SILENCE_MS,
  stuckMs: HEARTBEAT_STUCK_MS,
};

/** Why a runtime is ended by the host. */
export interface Finding {
  readonly cause: 'silent' | 'engine_dead' | 'engine_stuck';
  readonly message: string;
}

export class Watchdog {
  readonly #options: HeartbeatOptions;
  #receipts = 0;
  #aliveAt = 0;
  #lastTick = 0;
  #isPingOut = false;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  /** Another process: nothing is known of it. */
  reset(): void {
    this.#isPingOut = false;
  }

  /** Something is asked of the runtime from now on. */
  begin(nowMs: number, receipts: number): void {
    this.#aliveAt = nowMs;
    this.#lastTick = nowMs;
    this.#receipts = receipts;
  }

  /** Look: `receipts` is how many reads there have been. Return what to do. */
  tick(nowMs: number, receipts: number): 'ping' | 'wait' | Finding {
    const { intervalMs, silenceMs } = this.#options;
    const isLate = nowMs - this.#lastTick > HEARTBEAT_LATE_INTERVALS * intervalMs;
    this.#lastTick = nowMs;
    if (isLate || receipts !== this.#receipts) {
      this.#receipts = receipts;
      this.#aliveAt = nowMs;
    } else if (this.#isPingOut && nowMs - this.#aliveAt >= silenceMs) {
      const silentMs = Math.round(nowMs - this.#aliveAt);
      return { cause: 'silent', message: `sent nothing for ${silentMs} ms` };
    }
    if (this.#isPingOut) return 'wait';
    this.#isPingOut = true;
    return 'ping';
  }

  /** The runtime answered a ping: return what is wrong with it. */
  pong(health: WireMap): Finding | undefined {
    this.#isPingOut = false;
    const engine = isMap(health.engine) ? health.engine : {};
    const { state, progress_age_ms: age } = engine;
    if (state === 'dead') return engineDead(undefined);
    if (state !== 'busy' || typeof age !== 'number' || age < this.#options.stuckMs) {
      return undefined;
    }
    const message = `has an engine that finished nothing for ${Math.round(age)} ms`;
    return { cause: 'engine_stuck', message };
  }

  /** How long nothing has come. */
  silentMs(nowMs: number, receipts: number): number {
    return receipts === this.#receipts ? Math.max(nowMs - this.#aliveAt, 0) : 0;
  }
}

/** What an engine's death means; `message` is what the runtime said of it. */
export function engineDead(message: Value | undefined): Finding {
  const why = typeof message === 'string' ? `: ${message}` : '';
  return { cause: 'engine_dead', message: `has an engine that died${why}` };
}
