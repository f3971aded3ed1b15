/** How a runtime is: what it says of itself, and what its host knows of it. */

import type { LaneStats } from './connection/lane-stats.js';
import type { ExitReport } from './errors.js';
import type { LifeState } from './process/life.js';
import type { Value } from './wire/decoder.js';
import { camelKeysDeep } from './wire/fields.js';
import { isMap, malformed } from './wire/messages.js';

/** What the runtime says of itself. */
export interface RuntimeHealth {
  readonly loopLagMs: number;
  readonly loopLagMaxMs: number;
  readonly engine: {
    readonly state: 'idle' | 'busy' | 'starting' | 'dead' | (string & {});
    readonly progressAgeMs: number | null;
  };
  readonly inFlight: number;
  readonly uptimeMs: number;
  readonly rssBytes: number;
}

/** How the runtime is, seen from its host. */
export interface Health {
  readonly state: LifeState;
  /** It runs, answers, and its engine is not dead. */
  readonly isReady: boolean;
  /** Why it is not ready; null when it is. */
  readonly reason: string | null;
  /** Processes that were begun after the first. */
  readonly restarts: number;
  /** How the last process that ended did so. */
  readonly lastExit: ExitReport | null;
  /** How long it has sent nothing; null while nothing is asked of it. */
  readonly silentMs: number | null;
  /** What the runtime says of itself; null when it does not answer. */
  readonly runtime: RuntimeHealth | null;
}

/** What the host has done to keep the runtime going. */
export interface SupervisionStats {
  readonly state: LifeState;
  readonly restarts: number;
  /** Requests that were sent again after their process had ended. */
  readonly replayed: number;
  /** Models that were loaded again for calls that named them. */
  readonly restored: number;
  /** Requests that were not sent again because the retry budget was used up. */
  readonly refusedByBudget: number;
  readonly budgetTokens: number;
}

/** Counters of both ends. */
export interface RuntimeStats {
  readonly [counter: string]: unknown;
  readonly calls: Readonly<Record<string, LaneStats>>;
  readonly supervision: SupervisionStats;
}

/** Read what the runtime says of itself. */
export function runtimeHealth(value: Value): RuntimeHealth {
  if (isMap(value)) return camelKeysDeep(value) as unknown as RuntimeHealth;
  throw malformed('a health report is no map');
}
