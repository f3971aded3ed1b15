/**
 * What is said about the life of a runtime: the options of its supervisor, the steps that it tells
 * of, and how the runtime is.
 */

import type { Connection } from '../connection/connection.js';
import type { ConnectionOptions } from '../connection/events.js';
import type { ExitReport, IsthmusError } from '../errors.js';
import { HEALTH_ANSWER_MS } from '../limits.js';
import type { Value, WireMap } from '../wire/decoder.js';
import type { LifeState } from './life.js';
import { PatientTimer } from './patient-timer.js';
import type { RestartOptions } from './restart-policy.js';
import type { ProcessOptions } from './runtime-process.js';
import type { HeartbeatOptions } from './watchdog.js';

/** One step in the life of the runtime. */
export interface StateChange {
  readonly from: LifeState;
  readonly to: LifeState;
  /** Why, for a person. */
  readonly reason?: string;
  /** The error that calls get because of it. */
  readonly error?: IsthmusError;
  /** Which start since it last ran, counted from 1; 0 when none is meant. */
  readonly attempt: number;
  /** How long the next start is put off. */
  readonly delayMs?: number;
}

export interface SupervisorOptions extends ProcessOptions, ConnectionOptions {
  readonly restart: RestartOptions | false;
  readonly heartbeat: HeartbeatOptions | false;
  readonly onEvent?: ((name: string, payload: Value) => void) | undefined;
  readonly onState?: ((change: StateChange) => void) | undefined;
  /** From 0 up to 1. */
  readonly random?: (() => number) | undefined;
}

/** How the runtime is, as its host sees it. */
export interface SupervisedHealth {
  readonly state: LifeState;
  readonly isReady: boolean;
  readonly reason: string | null;
  readonly restarts: number;
  readonly lastExit: ExitReport | null;
  readonly silentMs: number | null;
  /** The runtime's own words; null when it gave none. */
  readonly runtime: WireMap | null;
}

/** Ask the runtime how it is; null when it does not say within a second. */
export async function askHealth(connection: Connection): Promise<WireMap | null> {
  const timer = new PatientTimer();
  const late = new Promise<null>((resolve) => {
    timer.set(() => resolve(null), HEALTH_ANSWER_MS, true);
  });
  const answer = connection.ping().catch(() => null);
  const first = await Promise.race([answer, late]);
  timer.clear();
  return first;
}
